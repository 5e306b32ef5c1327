"""The shape of a configuration: frozen dataclasses that check their own types and ranges.

They hold no defaults. Every default is written once, in `configs/`, where people read it.
`optional` values are `None` where the YAML says `null`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from mha_ablate.config.factorial import MOST as MOST_FACTORS
from mha_ablate.errors import nearest
from mha_ablate.start_rule import GPT2, check_rule

STAGES_OF_TUNING = ("grid", "shared", "tuned")  # folders below a point
NO_SETTINGS = (
    "study",
    "seed",
    "init_seed",
    "data_seed",
    "init_offset",
    "outputs",
    "name",
    "match",
    "match_to",
    "hydra",
)
NOT_A_FACTORS = {  # keys that no level of a factor may set, and why
    **dict.fromkeys(NO_SETTINGS, "is no setting of a model or its training"),
    "fc_out": "is what the arms differ in: give it to an arm, study.arms.NAME=[fc_out=...]",
    "tokenizer": "says what a token is, and nats per token of two tokenizers are not comparable: run a study with each",
}


WORDS = {
    "attention.qkv": ("fused", "split"),
    "attention.value": ("learned", "rotation_init", "identity"),
    "attention.scores": ("softmax", "shaped"),
    "attention.divide_by": ("sqrt_head_dim", "sqrt_d_model", "one"),
    "model.block": ("pre", "post", "skipless", "parallel"),
    "model.norm": ("layernorm", "rmsnorm"),
    "model.positions": ("learned", "rope", "sinusoidal"),
    "model.mlp": ("gelu", "relu"),
    "model.dropout_at": ("branch", "norm"),
    "data.source": ("python_docs", "python_code", "text", "hub"),
    "data.split": ("auto", "own", "blocks", "tail"),
    "tokenizer.kind": ("char", "byte", "bpe"),
    "trainer.device": ("auto", "cpu", "cuda"),
    "trainer.precision": ("auto", "fp32", "bf16"),
    "match": ("params", "flops"),
}  # settings that take one of a few words


def one_of(key: str, value: Any) -> None:
    """Raise ValueError unless `value` is one of the words that `key` takes."""
    if value not in (allowed := WORDS[key]):
        raise ValueError(f"{key}={value} is not one of {', '.join(allowed)}{nearest(str(value), allowed)}")


def at_least(key: str, value: int | float | None, least: int | float) -> None:
    """Raise ValueError unless `value` is None or a finite number of at least `least`."""
    if value is not None and not (math.isfinite(value) and value >= least):
        raise ValueError(f"{key}={value} is out of range: it must be {least} or more")


def at_most(key: str, value: int | float | None, most: int | float) -> None:
    """Raise ValueError unless `value` is None or at most `most`."""
    if value is not None and value > most:
        raise ValueError(f"{key}={value} is out of range: it must be {most} or less")


def within(key: str, value: float, low: float, high: float) -> None:
    """Raise ValueError unless `low <= value < high`."""
    if not low <= value < high:
        raise ValueError(f"{key}={value} is out of range: it must lie in [{low}, {high})")


@dataclass(frozen=True)
class AttentionConfig:
    """How q, k and v are made, and how loud the branch is."""

    qkv: str
    value: str
    scores: str
    divide_by: str
    bias: bool | None
    branch_scale: Any  # a number, "matched" or "learned"

    def __post_init__(self) -> None:
        one_of("attention.qkv", self.qkv)
        one_of("attention.value", self.value)
        one_of("attention.scores", self.scores)
        one_of("attention.divide_by", self.divide_by)
        scale = self.branch_scale
        number = isinstance(scale, int | float) and not isinstance(scale, bool) and math.isfinite(scale)
        if not (scale in ("matched", "learned") or (number and scale > 0)):
            raise ValueError(f"attention.branch_scale={scale} is neither a number above 0 nor 'matched' nor 'learned'")


@dataclass(frozen=True)
class InitConfig:
    """Where every tensor starts, as rules (`mha_ablate.start_rule`): W_Q, W_K, W_V, W_O, the MLP's two, the tables, the biases."""

    query: str
    key: str
    value: str
    out: str
    up: str
    down: str
    embedding: str
    positions: str
    output: str
    attention_bias: str
    out_bias: str
    mlp_bias: str
    output_bias: str

    def __post_init__(self) -> None:
        for name, rule in self.rules.items():
            try:
                check_rule(rule, layered=name in ("out", "up", "down"))
            except ValueError as error:
                raise ValueError(f"init.{name}={rule}: {error}") from error

    @property
    def rules(self) -> dict[str, str]:
        """The rules by the tensor that they are for."""
        return asdict(self)


