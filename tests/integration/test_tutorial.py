"""`model=tutorial attention=tutorial init=torch` is the model of a popular tutorial.

The tutorial's model is written here from its description, in torch's own classes.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from mha_ablate.build import counted_cost, model_of
from mha_ablate.config.catalog import choice_names
from mha_ablate.config.compose import compose
from mha_ablate.config.schema import RunConfig
from mha_ablate.cost.count import forward_flops
from mha_ablate.errors import RequestError
from mha_ablate.model.cache import Past
from mha_ablate.model.generate import continuation
from mha_ablate.model.gpt import GPT
from mha_ablate.run.folder import RunFolder
from mha_ablate.study.export import misfits
from mha_ablate.study.trained import Trained, load
from tests.conftest import SMALL, Cli

VOCAB, EMBED, HEADS, LAYERS, CONTEXT, EXPANSION = 13, 16, 4, 2, 8, 4
SIZES = (f"model.d_model={EMBED}", f"model.n_layers={LAYERS}", f"model.context={CONTEXT}", "trainer.device=cpu")
TUTORIAL = ("model=tutorial", "attention=tutorial")
EXACT = 1e-10

# ---- the tutorial's model


class SelfAttention(nn.Module):
    """Three maps of head_dim channels, each shared by all heads; head h reads slice h of the embedding."""

    def __init__(self, embed_size: int, heads: int) -> None:
        super().__init__()
        self.embed_size, self.heads, self.head_dim = embed_size, heads, embed_size // heads
        self.values = nn.Linear(self.head_dim, self.head_dim, bias=False)
        self.keys = nn.Linear(self.head_dim, self.head_dim, bias=False)
        self.queries = nn.Linear(self.head_dim, self.head_dim, bias=False)
        self.fc_out: nn.Module = nn.Linear(heads * self.head_dim, embed_size)

    def forward(self, value: Tensor, key: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        n, value_len, key_len, query_len = query.shape[0], value.shape[1], key.shape[1], query.shape[1]
        v = self.values(value.reshape(n, value_len, self.heads, self.head_dim))
        k = self.keys(key.reshape(n, key_len, self.heads, self.head_dim))
        q = self.queries(query.reshape(n, query_len, self.heads, self.head_dim))
        energy = torch.einsum("nqhd,nkhd->nhqk", q, k).masked_fill(mask == 0, -1e20)
        attention = torch.softmax(energy / math.sqrt(self.embed_size), dim=3)
        heads = torch.einsum("nhqk,nkhd->nqhd", attention, v)
        return self.fc_out(heads.reshape(n, query_len, self.heads * self.head_dim))


class TransformerBlock(nn.Module):
    def __init__(self, embed_size: int, heads: int, dropout: float, forward_expansion: int) -> None:
        super().__init__()
        self.attention = SelfAttention(embed_size, heads)
        self.norm1, self.norm2 = nn.LayerNorm(embed_size), nn.LayerNorm(embed_size)
        self.up = nn.Linear(embed_size, forward_expansion * embed_size)
        self.down = nn.Linear(forward_expansion * embed_size, embed_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, value: Tensor, key: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        x = self.dropout(self.norm1(self.attention(value, key, query, mask) + query))
        forward = self.down(torch.relu(self.up(x)))
        return self.dropout(self.norm2(forward + x))


class Tutorial(nn.Module):
    """Its blocks under a causal mask, and its output layer."""

    def __init__(self, heads: int = HEADS, dropout: float = 0.0, embed_size: int = EMBED) -> None:
        super().__init__()
        self.word_embedding = nn.Embedding(VOCAB, embed_size)
        self.position_embedding = nn.Embedding(CONTEXT, embed_size)
        self.layers = nn.ModuleList(TransformerBlock(embed_size, heads, dropout, EXPANSION) for _ in range(LAYERS))
        self.dropout = nn.Dropout(dropout)
        self.fc_out = nn.Linear(embed_size, VOCAB)

    @property
    def blocks(self) -> list[TransformerBlock]:
        return [cast(TransformerBlock, block) for block in self.layers]

    def forward(self, ids: Tensor) -> Tensor:
        n, length = ids.shape
        positions = torch.arange(length).expand(n, length)
        mask = torch.tril(torch.ones(length, length)).expand(n, 1, length, length)
        out = self.dropout(self.word_embedding(ids) + self.position_embedding(positions))
        for layer in self.layers:
            out = layer(out, out, out, mask)
        return self.fc_out(out)


def as_ours(theirs: Tutorial, of: Callable[[Tensor], Tensor] = Tensor.detach) -> dict[str, Tensor]:
    """`of` each of the tutorial's parameters by the names of ours, the three maps of attention as one."""
    found: dict[str, Tensor] = {"tokens.weight": of(theirs.word_embedding.weight)}
    found["positions.weight"] = of(theirs.position_embedding.weight)
    for i, block in enumerate(theirs.blocks):
        own, maps = f"blocks.{i}", block.attention
        parts = [of(part.weight) for part in (maps.queries, maps.keys, maps.values)]
        found[f"{own}.attention.qkv.map.weight"] = torch.cat(parts)
        pairs = {"attention.fc_out.map": maps.fc_out, "norm_attention": block.norm1, "norm_mlp": block.norm2}
        pairs |= {"mlp.up": block.up, "mlp.down": block.down}
        for name, module in pairs.items():
            found |= {f"{own}.{name}.{key}": of(p) for key, p in module.named_parameters()}
    return found | {f"output.{key}": of(p) for key, p in theirs.fc_out.named_parameters()}


