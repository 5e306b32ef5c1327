"""Texts of any language from the command line to a trained model; what `data show` and `data prepare` say of them."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from mha_ablate.config.catalog import choice_names
from tests.conftest import SMALL, Cli

SENTENCES = {
    "chinese": [
        "今天天气很好,我们去公园散步。",
        "他每天早上都读一本书。",
        "学习新的语言需要很多时间和耐心。",
        "河边的树在春天开满了白色的花。",
        "老师问了一个没有人能回答的问题。",
        "昨天晚上我做了一个奇怪的梦。",
    ],
    "arabic": [
        "ذهب الولد إلى المدرسة في الصباح. ",
        "السماء صافية والبحر هادئ اليوم. ",
        "قرأتُ كتابًا جميلًا عن تاريخ المدينة. ",
        "هل تحب القهوة أم الشاي؟ ",
        "كان الجو باردًا في الشتاء الماضي. ",
        "كتب الطالب رسالة طويلة إلى صديقه. ",
    ],
    "emoji": [
        "Good morning ☀️ and good coffee ☕! ",
        "The family 👨‍👩‍👧 went to see the 🐍 and the 🦉. ",
        "She waved 👋🏽 from the train 🚂💨... ",
        "Flags 🇯🇵 🇧🇷 🇰🇪 everywhere, what a party 🎉🎉🎉\n",
        "It rained 🌧️🌧️ all day, so we read 📚. ",
        "né́e z̈ombie: two marks on one letter e\u0301\u0323. ",
    ],
}


@pytest.fixture(params=list(SENTENCES))
def language(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of a few thousand characters."""
    draw = random.Random(0)
    file = tmp_path / f"{request.param}.txt"
    lines = (" ".join(draw.choices(SENTENCES[request.param], k=4)) + "\n" for _ in range(60))
    file.write_text("".join(lines), encoding="utf-8", newline="")
    return file


@pytest.mark.parametrize("tokenizer", choice_names("tokenizer"))
def test_any_language_trains(cli: Cli, language: Path, tokenizer: str, tmp_path: Path) -> None:
    text = language.read_text(encoding="utf-8")
    asked = ["tokenizer.vocab_size=300"] if tokenizer == "bpe" else []
    words = ["data=text", f"data.path={language}", f"tokenizer={tokenizer}", *asked, f"outputs={tmp_path / 'outputs'}"]
    said = cli("train", *SMALL, *words, "--json")
    assert said.code == 0, said.err
    about = said.json["text"]
    assert about["vocab_size"] == {"char": len(set(text)), "byte": 256, "bpe": 300}[tokenizer]
    assert (about["characters"], about["bytes"]) == (len(text), len(text.encode()))
    assert 0 < said.json["result"]["val_loss"] < 2 * math.log(about["vocab_size"])
    last = json.loads((Path(said.json["folder"]) / "metrics.jsonl").read_text().splitlines()[-1])
    factor = about["val_tokens"] / about["val_bytes"] / math.log(2)
    assert last["loss/val_bits_per_byte"] == pytest.approx(last["loss/val"] * factor, rel=1e-4)
    shown = cli("data", "show", *words[:4], *asked, "--json")
    assert shown.code == 0, shown.err
    assert {k: shown.json[k] for k in about} == about
    if tokenizer != "bpe":
        assert text.startswith(shown.json["sample"])


def test_the_tokenizer_of_a_run_is_read_by_the_library(cli: Cli, small: list[str], text_file: Path) -> None:
    from tokenizers import Tokenizer

    said = cli("train", *small, "tokenizer=bpe", "tokenizer.vocab_size=300", "data.split=tail", "--json")
    assert said.code == 0, said.err
    saved = Path(said.json["folder"]) / "checkpoint/tokenizer.json"
    library = Tokenizer.from_file(str(saved))
    text = text_file.read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    counts = [len(library.encode(part).ids) for part in (text[:cut], text[cut:])]
    assert counts == [said.json["text"]["train_tokens"], said.json["text"]["val_tokens"]]
    assert library.get_vocab_size() == said.json["text"]["vocab_size"] == 300
    assert library.decode(library.encode("\u4e2d\u6587, never seen").ids) == "\u4e2d\u6587, never seen"


