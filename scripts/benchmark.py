"""What scripts/bench measures: every part once a round, round after round, and then the median and the range of each.

Everything is seen from outside: the ordinary `mha-ablate` runs as a process of its own into a temporary folder, and the
numbers are read from the files that it leaves.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from mha_ablate.training.hardware import cpu_count
from scripts.benchmark_tables import as_markdown, as_text, tables, write_into

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/performance.md"
PARTS = {
    "speed": "training on all workers, as a share of what the cores can multiply",
    "scaling": "training on fewer workers",
    "arms": "the step of every arm, as `compare` times it",
    "startup": "until help, a list and the first training step are there",
    "telling": "what a run spends on evaluating, logging and saving",
    "report": "a report over 1,000 runs of 100 evaluations",
}

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A size of model and batch, and as many steps as take ten to twenty seconds on one core."""

    overrides: Overrides
    steps: int
    log_every: int


NANOGPT = {"study": "nanogpt_cpu"}  # 4 layers, 4 heads, d 128, context 64, batch 12, learned positions, no bias
WIDER = {"n_layers": 6, "n_heads": 8, "d_model": 256, "context": 256}
SETTINGS = {
    "small": Setting(NANOGPT, 200, 10),
    "medium": Setting(
        {**NANOGPT, **{f"model.{key}": value for key, value in WIDER.items()}, "trainer.batch_size": 32}, 8, 1
    ),
}

# A study for the report: how long its runs trained is of no importance, how much they wrote is.
WRITTEN = {
    "model.n_layers": 2,
    "model.n_heads": 2,
    "model.d_model": 16,
    "model.context": 8,
    "trainer.batch_size": 4,
    "trainer.steps": 100,
    "trainer.eval_every": 1,
    "data.max_chars": 5000,
    "study.seeds": 1,
}
SEEDS_WRITTEN = 200


class Failed(Exception):
    """What ends the measurement, in one line, with its exit code: 1 for something that failed, 2 for the request."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


# ---- the request


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2."""
        raise Failed(f"{message} (scripts/bench --help)", 2)


