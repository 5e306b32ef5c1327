"""`mha-ablate export --to hf`: the real `transformers` loads it and gives the same logits; `inspect` reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mha_ablate.run.folder import RunFolder
from mha_ablate.study import export
from mha_ablate.study.trained import load
from tests.conftest import SMALL, Cli, Said

ROOT = Path(__file__).resolve().parents[2]
GPT2 = ("model.positions=learned", "model.norm=layernorm")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "abc.txt"
    file.write_text("abc cab bca\n" * 900)
    return file


def trained(cli: Cli, text: Path, *words: str) -> Path:
    said = cli(
        "train", *SMALL, "data=text", f"data.path={text}", f"outputs={text.parent / 'outputs'}", *words, "--json"
    )
    assert said.code == 0, said.err
    return Path(said.json["folder"])


def refused(said: Said, *words: str) -> None:
    assert (said.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1, said.err
    for word in words:
        assert word in said.err


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["model.bias=true"],
        ["model.tied_embedding=false"],
        ["fc_out=per_head"],
        ["attention.branch_scale=0.5"],
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_transformers_gives_the_same_logits(cli: Cli, text: Path, tmp_path: Path, settings: list[str]) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra hf is not installed")
    run, out = trained(cli, text, *GPT2, *settings), tmp_path / "gpt2"
    said = cli("export", str(run), "--to", "hf", "--out", str(out), "--json")
    assert said.code == 0, said.err
    theirs = transformers.GPT2LMHeadModel.from_pretrained(out).eval()
    ours = load(RunFolder(run))
    ids = torch.randint(0, ours.vocab_size, (3, 8), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = ours.model(ids), theirs(ids).logits
    assert float((found - wanted).abs().max()) < 1e-5 * max(1.0, float(wanted.abs().max()))


def test_an_exported_checkpoint_is_inspected_as_the_run_is(cli: Cli, text: Path, tmp_path: Path) -> None:
    run, out = trained(cli, text, *GPT2), tmp_path / "gpt2"
    assert cli("export", str(run), "--to", "hf", "--out", str(out)).code == 0
    ours = cli("inspect", str(run), "--eval-windows", "2", "--quiet", "--json").json
    theirs = cli("inspect", str(out), "--quiet", "--json").json
    assert theirs["kind"] == "gpt2"
    assert theirs["sizes"] == ours["sizes"]
    for mine, other in zip(ours["layers"], theirs["layers"], strict=True):
        assert other["cross_head_energy"] == pytest.approx(mine["cross_head_energy"], abs=1e-6)
        assert other["w_o"]["singular_values"] == pytest.approx(mine["w_o"]["singular_values"], abs=1e-6)
        for a, b in zip(mine["ov"], other["ov"], strict=True):
            assert b["singular_values"] == pytest.approx(a["singular_values"], abs=1e-6)
    assert (out / "inspect" / "inspect.html").is_file()


def test_the_note_tells_how_text_becomes_tokens(cli: Cli, text: Path, tmp_path: Path) -> None:
    run, out = trained(cli, text, *GPT2), tmp_path / "gpt2"
    assert cli("export", str(run), "--to", "hf", "--out", str(out)).code == 0
    note = (out / "README.md").read_text(encoding="utf-8")
    assert json.loads(note.partition("```json\n")[2].partition("\n```")[0]) == "".join(sorted(set("abc \n")))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["model.positions=rope"], ["model.positions is rope", "set model.positions=learned"]),
        (["model.norm=rmsnorm"], ["model.norm is rmsnorm"]),
        (["attention=split"], ["attention.qkv is split"]),
        (["fc_out=gate"], ["fc_out is Gate"]),
        (["model.head_dim=16"], ["n_heads x head_dim is 32"]),
        (["model.block=post"], ["model.block is post"]),
        (
            ["attention.divide_by=sqrt_d_model"],
            ["attention.divide_by is sqrt_d_model", "set attention.divide_by=sqrt_head_dim"],
        ),
        (
            ["model.tied_embedding=false", "model.output_bias=true"],
            ["model.output_bias is true, set model.output_bias=false"],
        ),
        (["model.dropout=0.1", "model.dropout_at=norm"], ["model.dropout_at is norm, set model.dropout_at=branch"]),
    ],
)
def test_what_gpt2_is_not_is_named(cli: Cli, text: Path, tmp_path: Path, settings: list[str], words: list[str]) -> None:
    run = trained(cli, text, *GPT2, *settings)
    refused(cli("export", str(run), "--to", "hf", "--out", str(tmp_path / "x")), "is no GPT-2", *words)
    assert not (tmp_path / "x").exists()


def test_the_page_names_every_setting_that_an_export_may_be_refused_for() -> None:
    page = (ROOT / "docs/inspecting.md").read_text(encoding="utf-8").partition("## GPT-2 checkpoints")[2]
    keys = [*(key for key, *_ in export.GPT2), "model.dropout_at", "model.head_dim", "fc_out", "model.mlp=relu"]
    assert [key for key in keys if f"`{key}`" not in page] == []


def test_wrong_requests_are_one_line(cli: Cli, text: Path, tmp_path: Path) -> None:
    run = trained(cli, text, *GPT2)
    refused(cli("export", str(run), "--to", "onnx", "--out", str(tmp_path / "x")), "no such format", "hf")
    refused(cli("export", str(run), "--to", "hf", "--out", str(text.parent)), "new or empty")
    refused(cli("export", str(tmp_path / "no"), "--to", "hf", "--out", str(tmp_path / "x")), "no")
    refused(cli("export", str(run), "--to", "hf", "--out", str(run / "x")), "lies in the run itself")
    refused(cli("inspect", str(run), "--fold", "v_bias", "--out", str(run / "x/y")), "lies in the run itself")
    assert not (run / "x").exists()


def test_a_checkpoint_from_other_hands_is_read_or_told_what_it_lacks(cli: Cli, text: Path, tmp_path: Path) -> None:
    run, out = trained(cli, text, *GPT2), tmp_path / "gpt2"
    assert cli("export", str(run), "--to", "hf", "--out", str(out)).code == 0
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "n_positions"}))
    said = cli("inspect", str(out), "--eval-windows", "3", "--json")
    assert (said.code, said.json["sizes"]["context"]) == (0, 1024)
    assert "--eval-windows and --finetune did nothing" in said.err
    for words in (["export", str(out), "--to", "hf"], ["inspect", str(out), "--fold", "merged_ov"]):
        refused(cli(*words, "--out", str(tmp_path / "x")), str(out), "a checkpoint of another library")
    weights = load_file(out / "model.safetensors")
    name = "transformer.h.0.attn.c_proj.weight"
    save_file({**weights, name: weights[name].to(torch.int8)}, out / "model.safetensors")
    refused(cli("inspect", str(out), "--quiet"), str(out), name, "quantised")
    save_file({k: v for k, v in weights.items() if k != name}, out / "model.safetensors")
    refused(cli("inspect", str(out), "--quiet"), str(out), "it has no tensor h.0.attn.c_proj.weight")
    (out / "model.safetensors").rename(out / "pytorch_model.bin")
    refused(cli("inspect", str(out), "--quiet"), str(out), "no model.safetensors", "save_pretrained")


@pytest.mark.parametrize("broken", ["config.json", "model.safetensors"])
def test_a_broken_checkpoint_is_one_line(cli: Cli, text: Path, tmp_path: Path, broken: str) -> None:
    run, out = trained(cli, text, *GPT2), tmp_path / "gpt2"
    assert cli("export", str(run), "--to", "hf", "--out", str(out)).code == 0
    (out / broken).write_bytes(b"{}")
    refused(cli("inspect", str(out), "--quiet"), str(out), "no GPT-2 checkpoint that can be read")
