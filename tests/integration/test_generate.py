"""`mha-ablate generate` on a tiny trained run: the text, and every refusal in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from mha_ablate.run import checkpoint
from mha_ablate.run.folder import RunFolder
from tests.conftest import SMALL, Cli, Said
from tests.integration.process import run as in_a_process

FEW = ("--tokens", "30")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run that knows the characters a, b, c, space and the line break."""
    place = tmp_path_factory.mktemp("generate")
    (place / "abc.txt").write_text("abc cab\n" * 800)
    words = [*SMALL, "data=text", f"data.path={place / 'abc.txt'}", f"outputs={place / 'outputs'}", "fc_out=none"]
    done = in_a_process("train", *words, "--json")
    assert done.returncode == 0, done.stderr
    return RunFolder(Path(json.loads(done.stdout)["folder"]))


def refused(said: Said, *words: str) -> None:
    assert (said.code, said.out) == (2, "")
    assert len(said.err.splitlines()) == 1
    for word in words:
        assert word in said.err


def test_text_goes_to_standard_output_and_the_pace_to_standard_error(cli: Cli, run: RunFolder) -> None:
    said = cli("generate", str(run.path), "--prompt", "abc", *FEW)
    assert said.code == 0, said.err
    assert said.out.startswith("abc")
    assert len(said.out) == len("abc") + 30 + len("\n")
    assert set(said.out) <= set("abc \n")
    assert said.err.startswith("30 tokens, ")
    assert said.err.endswith(" tokens/s\n")
    assert cli("generate", str(run.path), "--prompt", "abc", *FEW, "--quiet").err == ""


def test_the_same_seed_gives_the_same_text_and_json_holds_it(cli: Cli, run: RunFolder) -> None:
    def text(*options: str) -> str:
        return cli("generate", str(run.path), "--prompt", "a", *FEW, "--json", *options).json["text"]

    assert text() == text("--seed", "0") != text("--seed", "1")
    assert text("--temperature", "0", "--seed", "1") == text("--temperature", "0") == text("--top-k", "1")
    assert text("--weights", "best") == text()  # of a run whose last weights are its best
    found = cli("generate", str(run.path), "--prompt", "a", *FEW, "--json")
    assert found.err == ""
    assert found.json | {"text": "", "tokens_per_s": 1} == {
        "folder": str(run.path),
        "prompt": "a",
        "text": "",
        "tokens": 30,
        "tokens_per_s": 1,
        "weights": "last",
        "temperature": 0.8,
        "top_k": None,
        "seed": 0,
    }
    assert cli("generate", str(run.path), "--prompt", "a", *FEW, "-q").out == f"a{found.json['text']}\n"


@pytest.mark.parametrize("tokenizer", ["byte", "bpe"])
def test_bytes_and_byte_pairs_are_utf_8_even_if_nonsense(tokenizer: str, cli: Cli, small: list[str]) -> None:
    vocabulary = ["tokenizer.vocab_size=300"] if tokenizer == "bpe" else []
    folder = cli("train", *small, f"tokenizer={tokenizer}", *vocabulary, "--json").json["folder"]
    done = in_a_process("generate", folder, "--prompt", "漢字", *FEW, "--temperature", "5")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("漢字")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--prompt", "aé"), ("'é' is not in the vocabulary", "5 characters", "tokenizer=byte")),
        (("--prompt", ""), ("--prompt is empty", "at least one character")),
        (("--prompt", "a\udcff"), ("--prompt is not UTF-8",)),
        (("--prompt", "a", "--tokens", "0"), ("--tokens 0 is out of range", "1 to")),
        (("--prompt", "a", "--tokens", "-3"), ("--tokens -3",)),
        (("--prompt", "a", "--top-k", "0"), ("--top-k 0 is out of range",)),
        (("--prompt", "a", "--seed", "-1"), ("--seed -1 is out of range", "0 to")),
        (("--prompt", "a", "--seed", str(2**31)), ("--seed",)),
        (("--prompt", "a", "--temperature", "-0.1"), ("--temperature -0.1 is out of range",)),
        (("--prompt", "a", "--temperature", "nan"), ("--temperature nan",)),
        (("--prompt", "a", "--temperature", "inf"), ("--temperature inf",)),
        (("--prompt", "a", "--weights", "first"), ("--weights", "last", "best")),
        ((), ("--prompt",)),
    ],
)
def test_a_wrong_request_is_one_line(options: tuple[str, ...], says: tuple[str, ...], cli: Cli, run: RunFolder) -> None:
    refused(cli("generate", str(run.path), *options), *says)


def test_where_there_is_no_run_one_line_says_so(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere", run.path.parent):
        refused(cli("generate", str(folder), "--prompt", "a"), str(folder), "holds no finished run")
    refused(cli("generate", str(run.path.parent), "--prompt", "a"), f"give one of those below, such as {run.path}")


def broken_copy(run: RunFolder, tmp_path: Path) -> RunFolder:
    import shutil

    return RunFolder(Path(shutil.copytree(run.path, tmp_path / "copy")))


def test_a_checkpoint_that_cannot_be_read_is_refused(cli: Cli, run: RunFolder, tmp_path: Path) -> None:
    copy = broken_copy(run, tmp_path)
    whole = copy.last_file.read_bytes()
    for content in (whole[:-7], whole[:-1] + b"?", b"", b"{}"):
        copy.last_file.write_bytes(content)
        refused(cli("generate", str(copy.path), "--prompt", "a"), "no checkpoint that can be read")
    copy.last_file.unlink()
    refused(cli("generate", str(copy.path), "--prompt", "a"), "it is missing")


@pytest.mark.parametrize("state", [{}, {"kind": "bpe", "definition": "{"}, {"kind": "char"}])
def test_a_tokenizer_that_cannot_be_read_is_refused(
    state: dict[str, str], cli: Cli, run: RunFolder, tmp_path: Path
) -> None:
    copy = broken_copy(run, tmp_path)
    tensors, about = checkpoint.load(copy.last_file)
    checkpoint.save(copy.last_file, tensors, {**about, "tokenizer": state})
    refused(cli("generate", str(copy.path), "--prompt", "a"), "its tokenizer cannot be read")


def test_weights_of_another_model_and_weights_that_diverged_are_refused(
    cli: Cli, run: RunFolder, tmp_path: Path
) -> None:
    copy = broken_copy(run, tmp_path)
    tensors, about = checkpoint.load(copy.last_file)
    checkpoint.save(copy.last_file, {n: t * torch.nan for n, t in tensors.items()}, about)
    refused(cli("generate", str(copy.path), "--prompt", "a"), "not finite", "diverged")
    checkpoint.save(copy.last_file, {n: t for n, t in tensors.items() if "tokens" not in n}, about)
    refused(cli("generate", str(copy.path), "--prompt", "a"), "of another model")