def config_of(*words: str, heads: int = HEADS) -> RunConfig:
    return compose([*TUTORIAL, "init=torch", "fc_out=dense", *SIZES, f"model.n_heads={heads}", *words]).config


@torch.no_grad()
def tutorial(heads: int = HEADS, dropout: float = 0.0) -> Tutorial:
    """In float64, its norms away from where they start."""
    torch.manual_seed(heads)
    model = Tutorial(heads, dropout).double()
    for block in model.blocks:
        for p in (*block.norm1.parameters(), *block.norm2.parameters()):
            p += 0.3 * torch.randn_like(p)
    return model.eval()


def ours_of(theirs: Tutorial, config: RunConfig, *, explicit: bool = True) -> GPT:
    """Our model with the tutorial's weights, every one of them, and none of its own."""
    model = model_of(config, VOCAB, explicit=explicit).double().eval()
    model.load_state_dict(as_ours(theirs), strict=True)
    return model


def some_ids(rows: int = 3, seed: int = 0) -> Tensor:
    return torch.randint(0, VOCAB, (rows, CONTEXT), generator=torch.Generator().manual_seed(seed))


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


def backward(model: nn.Module) -> Tensor:
    logits = model(some_ids())
    nn.functional.cross_entropy(logits.flatten(0, 1), some_ids(seed=1).flatten()).backward()
    return logits


# ---- the same function


@pytest.mark.parametrize("heads", [1, 2, 4, 8])
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
def test_the_same_weights_give_the_same_logits_and_gradients(heads: int, explicit: bool) -> None:
    theirs = tutorial(heads)
    ours = ours_of(theirs, config_of(heads=heads), explicit=explicit)
    wanted = backward(theirs)
    assert apart(backward(ours), wanted) < EXACT
    assert float(wanted.detach().std()) > 0.1
    gradients = as_ours(theirs, of=lambda p: cast(Tensor, p.grad))
    own = {name: cast(Tensor, p.grad) for name, p in ours.named_parameters()}
    assert own.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert apart(own[name], gradient) < EXACT, name
        assert float(gradient.abs().max()) > 0, name


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
def test_without_fc_out_it_is_the_tutorial_with_identity_in_its_place(explicit: bool) -> None:
    theirs = tutorial()
    dense = theirs(some_ids())
    for block in theirs.blocks:
        block.attention.fc_out = nn.Identity()
    ours = ours_of(theirs, config_of("fc_out=none"), explicit=explicit)
    assert apart(ours(some_ids()), theirs(some_ids())) < EXACT
    assert apart(dense, theirs(some_ids())) > 0.01