def test_what_validation_has_and_training_lacks_is_said_everywhere(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_text("the cat sat on a mat. " * 90 + "\u4e2d\u6587\u4e2d sat on 9 mats. " * 11, encoding="utf-8")
    where = ["data=text", f"data.path={file}", "data.split=tail"]
    shown = cli("data", "show", *where)
    about = cli("data", "show", *where, "--json").json
    assert about["vocab_size"] == len(set(file.read_text(encoding="utf-8")))
    assert about["unseen"]["distinct"] == 2 + len("9")
    words = f"3 characters of the validation text ({about['unseen']['tokens']:,} times"
    assert [line for line in shown.out.splitlines() if line.startswith("unseen") and words in line]
    for arm in ("dense", "none"):
        said = cli("train", *SMALL, *where, f"fc_out={arm}", f"outputs={tmp_path / 'outputs'}", "--json")
        assert said.code == 0, said.err
        assert said.json["text"]["unseen"] == about["unseen"]
    report = cli("report", str(tmp_path / "outputs/train"), "--json")
    assert report.code == 0, report.err
    assert [note for note in report.json["notes"] if note.startswith(words)]
    assert report.json["bits_per_byte"] == pytest.approx(about["bits_per_byte_of_a_nat"])
    page = (tmp_path / "outputs/train/report/report.html").read_text(encoding="utf-8")
    assert words in page


def test_show_says_what_the_text_is(cli: Cli, text_file: Path) -> None:
    said = cli("data", "show", "data=text", f"data.path={text_file}", "data.split=tail", "data.licence=CC0")
    assert (said.code, said.err) == (0, "")
    text = text_file.read_text(encoding="utf-8")
    assert "text.txt" in said.out
    assert "CC0" in said.out
    assert f"{len(text):,} characters, {len(text.encode()):,} bytes" in said.out
    assert f"char, a vocabulary of {len(set(text))}" in said.out
    assert "tail" in said.out
    assert text[:200] in said.out
    assert "unseen" not in said.out


def test_show_takes_a_text_of_any_length(cli: Cli, tmp_path: Path) -> None:
    for content, form in (("", []), ("", ["--json"]), ("ab", [])):
        file = tmp_path / "short.txt"
        file.write_text(content)
        for tokenizer in choice_names("tokenizer"):
            said = cli("data", "show", "data=text", f"data.path={file}", f"tokenizer={tokenizer}", *form)
            assert said.code == 0, (content, tokenizer, said.err)
            assert form or content or "a split is empty" in said.out


def test_the_sample_of_byte_pairs_shows_where_tokens_end(cli: Cli, text_file: Path) -> None:
    said = cli("data", "show", "data=text", f"data.path={text_file}", "tokenizer=bpe", "--json")
    assert text_file.read_text(encoding="utf-8").startswith(said.json["sample"].replace("|", ""))
    assert "|" in said.json["sample"]


def test_prepare_keeps_tokens_where_it_says(
    cli: Cli, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["data=text", f"data.path={text_file}", "tokenizer=bpe"]
    monkeypatch.setenv("MHA_ABLATE_CACHE", str(tmp_path / "kept"))
    said = cli("data", "prepare", *words, "--json")
    assert said.json["cache"] == str(tmp_path / "kept")
    assert len(list((tmp_path / "kept/tokens").iterdir())) == 1
    assert str(tmp_path / "kept") in cli("data", "prepare", *words).out


def test_prepare_says_when_nothing_can_be_kept(
    cli: Cli, text_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MHA_ABLATE_CACHE", str(tmp_path / "file/below"))
    words = ["data=text", f"data.path={text_file}", "tokenizer=byte"]
    said = cli("data", "prepare", *words)
    assert said.code == 0, said.err
    assert "nothing is kept" in said.out
    assert cli("data", "prepare", *words, "--json").json["cache"] is None
