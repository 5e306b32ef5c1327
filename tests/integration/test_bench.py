"""`scripts/bench`: what it reads, what it counts, what it prints, and that it leaves nothing behind. No time is judged."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mha_ablate.build import counted_cost
from mha_ablate.config.compose import compose
from scripts.benchmark.main import PAGE, main
from scripts.benchmark.process import steps_per_s
from scripts.benchmark.request import SETTINGS, parse
from scripts.benchmark.result import Seen, result_of
from scripts.benchmark.runs import lines_of, model_flops_per_step, multiply, rate_of, shares_of_telling
from scripts.benchmark.tables import as_markdown, as_text, tables
from scripts.page import marks, write_into
from tests.conftest import SMALL, Cli
from tests.integration.process import gone, wait_for

ROOT = Path(__file__).resolve().parents[2]
BENCH = str(ROOT / "scripts/bench")

# ---- what another command says


@pytest.mark.parametrize(
    ("said", "rate"),
    [
        ("steps/s: 21.7\n", 21.7),
        ("21.7 steps/s", 21.7),
        ("steps_per_s=21.7", 21.7),
        ("1 step/s\nand later 3e1 steps/sec, loss 2.5", 30.0),
        ("loss 3\n17.25\n", 17.25),
        ('{"steps_per_s": 4}', 4.0),
        ('{\n  "loss": 2.5,\n  "steps_per_s": 4.5\n}\n', 4.5),
        ('9 steps/s\n{"steps_per_s": 4.5, "workers": 2}\n', 4.5),
        ('started\n{\n  "steps_per_s": 4.5\n}\n', 4.5),
        ("", None),
        ("done", None),
        ("0 steps/s", None),
        ("-3 steps/s", None),
        ("1,234 steps/s", None),  # a thousand or a decimal comma: nobody knows
        ("steps/s: 1,234", None),
        ("21.7 ms a step", None),
        ("nan", None),
        ('{"steps_per_s": true}', None),
        ('{"steps_per_s": null}', None),
        (f'{{"steps_per_s": 1{"0" * 400}}}', None),
    ],
)
def test_steps_per_s_are_understood_or_not(said: str, rate: float | None) -> None:
    assert steps_per_s(said) == rate


@given(
    rate=st.floats(1e-3, 1e6),
    form=st.sampled_from(["steps/s: {}", "{} steps/s", "steps_per_s={}", "{}", '{{"steps_per_s": {}}}']),
    before=st.lists(st.sampled_from(["iter 3: loss 2.1", "5 steps/s", "", "7"]), max_size=4),
)
def test_the_last_word_counts_whatever_was_printed_before(rate: float, form: str, before: list[str]) -> None:
    earlier = [line for line in before if form != "{}" or "steps" not in line]
    assert steps_per_s("\n".join([*earlier, form.format(rate)]) + "\n") == rate


@given(st.text())
def test_any_output_is_a_positive_number_or_none(said: str) -> None:
    rate = steps_per_s(said)
    assert rate is None or 0 < rate < float("inf")


# ---- what is counted


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("changed", [[], ["fc_out=none"], ["model.head_dim=24", "model.d_ff=100"]], ids=str)
def test_the_formula_gives_the_flops_that_are_counted(name: str, changed: list[str]) -> None:
    overrides = [f"{key}={value}" for key, value in SETTINGS[name].overrides.items()]
    config = compose([*overrides, *changed]).config
    tokens = config.trainer.batch_size * config.model.context
    counted = counted_cost(config, 65)["train_flops_per_token"] * tokens
    assert model_flops_per_step(asdict(config), 65, fc_out="fc_out=none" not in changed) == counted


def test_the_first_interval_of_a_run_is_no_measure(tmp_path: Path) -> None:
    lines = [{"perf/step_ms": ms} for ms in (900, 10, 20, 40)] + [{"loss/val": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert rate_of(tmp_path) == 50.0


def test_a_run_is_split_into_training_evaluation_and_the_rest() -> None:
    lines = [
        {"wall_time": 100.0, "train_s": 1.0},
        {"wall_time": 104.0, "train_s": 5.0},
        {"wall_time": 107.0, "train_s": 5.0, "loss/val": 2.0},
    ]
    assert shares_of_telling(lines, ended=110.0) == {"evaluation": 0.3, "logging and saving": 0.3}


def test_a_study_is_multiplied_into_one_that_can_be_reported(small: list[str], tmp_path: Path, cli: Cli) -> None:
    assert cli("compare", *small, "study.arms=[dense,none]", "study.seeds=1", "--workers", "1", "-q").code == 0
    study = tmp_path / "outputs/fc_out"
    multiply(study, 4)
    said = cli("report", str(study), "--json")
    assert said.code == 0, said.err
    assert {arm["arm"]: arm["n"] for arm in said.json["arms"]} == {"dense": 4, "none": 4}
    assert said.json["setting"]["seeds"] == [0, 1, 2, 3]
    losses = [[x.get("loss/val") for x in lines_of(study / f"none/seed={seed}")] for seed in range(4)]
    assert len({tuple(curve) for curve in losses}) == 4


# ---- what it comes to


def seen_twice(rates: dict[str, tuple[float, float]]) -> Seen:
    """Two rounds of everything, on two workers."""
    seen = Seen(machine={"cpu": "A Processor of Some Name and Number", "cores": 2, "precision": "bf16"})
    seen.machine |= {"allocator": None, "torch": "2", "python": "3", "mha_ablate": "1", "text": "t"}
    seen.machine |= {"git": {"commit": "0123456789", "dirty": True}}
    for name, both in rates.items():
        seen.flops[name], seen.tokens[name] = 10**10, 768
        for turn, rate in enumerate(both):
            seen.note("speed", name, 2, value=rate)
            seen.note("speed", name, 1, value=rate / 2)
            seen.note("versus", name, value=10.0 * (1 + turn))
    for round_ in (1, 2):
        for key in (("gemm", "fp32"), ("gemm", "bf16")):
            seen.note(*key, value=1000.0)
        for arm in ("dense", "none_scaled"):
            for place in (*rates, "default"):
                seen.note("arm", place, arm, value=30.0 * round_)
        for key in (("startup", "help"), ("startup", "first step"), ("telling", "evaluation"), ("report",)):
            seen.note(*key, value=0.2 * round_)
    seen.reported = {"runs": 1000, "evaluations": 100}
    return seen


def test_medians_ratios_and_shares_are_taken_round_by_round() -> None:
    asked = parse(["--setting", "small", "speed", "scaling", "arms", "--versus", "x", "--workers", "2"])
    found = result_of(seen_twice({"small": (40.0, 60.0)}), asked)
    assert (found["setting"], found["steps_per_s"], found["steps_per_s_range"]) == ("small", 50.0, [40.0, 60.0])
    assert (found["tokens_per_s"], found["model_flops_per_step"]) == (38400, 10**10)
    assert (found["share_of_peak"], found["share_of_peak_range"]) == (0.5, [0.4, 0.6])
    assert (found["versus"]["ratio"], found["versus"]["ratio_range"]) == (3.5, [3.0, 4.0])
    assert {workers: s["steps_per_s"] for workers, s in found["scaling"].items()} == {"1": 25.0, "2": 50.0}
    assert found["arms"]["none_scaled"]["step_ms"] == 45.0


def test_the_tables_hold_everything_and_fit_a_terminal(tmp_path: Path) -> None:
    asked = parse(["--versus", "x", "--workers", "2"])
    result = result_of(seen_twice({"small": (40.0, 60.0), "medium": (1.23, 1.25)}), asked)
    assert list(result["settings"]) == ["small", "medium"]
    text, page = as_text(tables(result)), as_markdown(tables(result))
    for word in ("small", "medium", "default", "none_scaled", "bf16", "1,000 runs", "0123456, changed", "evaluation"):
        assert word in text
        assert word in page
    assert max(map(len, text.splitlines())) <= 80
    for table in page.split("\n\n")[1::2]:
        assert len({row.count("|") for row in table.splitlines()}) == 1

    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    for _ in range(2):
        write_into(copy, "bench", page)
    begin, end = marks("bench")
    before, after = re.split(f"{begin}.*{end}", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert copy.read_text(encoding="utf-8") == f"{before}{begin}\n\n{page}\n\n{end}{after}"


# ---- the command


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def bench(tmp_path: Path) -> Start:
    """The command as its users have it; its temporary folders go below tmp_path/tmp."""
    (tmp_path / "tmp").mkdir()

    def start(*argv: str, python: tuple[str, ...] = (sys.executable,), **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*python, BENCH, *argv],
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path / "tmp"), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    return start


def test_the_command_measures_and_prints_json_alone(bench: Start, text_file: Path, tmp_path: Path) -> None:
    parts = ["speed", "arms", "startup", "telling"]
    options = ["--setting", "small", "--rounds", "1", "--workers", "1", "--data", text_file.name, "--json"]
    told = 'test "$BENCH_SETTING $BENCH_STEPS $BENCH_WORKERS" = "small 6 1" && echo 12.5 steps/s'
    process = bench(*parts, *options, "--versus", told, *SMALL, "trainer.compile=false")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    found: dict[str, Any] = json.loads(out)
    assert (found["setting"], found["workers"], found["rounds"]) == ("small", 1, 1)
    assert found["versus"]["steps_per_s"] == 12.5
    assert found["versus"]["ratio"] == pytest.approx(found["steps_per_s"] / 12.5, rel=1e-3)
    assert found["tokens_per_s"] == pytest.approx(found["steps_per_s"] * 4 * 8, rel=1e-3, abs=1)
    assert found["gemm_peak_gflops"].keys() == {"fp32", "bf16"}
    flops = found["steps_per_s"] * found["model_flops_per_step"] / 1e9
    assert found["share_of_peak"] == pytest.approx(flops / found["gemm_peak_gflops"]["fp32"], rel=1e-3)
    assert (found["precision"], found["text"]) == ("fp32", text_file.name)
    assert found["arms"].keys() == {"dense", "none"}
    assert found["startup_s"].keys() == {"help", "list", "first step"}
    assert found["telling"].keys() == {"evaluation", "logging and saving"}
    assert {"cpu", "cores", "torch", "allocator"} <= found.keys()
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "word"),
    [
        (["--setting", "huge"], "medium"),
        (["sped"], "speed, scaling"),
        (["--rounds", "0"], "--rounds"),
        (["--rounds", "many"], "--rounds"),
        (["--workers", "0"], "--workers"),
        (["--workers", "99999"], "cores"),
        (["speed", "optim.lrr=3"], "optim.lr"),
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--nothing"], "--nothing"),
        (["arms", "--versus", "echo 3"], "--versus"),
        (["--versus", " "], "--versus"),
        (["--json", "--markdown"], "--json"),
        (["--write", "--setting", "small"], "--write"),
        (["--setting", "small", "--workers", "1", "model.nothing=3"], "model.nothing"),
    ],
)
def test_a_wrong_request_is_one_line(argv: list[str], word: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capfd.readouterr()
    (line,) = [line for line in err.splitlines() if not line.startswith("round")]
    assert line.startswith("bench: ")
    assert word in line
    assert not out


@pytest.mark.parametrize(("command", "why"), [("echo hi", "no steps/s"), ("echo hi >&2; exit 3", "exit code 3")])
def test_a_command_that_says_nothing_of_use_ends_it(
    command: str, why: str, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert main(["--setting", "small", "--versus", command]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("round")]
    assert why in line
    assert line.endswith("its last line: hi")
    assert list(tmp_path.iterdir()) == []


def test_stopped_in_the_other_command(bench: Start, tmp_path: Path) -> None:
    process = bench("--setting", "small", "--versus", "echo $$ > new; mv new pid; sleep 100; echo 3 steps/s")
    pid = int(wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text()))
    expect_nothing_left(process, signal.SIGTERM, [pid], tmp_path)


def test_stopped_while_it_trains(bench: Start, tmp_path: Path) -> None:
    words = [word for word in SMALL if "steps=" not in word]
    process = bench("--setting", "small", "--workers", "1", *words, "trainer.compile=false", "trainer.steps=1000000")
    (file,) = wait_for(lambda: list((tmp_path / "tmp").rglob("metrics.jsonl")))
    pid = json.loads(file.with_name("run.json").read_text())["owner"]["pid"]
    expect_nothing_left(process, signal.SIGINT, [pid], tmp_path)


def expect_nothing_left(process: subprocess.Popen[str], how: signal.Signals, pids: list[int], place: Path) -> None:
    """After the signal: one line, exit code 130, no child process, no temporary folder."""
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert [line for line in err.splitlines() if not line.startswith(("round", "  "))] == ["bench: interrupted"]
    for pid in pids:
        wait_for(lambda pid=pid: gone(pid), 20)
    assert list((place / "tmp").iterdir()) == []


def test_a_python_without_the_package_hands_over_to_the_checkouts_own(bench: Start, tmp_path: Path) -> None:
    bare = (sys.executable, "-S")  # no site-packages
    process = bench("--help", python=bare, VENV=sys.prefix)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "--versus" in out
    process = bench("--help", python=bare, VENV=str(tmp_path / "none"))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "scripts/setup" in err


# ---- its page


def test_the_commands_of_the_page_are_understood(text_file: Path) -> None:
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines()]
    assert len(lines) >= 5
    for words in lines:
        assert words[0] == "scripts/bench"
        parse([str(text_file) if word == "my_text.txt" else word for word in words[1:]])