def parse(argv: list[str]) -> argparse.Namespace:
    """The request, checked. Raises Failed for what cannot be."""
    parts = "\n".join(f"  {name:<9} {meaning}" for name, meaning in PARTS.items())
    parser = Parser(
        prog="scripts/bench",
        description="How fast is it here? Everything is repeated in rounds; median and range are given.",
        epilog=f"parts:\n{parts}\n\ndocs/performance.md explains what is measured and how.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("words", nargs="*", metavar="PART | KEY=VALUE", help="parts (default: all; with --setting: speed), overrides")
    add("--setting", choices=SETTINGS, help="one setting alone (default: both)")
    add("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    add("--workers", type=int, default=cpu_count(), help="processes that train side by side (default: one per core)")
    add("--data", type=Path, metavar="FILE", help="the text to train on (default: Python's documentation)")
    add("--versus", metavar="CMD", help="a command to compare with, which prints its own steps/s; run once a round")
    add("--json", action="store_true", help="one JSON object on standard output")
    add("--markdown", action="store_true", help="tables in Markdown")
    add("--write", action="store_true", help="put the tables into docs/performance.md")
    asked = parser.parse_intermixed_args(argv)
    asked.parts = [word for word in asked.words if "=" not in word]
    asked.overrides = dict(word.split("=", 1) for word in asked.words if "=" in word)
    check(asked)
    asked.parts = [p for p in PARTS if p in asked.parts] or (["speed"] if asked.setting else list(PARTS))
    asked.settings = [asked.setting] if asked.setting else list(SETTINGS)
    return asked


def check(asked: argparse.Namespace) -> None:
    """Raise Failed for a request that can be seen to be wrong before anything runs."""
    unknown = [part for part in asked.parts if part not in PARTS]
    if unknown:
        raise Failed(f"there is no part {unknown[0]}: choose from {', '.join(PARTS)}", 2)
    for name in ("rounds", "workers"):
        if getattr(asked, name) < 1:
            raise Failed(f"--{name} must be at least 1", 2)
    if asked.data and not (asked.data.is_file() and os.access(asked.data, os.R_OK)):
        raise Failed(f"--data {asked.data} is no file that can be read", 2)
    if asked.versus and asked.parts and "speed" not in asked.parts:
        raise Failed("--versus belongs to the part speed", 2)
    if asked.write and (asked.parts or asked.setting or asked.overrides):
        raise Failed("--write takes the whole measurement: leave out parts, --setting and overrides", 2)


# ---- processes


@contextlib.contextmanager
def started(command: list[str] | str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process in a session of its own, so that all that it started can be ended with it where we are interrupted."""
    process = subprocess.Popen(
        command,
        stdin=options.pop("stdin", subprocess.DEVNULL),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
        **options,
    )
    try:
        yield process
    except BaseException:
        for how in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        raise
    finally:
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def last_line(*texts: str) -> str:
    """The last line that was printed, for an error message."""
    return next((text.strip().splitlines()[-1] for text in texts if text.strip()), "nothing")


def mha_ablate(*words: str, cwd: Path) -> str:
    """Run the command line to its end; returns what it printed. Raises Failed with its last line."""
    beside = Path(sys.executable).parent / "mha-ablate"
    command = [str(beside)] if beside.exists() else [sys.executable, "-m", "mha_ablate"]
    with started([*command, *words], cwd=cwd) as process:
        out, err = process.communicate()
    if process.returncode:
        raise Failed(f"mha-ablate {words[0]}: {last_line(err, out)}", 2 if process.returncode == 2 else 1)
    return out


# ---- what others say


NUMBER = r"([0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?)"
SAID = re.compile(rf"steps?(?:/s|_per_s)\s*[:=]\s*{NUMBER}|{NUMBER}\s*steps?/s")


def steps_per_s(said: str) -> float | None:
    """Steps per second out of what a command printed; None where it is not said.

    Understood, in this order: a JSON object with `steps_per_s` (the last line, or all of it); `steps/s: 21.7`,
    `steps_per_s=21.7` or `21.7 steps/s`, the last of them; a bare number as the last line.
    """
    lines = said.strip().splitlines()
    for text in (said, *lines[-1:]):
        with contextlib.suppress(ValueError):
            found = json.loads(text)
            if isinstance(found, dict) and (value := positive(found.get("steps_per_s"))):
                return value
    matches = [m[1] or m[2] for m in SAID.finditer(said)]
    for text in (*matches[-1:], *lines[-1:]):
        if value := positive(text):
            return value
    return None


def positive(value: Any) -> float | None:
    """A number above zero and below infinity, or None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if 0 < number < math.inf and not isinstance(value, bool) else None


def run_versus(command: str, **told: str) -> float:
    """Steps per second of the other command, which finds what it is told in its environment. Raises Failed."""
    with started(command, shell=True, env={**os.environ, **told}) as process:
        out, err = process.communicate()
    if process.returncode:
        raise Failed(f"--versus ended with exit code {process.returncode}; its last line: {last_line(err, out)}")
    rate = steps_per_s(out)
    if rate is None:
        raise Failed(f"--versus printed no steps/s (such as `steps/s: 21.7`); its last line: {last_line(out, err)}")
    return rate


# ---- what runs leave


def read(file: Path) -> Any:
    """A JSON file, parsed."""
    return json.loads(file.read_text(encoding="utf-8"))


def lines_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def rate_of(run: Path) -> float:
    """Steps per second of one run: the median of the logged intervals but the first, in which everything warms up."""
    timed = [line["perf/step_ms"] for line in lines_of(run) if "perf/step_ms" in line]
    return 1000 / statistics.median(timed[1:] or timed)


def model_flops_per_step(config: dict[str, Any], vocab_size: int, *, fc_out: bool = True) -> int:
    """FLOPs of the matrix products of one training step: B T (6 (L 12 d^2 + V d) + 12 L T d) where widths are the usual ones.

    Two per multiply-add, and a backward pass of twice the forward. Without fc_out, 11 in place of 12. Attention counts
    whole, with what a causal kernel may skip.
    """
    m, B = config["model"], config["trainer"]["batch_size"]
    L, T, d = m["n_layers"], m["context"], m["d_model"]
    width = m["n_heads"] * (m["head_dim"] or d // m["n_heads"])
    layer = (4 if fc_out else 3) * d * width + 2 * d * (m["d_ff"] or 4 * d)
    return B * T * (6 * (L * layer + vocab_size * d) + 12 * L * T * width)


def shares_of_telling(lines: list[dict[str, Any]], ended: float) -> dict[str, float]:
    """Of the time from a run's first logged step to its end: what evaluation takes, and what logging and saving take."""
    first, last = lines[0], lines[-1]
    wall, training = ended - first["wall_time"], last["train_s"] - first["train_s"]
    evaluation = sum(
        line["wall_time"] - before["wall_time"] - (line["train_s"] - before["train_s"])
        for before, line in itertools.pairwise(lines)
        if "loss/val" in line
    )
    return {"evaluation": evaluation / wall, "logging and saving": (wall - training - evaluation) / wall}


def multiply(study: Path, seeds: int) -> None:
    """Make a study of one seed into one of many, by copies of its runs whose losses are moved a little."""
    plan = read(study / "plan.json")
    for arm in plan["arms"]:
        source = study / arm / "seed=0"
        about, lines = read(source / "run.json"), lines_of(source)
        for seed in range(1, seeds):
            draw, target = random.Random(f"{arm} {seed}"), study / arm / f"seed={seed}"
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("checkpoint"))
            moved = [{k: v + draw.gauss(0, 0.02) if k == "loss/val" else v for k, v in x.items()} for x in lines]
            (target / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in moved), encoding="utf-8")
            own = {"seed": seed, "config_hash": f"{draw.getrandbits(64):016x}"}
            own["result"] = {**about["result"], "val_loss": moved[-1]["loss/val"]}
            (target / "run.json").write_text(json.dumps(about | own), encoding="utf-8")
            plan["cells"][f"{arm}/seed={seed}"] = own["config_hash"]
    (study / "plan.json").write_text(json.dumps(plan | {"seeds": list(range(seeds))}), encoding="utf-8")


# ---- the measurement


class Bench:
    """A measurement under way: what was asked, where its runs go, and one value a round of everything that is seen."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.seen: dict[tuple[Any, ...], list[float]] = {}
        self.flops: dict[str, int] = {}
        self.tokens: dict[str, int] = {}
        self.machine: dict[str, Any] = {}
        self.text = {"data": "text", "data.path": quoted(asked.data.resolve())} if asked.data else {}

    def note(self, *key: Any, value: float) -> None:
        """Keep a value of this round."""
        self.seen.setdefault(key, []).append(value)

    def run(self, command: str, *overrides: Overrides, options: tuple[str, ...] = ()) -> Path:
        """Run `compare` or `train`, later overrides before earlier ones; returns the new study folder."""
        target = {"outputs": quoted(self.folder), "name": "run", "trainer.device": "cpu"}
        words: Overrides = {}
        for given in (*overrides, target):
            words |= given
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        mha_ablate(command, *(f"{k}={v}" for k, v in words.items()), "--quiet", *options, cwd=self.folder)
        return self.folder / "run"

    def settings_of(self, name: str) -> Overrides:
        """The overrides of a setting, and evaluation at the end alone."""
        setting = SETTINGS[name]
        words = {**setting.overrides, "trainer.steps": setting.steps, "trainer.log_every": setting.log_every}
        words |= self.text | self.asked.overrides
        return {**words, "trainer.eval_every": words["trainer.steps"]}

    def round(self, number: int) -> None:
        """Everything that was asked for, once."""
        parts = self.asked.parts
        for name in self.asked.settings:
            if "speed" in parts:
                self.speed_and_versus(name, number)
            if "scaling" in parts:
                counts = worker_counts(self.asked.workers)
                for workers in counts[: -1 if "speed" in parts else None]:
                    self.speed(name, workers)
            if "arms" in parts:
                self.arms(name, self.settings_of(name))
        if "speed" in parts:
            self.peak()
        if "arms" in parts and not self.asked.setting:
            self.arms("default", self.text | self.asked.overrides)
        for part, measure in (("startup", self.startup), ("telling", self.telling), ("report", self.report)):
            if part in parts:
                measure()

    def speed_and_versus(self, name: str, number: int) -> None:
        """Both, one after the other; which comes first changes from round to round. The other command begins: it may fail."""
        turns = [lambda: self.speed(name, self.asked.workers)]
        if self.asked.versus:
            turns.insert(number % 2, lambda: self.versus(name))
        for turn in turns:
            turn()

    def versus(self, name: str) -> None:
        """The other command's steps per second."""
        steps, workers = str(self.settings_of(name)["trainer.steps"]), str(self.asked.workers)
        rate = run_versus(self.asked.versus, BENCH_SETTING=name, BENCH_STEPS=steps, BENCH_WORKERS=workers)
        self.note("versus", name, value=rate)
        say(f"  {name}: the other command, {rate:.2f} steps/s")

    def speed(self, name: str, workers: int) -> None:
        """Steps per second of all workers together: as many seeds of `dense` as there are workers."""
        seeds = {"study.arms": "[dense]", "study.seeds": workers}
        study = self.run("compare", self.settings_of(name), seeds, options=("--workers", str(workers)))
        runs = [study / f"dense/seed={seed}" for seed in range(workers)]
        rate = sum(rate_of(run) for run in runs)
        self.note("speed", name, workers, value=rate)
        config = yaml.safe_load((runs[0] / "config.yaml").read_text(encoding="utf-8"))
        self.flops[name] = model_flops_per_step(config, read(runs[0] / "run.json")["text"]["vocab_size"])
        self.tokens[name] = config["trainer"]["batch_size"] * config["model"]["context"]
        self.look_at(runs[0])
        say(f"  {name}: {rate:.2f} steps/s on {workers} worker(s)")

    def peak(self) -> None:
        """GFLOP/s of matrix products on as many cores as there are workers, all at once."""
        command = [sys.executable, str(ROOT / "scripts/gemm_peak.py")]
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with contextlib.ExitStack() as stack:
            processes = [
                stack.enter_context(started(command, stdin=subprocess.PIPE, env=alone))
                for _ in range(self.asked.workers)
            ]
            for process in processes:
                assert process.stdout
                process.stdout.readline()
            for process in processes:
                assert process.stdin
                process.stdin.write("go\n")
                process.stdin.flush()
            found = [json.loads(process.communicate()[0] or "{}") for process in processes]
        if not all(found):
            raise Failed("a matrix product failed: scripts/gemm_peak.py says more")
        for precision in found[0]:
            self.note("gemm", precision, value=sum(core[precision] for core in found))
        say("  " + ", ".join(f"{p}: {self.seen['gemm', p][-1]:.0f} GFLOP/s" for p in found[0]) + " in matrix products")

    def arms(self, place: str, overrides: Overrides) -> None:
        """The step of every arm: what `compare` measures when nothing else runs."""
        short = {"trainer.steps": 1, "trainer.eval_every": 1, "study.seeds": 1}
        study = self.run("compare", overrides, short, options=("--workers", "1"))
        costs = read(study / "cost.json")["costs"]
        for arm, cost in costs.items():
            self.note("arm", place, arm, value=cost["step_ms"])
        self.look_at(study / f"{next(iter(costs))}/seed=0")
        say(f"  {place}: " + ", ".join(f"{arm} {cost['step_ms']:.1f} ms" for arm, cost in costs.items()))

    def startup(self) -> None:
        """Seconds until help and a list are there, and until the first training step is logged. The first call warms up."""
        for timed in (False, True) if ("startup", "help") not in self.seen else (True,):
            for name, word in (("help", "--help"), ("list", "list")):
                begun = time.perf_counter()
                mha_ablate(word, cwd=self.folder)
                if timed:
                    self.note("startup", name, value=time.perf_counter() - begun)
            begun = time.time()
            study = self.run("train", self.asked.overrides, {"trainer.steps": 1, "trainer.log_every": 1})
            if timed:
                self.note("startup", "first step", value=lines_of(study / "dense/seed=0")[0]["wall_time"] - begun)
        self.look_at(self.folder / "run/dense/seed=0")
        say(f"  first step after {self.seen['startup', 'first step'][-1]:.2f} s")

    def telling(self) -> None:
        """What one run at the default settings spends on anything but training, once it trains."""
        run = self.run("train", self.asked.overrides) / "dense/seed=0"
        self.look_at(run)
        shares = shares_of_telling(lines_of(run), read(run / "run.json")["ended"])
        for what, share in shares.items():
            self.note("telling", what, value=share)
        say("  of a run, " + ", ".join(f"{what} {share:.1%}" for what, share in shares.items()))

    def report(self) -> None:
        """Seconds for a report over a study that nobody has reported on before."""
        study = self.run("compare", WRITTEN)
        multiply(study, SEEDS_WRITTEN)
        self.look_at(study / "dense/seed=0")
        begun = time.perf_counter()
        mha_ablate("report", str(study), cwd=self.folder)
        self.note("report", value=time.perf_counter() - begun)
        say(f"  report: {self.seen['report',][-1]:.1f} s")

    def look_at(self, run: Path) -> None:
        """What a run says of the machine and the text."""
        if self.machine.get("text"):
            return
        about = read(run / "run.json")
        source = about["provenance"]
        self.machine = {
            "cpu": source["device_name"],
            "cores": cpu_count(),
            "precision": source["precision"],
            "allocator": source.get("allocator"),
            "torch": source["versions"]["torch"],
            "python": source["python"],
            "platform": source["platform"],
            "mha_ablate": source["mha_ablate"],
            "git": source["git"],
            "text": about["text"]["name"],
        }

    # ---- and what it comes to

    def result(self) -> dict[str, Any]:
        """Medians and ranges. With --setting, that setting's numbers stand at the top; else each has a place in `settings`."""
        settings = {name: {"setting": name, **self.result_of(name)} for name in self.asked.settings}
        found: dict[str, Any] = settings[self.asked.setting] if self.asked.setting else {"settings": settings}
        if ("gemm", "fp32") in self.seen:
            for key, summed in (("gemm_peak_gflops", median), ("gemm_peak_gflops_range", extent)):
                found[key] = {p: summed(self.seen["gemm", p]) for p in ("fp32", "bf16")}
        if not self.asked.setting:
            found["default_arms"] = self.arms_of("default")
        found["startup_s"] = {k[1]: spread("s", v) for k, v in self.seen.items() if k[0] == "startup"}
        found["telling"] = {k[1]: spread("share", v) for k, v in self.seen.items() if k[0] == "telling"}
        seconds = self.seen.get(("report",))
        found["report"] = spread("s", seconds) | {"runs": 5 * SEEDS_WRITTEN, "evaluations": 100} if seconds else None
        request = {"workers": self.asked.workers, "rounds": self.asked.rounds, "overrides": self.asked.overrides}
        return {**found, **request, **self.machine}

    def result_of(self, name: str) -> dict[str, Any]:
        """Of one setting: speed, the comparison, the share of the peak, arms, workers."""
        found: dict[str, Any] = {}
        rates = self.seen.get(("speed", name, self.asked.workers))
        if rates and "speed" in self.asked.parts:
            found = spread("steps_per_s", rates)
            found["tokens_per_s"] = found["steps_per_s"] * self.tokens[name]
            found["model_flops_per_step"] = self.flops[name]
            peaks = self.seen["gemm", self.machine["precision"]]
            shares = [self.flops[name] * r / (1e9 * p) for r, p in zip(rates, peaks, strict=True)]
            found |= spread("share_of_peak", shares) | {"versus": self.versus_of(name, rates)}
        scaled = {str(k[2]): spread("steps_per_s", v) for k, v in self.seen.items() if k[:2] == ("speed", name)}
        found["scaling"] = dict(sorted(scaled.items(), key=lambda item: int(item[0]))) if len(scaled) > 1 else {}
        return {**found, "arms": self.arms_of(name)}

    def versus_of(self, name: str, rates: list[float]) -> dict[str, Any] | None:
        """The other command, and how much faster we are: the ratio of every round, then its median."""
        theirs = self.seen.get(("versus", name))
        if not theirs:
            return None
        ratios = [ours / other for ours, other in zip(rates, theirs, strict=True)]
        return {**spread("steps_per_s", theirs), **spread("ratio", ratios), "command": self.asked.versus}

    def arms_of(self, place: str) -> dict[str, Any]:
        """Milliseconds of a step by arm."""
        return {k[2]: spread("step_ms", v) for k, v in self.seen.items() if k[:2] == ("arm", place)}


def worker_counts(workers: int) -> list[int]:
    """1, 2, 4 ... and the number itself."""
    return sorted({workers, *(2**n for n in range(workers.bit_length()) if 2**n < workers)})


def quoted(path: Path) -> str:
    """A path as a value of an override, whatever characters it has."""
    return "'" + str(path).replace("'", r"\'") + "'"


def median(values: list[float]) -> float:
    """The median to five digits: more would be noise."""
    return float(f"{statistics.median(values):.5g}")


def extent(values: list[float]) -> list[float]:
    """Lowest and highest."""
    return [float(f"{value:.5g}") for value in (min(values), max(values))]


def spread(name: str, values: list[float]) -> dict[str, Any]:
    """`{"ratio": median, "ratio_range": [lowest, highest]}`."""
    return {name: median(values), f"{name}_range": extent(values)}


def say(line: str) -> None:
    """A line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def measure(asked: argparse.Namespace) -> dict[str, Any]:
    """All rounds, in a temporary folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mha_ablate-bench-") as folder:
        bench = Bench(asked, Path(folder))
        for number in range(asked.rounds):
            say(f"round {number + 1} of {asked.rounds}")
            bench.round(number)
        return bench.result()


def main(argv: list[str]) -> int:
    """Measure what `argv` asks for and print it; returns the exit code."""
    try:
        asked = parse(argv)
        result = measure(asked)
        if asked.write:
            write_into(PAGE, as_markdown(tables(result)))
    except Failed as error:
        say(f"bench: {error}")
        return error.code
    except KeyboardInterrupt:
        say("bench: interrupted")
        return 130
    if asked.json:
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print((as_markdown if asked.markdown else as_text)(tables(result)))
    return 0