# Far above what this package is for, and low enough that a plan is made or refused at once.
LARGEST = {"d_model": 2**16, "n_layers": 512, "n_heads": 2**12, "head_dim": 2**16, "d_ff": 2**18, "context": 2**20}
MOST = 2**31 - 1
MOST_SEEDS = 10_000


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and style of the decoder-only Transformer."""

    d_model: int
    n_layers: int
    n_heads: int
    head_dim: int | None
    d_ff: int | None
    context: int
    block: str
    norm: str
    positions: str
    mlp: str
    bias: bool
    dropout: float
    dropout_at: str
    tied_embedding: bool
    output_bias: bool

    def __post_init__(self) -> None:
        for key, most in LARGEST.items():
            at_least(f"model.{key}", getattr(self, key), 1)
            at_most(f"model.{key}", getattr(self, key), most)
        one_of("model.block", self.block)
        one_of("model.norm", self.norm)
        one_of("model.positions", self.positions)
        one_of("model.mlp", self.mlp)
        one_of("model.dropout_at", self.dropout_at)
        if self.output_bias and self.tied_embedding:
            raise ValueError("model.output_bias=true needs an output layer of its own: add model.tied_embedding=false")
        within("model.dropout", self.dropout, 0.0, 1.0)
        if self.head_dim is None and self.d_model % self.n_heads:
            raise ValueError(
                f"model.d_model={self.d_model} is not divisible by model.n_heads={self.n_heads}: "
                "choose sizes that divide, or set model.head_dim"
            )
        at_most("model.n_heads x head_dim", self.n_heads * self.width_of_head, LARGEST["d_model"])
        if self.positions == "rope" and self.width_of_head % 2:
            raise ValueError(f"model.positions=rope needs an even head_dim, not {self.width_of_head}")
        if self.positions == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"model.positions=sinusoidal needs an even model.d_model, not {self.d_model}")

    @property
    def width_of_head(self) -> int:
        """`head_dim`, or d_model / n_heads where it is null."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def width_of_mlp(self) -> int:
        """`d_ff`, or 4 d_model where it is null."""
        return self.d_ff or 4 * self.d_model


@dataclass(frozen=True)
class HubConfig:
    """A data set of the Hugging Face Hub: what of it is text, and in what order."""

    name: str | None
    config: str | None
    revision: str | None
    splits: list[str] | None
    column: str
    join: str

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("data=hub needs data.hub.name=OWNER/NAME, a data set of the Hub")
        if self.splits is not None and (not self.splits or len(set(self.splits)) < len(self.splits)):
            raise ValueError(f"data.hub.splits={self.splits} must name at least one split, and none twice")


@dataclass(frozen=True)
class DataConfig:
    """Which text, how much of it, and how it is split into training and validation."""

    source: str
    path: str | None
    hub: HubConfig | None
    split: str
    max_chars: int | None
    sha256: str | None
    licence: str | None

    def __post_init__(self) -> None:
        one_of("data.source", self.source)
        one_of("data.split", self.split)
        at_least("data.max_chars", self.max_chars, 1)
        if self.sha256 is not None and self.max_chars is not None:
            raise ValueError(
                f"data.max_chars={self.max_chars} cuts the text, and data.sha256 is of the whole: give data.sha256=null with it"
            )
        if self.source == "text" and not self.path:
            raise ValueError("data=text needs data.path=FILE, a folder or a quoted glob of UTF-8 text")
        if self.source != "text" and self.path is not None:
            raise ValueError(f"data.path={self.path} is read by data=text alone: add data=text")
        if (self.source == "hub") != (self.hub is not None):
            raise ValueError(
                "data.hub is read by data sets of the Hub alone: choose one, or data=hub data.hub.name=OWNER/NAME"
            )


@dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes tokens."""

    kind: str
    vocab_size: int | None

    def __post_init__(self) -> None:
        one_of("tokenizer.kind", self.kind)
        if self.kind == "bpe" and self.vocab_size is None:
            raise ValueError("tokenizer=bpe needs tokenizer.vocab_size, such as 1024")
        if self.kind != "bpe" and self.vocab_size is not None:
            raise ValueError(
                f"tokenizer.vocab_size={self.vocab_size} is for tokenizer=bpe alone; {self.kind} has no choice"
            )
        at_least("tokenizer.vocab_size", self.vocab_size, 256)
        at_most("tokenizer.vocab_size", self.vocab_size, 2**16)


@dataclass(frozen=True)
class OptimConfig:
    """AdamW, its schedule and its clipping."""

    lr: float
    min_lr: float | None
    warmup_steps: int
    weight_decay: float
    beta1: float
    beta2: float
    grad_clip: float

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise ValueError(f"optim.lr={self.lr} is out of range: it must be a finite number above 0")
        at_least("optim.min_lr", self.min_lr, 0)
        if self.min_lr is not None and self.min_lr > self.lr:
            raise ValueError(f"optim.min_lr={self.min_lr} is above optim.lr={self.lr}: the cosine goes down")
        for key in ("warmup_steps", "weight_decay", "grad_clip"):
            at_least(f"optim.{key}", getattr(self, key), 0)
            at_most(f"optim.{key}", getattr(self, key), MOST)
        within("optim.beta1", self.beta1, 0.0, 1.0)
        within("optim.beta2", self.beta2, 0.0, 1.0)

    @property
    def final_lr(self) -> float:
        """`min_lr`, or a tenth of `lr` where it is null."""
        final = self.lr / 10 if self.min_lr is None else self.min_lr
        return float(f"{final:.12g}")  # 3e-3 / 10 is then the same number as a typed 3e-4


@dataclass(frozen=True)
class TrainerConfig:
    """How long, how large a batch, how often to look, and on what hardware."""

    steps: int
    batch_size: int
    eval_every: int
    log_every: int
    device: str
    precision: str
    threads: int | None
    compile: Any  # true, false or "auto"
    save_every_s: float

    def __post_init__(self) -> None:
        if self.compile != "auto" and not isinstance(self.compile, bool):
            raise ValueError(f"trainer.compile={self.compile} is not one of auto, true, false")
        for key in ("steps", "batch_size", "eval_every", "log_every", "threads"):
            at_least(f"trainer.{key}", getattr(self, key), 1)
            at_most(f"trainer.{key}", getattr(self, key), MOST)
        at_least("trainer.save_every_s", self.save_every_s, 0)
        at_most("trainer.threads", self.threads, 4096)
        one_of("trainer.device", self.device)
        one_of("trainer.precision", self.precision)


@dataclass(frozen=True)
class TuneConfig:
    """How each arm's learning rate is tuned before arms are compared."""

    rates: list[float]  # a log grid, the same for every arm
    seeds: list[int]  # other ones than the study's
    widen: int  # how often the grid may be widened where a best rate lies at its edge
    shared: bool  # whether arms are compared at the shared rate as well

    def __post_init__(self) -> None:
        if len(self.rates) < 3 or any(not 0 < rate < math.inf for rate in self.rates):
            raise ValueError(
                f"study.tune.rates={self.rates} must be three rates or more above 0, such as [1e-3,3e-3,1e-2]"
            )
        if any(after <= before for before, after in itertools.pairwise(self.rates)):
            raise ValueError(f"study.tune.rates={self.rates} must go up")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or any(not 0 <= s < 2**31 for s in self.seeds):
            raise ValueError(f"study.tune.seeds={self.seeds} must be distinct seeds, such as [100,101]")
        at_least("study.tune.widen", self.widen, 0)
        at_most("study.tune.widen", self.widen, 10)