@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
def test_dropout_has_the_tutorials_places(explicit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[tuple[int, ...], float]] = []
    plain = nn.functional.dropout

    def counting(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if p and training:
            called.append((tuple(x.shape), p))
        return plain(x, p, training, inplace)

    theirs = tutorial(dropout=0.3).train()
    ours = ours_of(theirs, config_of("model.dropout=0.3"), explicit=explicit).train()
    monkeypatch.setattr(nn.functional, "dropout", counting)
    found = []
    for model in (theirs, ours):
        called.clear()
        torch.manual_seed(5)  # the same calls in the same order draw the same masks
        found.append((model(some_ids()), [*called]))
    (wanted, places), (logits, own) = found
    assert own == places == [((3, CONTEXT, EMBED), 0.3)] * (1 + 2 * LAYERS)
    assert apart(logits, wanted) < EXACT
    assert apart(wanted, theirs.eval()(some_ids())) > 0.01


# ---- every setting in which the tutorial differs from `attention=split` in a usual model is wired

RESET = {
    "attention.divide_by": ["attention.divide_by=sqrt_head_dim"],
    "attention.bias": ["attention.bias=null"],
    "model.block": ["model.block=pre"],
    "model.positions": ["model.positions=rope"],
    "model.mlp": ["model.mlp=gelu"],
    "model.bias": ["model.bias=false"],
    "model.dropout_at": ["model.dropout_at=branch"],
    "model.tied_embedding": ["model.tied_embedding=true", "model.output_bias=false"],
    "model.output_bias": ["model.output_bias=false"],
}


def settings_of(*words: str) -> dict[str, Any]:
    config = compose([*words, *SIZES, "model.n_heads=4"]).config
    groups = {"attention": config.attention, "model": config.model}
    return {f"{group}.{key}": value for group, own in groups.items() for key, value in vars(own).items()}


def test_the_settings_above_are_all_in_which_they_differ() -> None:
    usual, own = settings_of("attention=split", "model=nano"), settings_of(*TUTORIAL)
    assert {key for key in own if own[key] != usual[key]} <= set(RESET)
    assert own["attention.qkv"] == "split"


@pytest.mark.parametrize("key", RESET)
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
def test_each_of_them_changes_the_function(key: str, explicit: bool) -> None:
    theirs = tutorial(dropout=0.3)
    other = model_of(config_of("model.dropout=0.3", *RESET[key]), VOCAB, explicit=explicit).double().eval()
    other.load_state_dict(as_ours(theirs), strict=False)
    if key == "model.dropout_at":  # changes training alone
        assert apart(other(some_ids()), theirs(some_ids())) < EXACT
        theirs.train()
        other.train()
    found = []
    for model in (theirs, other):
        torch.manual_seed(5)
        found.append(model(some_ids()))
    assert apart(found[0], found[1]) > 1e-3


# ---- the same starts

SEEDS, WIDE, WIDE_HEADS = 24, 32, 4


def entries(starts: Iterator[dict[str, Tensor]]) -> dict[str, Tensor]:
    """All entries of one kind of tensor, over layers and seeds: `blocks.mlp.up.weight` -> `[N]`."""
    found = defaultdict(list)
    for tensors in starts:
        for name, tensor in tensors.items():
            kind = ".".join(word for word in name.split(".") if not word.isdigit())
            parts = {"": tensor}
            if kind.endswith("qkv.map.weight"):
                parts = {f".{part}": rows for part, rows in zip("qkv", tensor.chunk(3), strict=True)}
            for part, rows in parts.items():
                found[kind + part].append(rows.detach().flatten())
    return {kind: torch.cat(tensors) for kind, tensors in found.items()}


def starts_of_theirs() -> Iterator[dict[str, Tensor]]:
    for seed in range(SEEDS):
        torch.manual_seed(1000 + seed)
        yield as_ours(Tutorial(WIDE_HEADS, embed_size=WIDE))


def starts_of_ours(init: str) -> Iterator[dict[str, Tensor]]:
    config = config_of(f"init={init}", f"model.d_model={WIDE}", heads=WIDE_HEADS)
    for seed in range(SEEDS):
        yield {name: p.detach() for name, p in model_of(config.with_seed(seed), VOCAB).named_parameters()}


def p_of_ks(found: Tensor, wanted: Tensor) -> float:
    return cast(Any, stats.ks_2samp(found.numpy(), wanted.numpy())).pvalue


@pytest.fixture(scope="module")
def starts() -> dict[str, dict[str, Tensor]]:
    ours = {init: entries(starts_of_ours(init)) for init in ("torch", "gpt2")}
    return {"theirs": entries(starts_of_theirs()), **ours}


def test_every_tensor_starts_from_the_tutorials_distribution(starts: dict[str, dict[str, Tensor]]) -> None:
    theirs, ours = starts["theirs"], starts["torch"]
    assert ours.keys() == theirs.keys()
    for kind, wanted in theirs.items():
        found = ours[kind]
        assert len(found) == len(wanted) >= 300, kind
        if float(wanted.std()) == 0:  # the norms
            assert torch.equal(found, wanted), kind
            continue
        error = float(wanted.std()) * math.sqrt(2 / len(wanted))
        assert abs(float(found.mean() - wanted.mean())) < 4 * error, kind
        assert float(found.std()) == pytest.approx(float(wanted.std()), abs=4 * error), kind
        assert p_of_ks(found, wanted) > 1e-3, kind
        fan_in = {"mlp.down": EXPANSION * WIDE, "qkv": WIDE // WIDE_HEADS}
        bound = 1 / math.sqrt(next((n for word, n in fan_in.items() if word in kind), WIDE))
        for values in (found, wanted):
            largest = float(values.abs().max())
            if kind in ("tokens.weight", "positions.weight"):
                assert largest > 3, kind
                assert stats.kurtosis(values.numpy()) == pytest.approx(0, abs=0.2), kind
            else:
                assert 0.97 * bound < largest <= bound * (1 + 1e-6), kind
                assert stats.kurtosis(values.numpy()) == pytest.approx(-1.2, abs=0.15), kind


def test_another_init_would_be_told_from_it(starts: dict[str, dict[str, Tensor]]) -> None:
    for kind, wanted in starts["theirs"].items():
        if "norm" not in kind:
            assert p_of_ks(starts["gpt2"][kind], wanted) < 1e-6, kind


# ---- what else is made of the model


def test_costs_are_counted_as_the_tutorials_modules_have_them() -> None:
    theirs = Tutorial()
    counted = counted_cost(config_of(), VOCAB)

    def numel(*modules: nn.Module) -> int:
        return sum(p.numel() for module in modules for p in module.parameters())

    blocks = theirs.blocks
    assert counted["params"] == numel(theirs)
    assert counted["params_attention"] == numel(*(b.attention for b in blocks))
    assert counted["params_fc_out"] == numel(*(b.attention.fc_out for b in blocks)) == LAYERS * EMBED * (EMBED + 1)
    assert counted["params_mlp"] == numel(*(m for b in blocks for m in (b.up, b.down)))
    assert counted["params_norm"] == numel(*(m for b in blocks for m in (b.norm1, b.norm2)))
    whole = forward_flops(lambda: theirs(some_ids(rows=1)))
    assert counted["flops_per_token"] == whole / CONTEXT
    assert counted["train_flops_per_token"] == 3 * whole / CONTEXT


@torch.no_grad()
@pytest.mark.parametrize("explicit", [True, False], ids=["explicit", "sdpa"])
def test_generation_with_a_cache_gives_the_tutorials_logits(explicit: bool) -> None:
    theirs = tutorial()
    ours = ours_of(theirs, config_of(), explicit=explicit)
    for widths in ([1] * CONTEXT, [3, 1, 4]):
        past = [Past() for _ in ours.blocks]
        pieces = torch.cat([ours(piece, past) for piece in some_ids().split(widths, dim=1)], dim=1)
        assert apart(pieces, theirs(some_ids())) < EXACT
    text = [1, 2]
    while len(text) < CONTEXT:
        text.append(int(theirs(torch.tensor([text]))[0, -1].argmax()))
    tokens = continuation(ours, text[:2], temperature=0.0, top_k=None, seed=0)
    assert [next(tokens) for _ in text[2:]] == text[2:]


@pytest.mark.parametrize("variant", choice_names("fc_out"))
def test_every_variant_is_built_and_trained_in_it(variant: str) -> None:
    config = config_of("model.dropout=0.1", f"fc_out={variant}")
    try:
        model = model_of(config, VOCAB).train()
    except RequestError as error:
        pytest.fail(f"{variant}: {error}")
    logits = backward(model)
    assert bool(torch.isfinite(logits).all())
    for name, p in model.named_parameters():
        assert not p.requires_grad or (p.grad is not None and bool(torch.isfinite(p.grad).all())), name


# ---- a run of it


def in_memory(*words: str) -> Trained:
    config = config_of(*words)
    return Trained(RunFolder(Path("run")), {}, config, {}, VOCAB, model_of(config, VOCAB).eval())


# The tutorial with what GPT-2 has in place of what it has not.
AS_GPT2 = ("attention=fused", "model.block=pre", "model.output_bias=false")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), []),
        (
            ("attention.divide_by=sqrt_d_model",),
            ["attention.divide_by is sqrt_d_model, set attention.divide_by=sqrt_head_dim"],
        ),
        (("attention.divide_by=one",), ["attention.divide_by is one, set attention.divide_by=sqrt_head_dim"]),
        (("model.output_bias=true",), ["model.output_bias is true, set model.output_bias=false"]),
        (("model.dropout=0.1",), ["model.dropout_at is norm, set model.dropout_at=branch"]),
        (("model.dropout=0.1", "model.dropout_at=branch"), []),
        (("attention.bias=false",), []),
        (("model.mlp=gelu",), []),
    ],
    ids=str,
)
def test_export_names_each_setting_that_gpt2_does_not_have(words: tuple[str, ...], said: list[str]) -> None:
    assert misfits(in_memory(*AS_GPT2, *words)) == said


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "abc.txt"
    file.write_text("abc cab bca\n" * 900)
    return file