# What was the one way before there was a setting for it.
USUAL = (
    ("attention", "value", "learned"),
    ("attention", "scores", "softmax"),
    ("attention", "divide_by", "sqrt_head_dim"),
    ("model", "mlp", "gelu"),
    ("model", "dropout_at", "branch"),
    ("model", "output_bias", False),
)


def stages_of(tune: TuneConfig | dict[str, Any] | None) -> tuple[str, ...]:
    """The stages at which a study of such tuning compares its arms, in the order in which they run.

    `tune` is the setting or what parts.json has of it, which names `shared` only where it is false.
    """
    if not tune:
        return ("",)
    shared = tune.shared if isinstance(tune, TuneConfig) else tune.get("shared", True)
    return STAGES_OF_TUNING[1:] if shared else STAGES_OF_TUNING[2:]


def stages_held(whole: dict[str, Any]) -> tuple[str, ...]:
    """The same of a parts.json."""
    return stages_of(whole.get("tune"))


EXPECTED = ("costs", "helps", "level", "no_worse", "no_better")


@dataclass  # not frozen: in a mapping OmegaConf could not fill it then
class ClaimConfig:
    """A statement about the baseline, and what would show it: see configs/study/statements."""

    says: str
    algebra: str
    costs: list[str]  # arms that cost where freedom is lost, and cost nothing where none is, if the claim holds
    expects: dict[str, str]  # arms and what they would do wherever they run, if it holds: one of EXPECTED
    at: list[str]  # the points where costs and expects are looked for; empty = all
    rates: list[str]  # arms that stop training at lower learning rates than the baseline, if it holds
    refused: dict[
        str, list[str]
    ]  # arms that cannot be built with these overrides, and can without them, if it holds there
    change: str


@dataclass(frozen=True)
class StudyConfig:
    """Arms, seeds and margin of a comparison."""

    name: str
    baseline: str
    arms: dict[str, list[str]]
    pick: list[str] | None
    seeds: Any  # how many (0, 1, ...), or a list of them
    margin: float
    waterfall: dict[str, list[str]]  # step -> two arms: loss(first) - loss(second)
    copies: dict[str, list[str]]  # two arms that differ by chance alone, by what differs
    points: Any  # the study is run at each: overrides such as model.n_heads=4, or names with their overrides
    factors: Any  # settings of two levels each, whose design gives the points: name -> [low, high]
    own_factors: Any  # what `study.factors=...` on the command line says: names of these, or others in their place
    tune: TuneConfig | None
    claims: dict[str, ClaimConfig]  # what the study is to decide

    def __post_init__(self) -> None:
        safe_name("study.name", self.name)
        for point in self.point_words:
            safe_name("a point's name", point)
            if point in STAGES_OF_TUNING:
                raise ValueError(
                    f"study.points: {point} is the name of a folder that tuning makes: give the point another name"
                )
        if not 0 < self.margin < math.inf:
            raise ValueError(f"study.margin={self.margin} is out of range: it must be above 0 (nats per token)")
        if not self.arms:
            raise ValueError("study.arms is empty: an arm is a name and its overrides, such as none: [fc_out=none]")
        for arm in self.arms:
            safe_name("an arm's name", arm)
        for arm in self.pick or []:
            if arm not in self.arms:
                raise ValueError(
                    f"study.arms: no arm '{arm}'{nearest(arm, list(self.arms))}; this study has {', '.join(self.arms)}"
                )
        if self.pick is not None and len(set(self.pick)) < max(1, len(self.pick)):
            raise ValueError(f"study.arms={self.pick} must name at least one arm, and none twice")
        _ = self.seed_list
        self._check_pairs("waterfall", self.waterfall)
        self._check_pairs("copies", self.copies)
        if self.claims and not (self.has_points or self.tune):
            raise ValueError("study.claims are judged over several parts: give study.points or study.tune")
        for name, claim in self.claims.items():
            self._check_claim(name, claim)
        links = list(self.waterfall.values())
        if any(before[1] != after[0] for before, after in itertools.pairwise(links)):
            raise ValueError(
                "study.waterfall is no chain: each step begins with the arm that the one before it ends with, as in "
                "{loudness: [none, none_scaled], mixing: [none_scaled, dense]}"
            )

    def _check_claim(self, name: str, claim: ClaimConfig) -> None:
        safe_name("a claim's name", name)
        for arm in (*claim.costs, *claim.expects, *claim.rates, *claim.refused):
            if arm not in self.arms or arm == self.baseline:
                raise ValueError(
                    f"study.claims.{name} names {arm}, no arm beside the baseline{nearest(arm, list(self.arms))}; there are "
                    f"{', '.join(other for other in self.arms if other != self.baseline)}"
                )
        if claim.rates and self.tune is None:
            raise ValueError(
                f"study.claims.{name}.rates needs study.tune: without a grid no rate is known to be too high"
            )
        if not (claim.costs or claim.expects or claim.rates or claim.refused):
            raise ValueError(f"study.claims.{name} rests on nothing: give costs, expects, rates or refused")
        for arm, what in claim.expects.items():
            if what not in EXPECTED:
                raise ValueError(
                    f"study.claims.{name}.expects.{arm}={what} is none of {', '.join(EXPECTED)}{nearest(what, EXPECTED)}"
                )
        for point in claim.at:
            if point not in self.point_words:
                raise ValueError(
                    f"study.claims.{name}.at names {point}, no point of this study{nearest(point, list(self.point_words))}"
                )

    def _check_pairs(self, key: str, pairs: dict[str, list[str]]) -> None:
        for name, pair in pairs.items():
            wrong = [arm for arm in pair if arm not in self.arms]
            if len(pair) != 2 or pair[0] == pair[-1] or wrong:
                hint = nearest(wrong[0], list(self.arms)) if wrong else ""
                raise ValueError(
                    f"study.{key}.{name}={pair} must name two arms of this study{hint}; it has {', '.join(self.arms)}"
                )

    @property
    def chosen(self) -> list[str]:
        """The arms that take part, in order."""
        return list(self.pick) if self.pick is not None else list(self.arms)

    @property
    def has_points(self) -> bool:
        """Whether it is run at several settings."""
        return bool(self.points or self.factor_words)

    @property
    def factor_words(self) -> dict[str, tuple[list[str], list[str]]]:
        """The overrides of both levels of every factor of a screen; empty for any other study. Else raises ValueError."""
        given = self.factors or {}
        if isinstance(self.own_factors, list):
            for name in map(str, self.own_factors):
                if name not in given:
                    raise ValueError(
                        f"study.factors: no factor '{name}'{nearest(name, list(given))}; there are "
                        f"{', '.join(given) or 'no others'}"
                    )
            if len(set(self.own_factors)) < len(self.own_factors):
                raise ValueError(f"study.factors={self.own_factors} names a factor twice: name each once")
            given = {name: given[name] for name in self.own_factors}
        elif self.own_factors is not None:
            given = self.own_factors
        if not isinstance(given, dict):
            raise ValueError(f"study.factors={given} is no table: give {FACTORS_LIKE}")
        if len(given) > MOST_FACTORS:
            raise ValueError(
                f"study.factors has {len(given)} factors, and a screening design takes 1 to {MOST_FACTORS}: choose some, "
                "such as study.factors=[init,block]"
            )
        return {str(name): _levels(str(name), levels) for name, levels in given.items()}

    @property
    def point_words(self) -> dict[str, list[str]]:
        """Overrides by the name of the point; an override alone is named by itself, n_heads=4. Else raises ValueError.

        The points of a screen are those of its design, p01, p02 and so on.
        """
        if factors := self.factor_words:
            if self.points:
                raise ValueError("study.points and study.factors both say where a study is run: give one of them")
            from mha_ablate.config.factorial import points_of

            return points_of(factors)
        points = self.points or {}
        if isinstance(points, list) and all(isinstance(word, str) and "=" in word for word in points):
            points = {_last_of_key(word): [word] for word in points}
        named: dict[Any, Any] = points if isinstance(points, dict) else {"": None}
        if not all(isinstance(words, list) and all(isinstance(w, str) for w in words) for words in named.values()):
            raise ValueError(
                f"study.points={self.points} is neither a list of overrides, [model.n_heads=1,model.n_heads=4], nor names "
                "with theirs"
            )
        return {str(name): list(words) for name, words in named.items()}

    @property
    def seed_list(self) -> list[int]:
        """The seeds themselves. Raises ValueError where `seeds` is neither a count nor a list of distinct seeds."""
        seeds = list(range(min(self.seeds, MOST_SEEDS + 1))) if type(self.seeds) is int else self.seeds
        good = isinstance(seeds, list) and all(type(s) is int and 0 <= s < 2**31 for s in seeds)
        if not good or not seeds or len(set(seeds)) < len(seeds) or len(seeds) > MOST_SEEDS:
            raise ValueError(
                f"study.seeds={self.seeds} is neither a count from 1 to {MOST_SEEDS} nor a list of distinct seeds such as [0,1,2]"
            )
        return seeds