def trained(cli: Cli, text: Path, *words: str) -> Path:
    place = ["data=text", f"data.path={text}", f"outputs={text.parent / 'outputs'}"]
    said = cli("train", *TUTORIAL, "init=torch", *SMALL, *place, *words, "--json")
    assert said.code == 0, said.err
    return Path(said.json["folder"])


def test_a_run_is_inspected_and_its_export_refused_in_one_line(cli: Cli, text: Path, tmp_path: Path) -> None:
    run = trained(cli, text, "model.dropout=0.1")
    said = cli("inspect", str(run), "--eval-windows", "8", "--draws", "2", "--quiet", "--json")
    assert said.code == 0, said.err
    assert said.json["ranks"][-1]["delta"] == pytest.approx(0, abs=1e-6)
    assert len(said.json["heads"]) == 4
    folds = {row["name"]: row for row in said.json["folds"]}
    assert not any(row["exact"] for row in folds.values())
    assert folds["v_bias"]["why"] == "its values have no bias (model.bias=true has, unless attention.bias=false)"
    assert "its output bias has no value bias to go into" in folds["none"]["why"]
    export = cli("export", str(run), "--to", "hf", "--out", str(tmp_path / "x"))
    assert (export.code, export.out, len(export.err.splitlines())) == (2, "", 1)
    for key in ("attention.qkv", "attention.divide_by", "model.block", "model.output_bias", "model.dropout_at"):
        assert f"{key} is " in export.err
    assert not (tmp_path / "x").exists()


def test_a_run_without_fc_out_is_inspected_too(cli: Cli, text: Path) -> None:
    run = trained(cli, text, "fc_out=none")
    said = cli("inspect", str(run), "--eval-windows", "8", "--draws", "2", "--quiet", "--json")
    assert said.code == 0, said.err
    assert said.json["loss"] > 0
    said = cli("generate", str(run), "--prompt", "abc", "--tokens", "4", "--json")
    assert said.code == 0, said.err


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformers_gives_the_same_logits_where_the_rest_is_gpt2s(cli: Cli, text: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    run = trained(cli, text, *AS_GPT2, "attention.bias=false")
    out = tmp_path / "gpt2"
    said = cli("export", str(run), "--to", "hf", "--out", str(out), "--json")
    assert said.code == 0, said.err
    assert "Its activation is ReLU." in (out / "README.md").read_text(encoding="utf-8")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(out).eval()
    assert theirs.config.activation_function == "relu"
    ours = load(RunFolder(run))
    ids = torch.randint(0, ours.vocab_size, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = ours.model(ids), theirs(ids).logits
    assert apart(found, wanted) < 1e-5 * max(1.0, float(wanted.abs().max()))