@dataclass(frozen=True)
class RunConfig:
    """Everything that one training run depends on, and (for `compare`) the study around it."""

    fc_out: dict[str, Any]
    init: InitConfig
    attention: AttentionConfig
    model: ModelConfig
    data: DataConfig
    tokenizer: TokenizerConfig
    optim: OptimConfig
    trainer: TrainerConfig
    study: StudyConfig
    seed: int
    init_seed: int | None
    data_seed: int | None
    outputs: str
    name: str | None
    match: str | None
    match_to: str | None
    init_offset: int

    def __post_init__(self) -> None:
        for key in ("seed", "init_seed", "init_offset", "data_seed"):
            at_least(key, getattr(self, key), 0)
            at_most(key, getattr(self, key), 2**31 - 1)
        if not self.outputs:
            raise ValueError("outputs is empty: it names the folder that run folders go to")
        if self.name is not None:
            safe_name("name", self.name)
        if self.match is not None:
            one_of("match", self.match)
        if self.match_to is not None and self.match is None:
            raise ValueError(f"match_to={self.match_to} names what is matched, and match is null: give match=params")
        if "_target_" not in self.fc_out:
            raise ValueError("fc_out has no _target_: choose a variant by name (`mha-ablate list fc_out`)")
        if self.attention.qkv == "split" and self.model.d_model % self.model.n_heads:
            raise ValueError(
                f"attention=split cuts the embedding into n_heads slices: model.d_model={self.model.d_model} "
                f"is not divisible by model.n_heads={self.model.n_heads}"
            )

        self._check_texts()

    def _check_texts(self) -> None:
        """Two texts as levels of a factor: a character and a byte are one unit of both, byte pairs are learned from each."""
        if self.tokenizer.kind != "bpe":
            return
        for name, levels in self.study.factor_words.items():
            for word in itertools.chain(*levels):
                if _group_of(word) == "data":
                    raise ValueError(
                        f"study.factors.{name}: {word} cannot be a level with tokenizer=bpe, which learns other tokens from each "
                        "text, so that nats per token are not comparable: use tokenizer=char or tokenizer=byte"
                    )

    def with_seed(self, seed: int) -> RunConfig:
        """The same configuration with another `seed`."""
        return replace(self, seed=seed)

    @property
    def seeds(self) -> tuple[int, int]:
        """(init_seed + init_offset, data_seed), both seeds falling back on `seed`."""
        init, data = (self.seed if s is None else s for s in (self.init_seed, self.data_seed))
        return init + self.init_offset, data

    def identity(self, text: dict[str, Any]) -> dict[str, Any]:
        """What decides the result of the run, and nothing else: no folder, no name, no study around it.

        `text` identifies the tokens (`Corpus.identity`), wherever they come from.
        """
        whole = asdict(self)
        for key in ("study", "outputs", "name", "seed", "init_offset", "match", "match_to", "data", "tokenizer"):
            del whole[key]
        del whole["trainer"]["save_every_s"]
        whole["init_seed"], whole["data_seed"] = self.seeds
        whole["model"]["d_ff"], whole["model"]["head_dim"] = self.model.width_of_mlp, self.model.width_of_head
        whole["optim"]["min_lr"] = self.optim.final_lr
        if whole["attention"]["bias"] is None:
            whole["attention"]["bias"] = self.model.bias
        for group, key, usual in USUAL:  # runs from before these settings stay the same
            if whole[group][key] == usual:
                del whole[group][key]
        if whole["attention"].get("bias") == self.model.bias:
            del whole["attention"]["bias"]
        if self.init.rules == GPT2:
            del whole["init"]
        scale = self.attention.branch_scale
        whole["attention"]["branch_scale"] = scale if isinstance(scale, str) else float(scale)
        whole["text"] = text
        return whole


FACTORS_LIKE = "two levels each, such as 'study.factors={heads: [model.n_heads=4,model.n_heads=1]}'"


def _levels(name: str, levels: Any) -> tuple[list[str], list[str]]:
    """Both levels of a factor as lists of overrides. Raises ValueError."""
    safe_name("a factor's name", name)
    both = levels if isinstance(levels, list) else [levels]
    words = [[level] if isinstance(level, str) else level for level in both]
    if len(words) != 2:
        raise ValueError(f"study.factors.{name}={levels} has not two levels: give {FACTORS_LIKE}")
    for level in words:
        if not (isinstance(level, list) and level and all(isinstance(word, str) and "=" in word for word in level)):
            shown = level[0] if isinstance(level, list) and len(level) == 1 else level
            raise ValueError(
                f"study.factors.{name}: the level {shown} is neither KEY=VALUE nor a list of such: give {FACTORS_LIKE}"
            )
        for word in level:
            if (key := _group_of(word)) in NOT_A_FACTORS:
                raise ValueError(f"study.factors.{name}: {word} cannot be a level, since {key} {NOT_A_FACTORS[key]}")
    if words[0] == words[1]:
        raise ValueError(f"study.factors.{name}: both levels are {' '.join(words[0])}: give two that differ")
    return list(words[0]), list(words[1])


def _group_of(override: str) -> str:
    """`model.n_heads=4` -> `model`."""
    return override.partition("=")[0].lstrip("+~").partition(".")[0]


def _last_of_key(override: str) -> str:
    """`model.n_heads=4` -> `n_heads=4`."""
    key, _, value = override.partition("=")
    return f"{key.lstrip('+').rpartition('.')[2]}={value}"


def safe_name(key: str, name: str) -> None:
    """Raise ValueError unless `name` can be one folder below `outputs`."""
    bad = set('/\\:*?"<>|') & set(name)
    if not name or name != name.strip(" .") or bad or len(name.encode()) > 200 or not name.isprintable():
        raise ValueError(
            f'{key}={name!r} cannot be the name of one folder: use a short word without / \\ : * ? " < > | and with '
            "no dot or space at its ends"
        )


def config_hash(identity: dict[str, Any]) -> str:
    """SHA-256 (16 hex digits) over the canonical JSON of what `RunConfig.identity` returns."""
    canonical = json.dumps(identity, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]
