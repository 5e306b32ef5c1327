"""The measurement: every part once a round, round after round."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from mha_ablate.training.hardware import cpu_count
from scripts.benchmark.process import last_line, mha_ablate, run_versus, started
from scripts.benchmark.request import SETTINGS, Failed, Overrides
from scripts.benchmark.result import Seen
from scripts.benchmark.runs import (
    SEEDS_WRITTEN,
    WRITTEN,
    lines_of,
    model_flops_per_step,
    multiply,
    rate_of,
    read,
    shares_of_telling,
)

HERE = Path(__file__).resolve().parent


class Bench:
    """A measurement under way: what was asked, where its runs go, what has been seen."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.folder = asked, folder
        self.seen = Seen()
        self.text = {"data": "text", "data.path": quoted(asked.data.resolve())} if asked.data else {}

    def run(self, command: str, *overrides: Overrides, options: tuple[str, ...] = ()) -> Path:
        """Run `compare` or `train`, later overrides before earlier ones; returns the new study folder."""
        target = {"outputs": quoted(self.folder), "name": "run"}
        words: Overrides = {"trainer.device": "cpu"}
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
        self.seen.note("versus", name, value=rate)
        say(f"  {name}: the other command, {rate:.2f} steps/s")

    def speed(self, name: str, workers: int) -> None:
        """Steps per second of all workers together: as many seeds of `dense` as there are workers."""
        seeds = {"study.arms": "[dense]", "study.seeds": workers}
        study = self.run("compare", self.settings_of(name), seeds, options=("--workers", str(workers)))
        runs = [study / f"dense/seed={seed}" for seed in range(workers)]
        rate = sum(rate_of(run) for run in runs)
        self.seen.note("speed", name, workers, value=rate)
        config = yaml.safe_load((runs[0] / "config.yaml").read_text(encoding="utf-8"))
        self.seen.flops[name] = model_flops_per_step(config, read(runs[0] / "run.json")["text"]["vocab_size"])
        self.seen.tokens[name] = config["trainer"]["batch_size"] * config["model"]["context"]
        self.look_at(runs[0])
        self.seen.machine["compiled"] = config["trainer"]["compile"]
        say(f"  {name}: {rate:.2f} steps/s on {workers} worker(s)")

    def peak(self) -> None:
        """GFLOP/s of matrix products on as many cores as there are workers, all at once."""
        command = [sys.executable, str(HERE / "gemm_peak.py")]
        alone = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        with contextlib.ExitStack() as stack:
            cores = [
                stack.enter_context(started(command, stdin=subprocess.PIPE, env=alone))
                for _ in range(self.asked.workers)
            ]
            for core in cores:
                assert core.stdout
                core.stdout.readline()
            for core in cores:
                assert core.stdin
                with contextlib.suppress(BrokenPipeError):  # it has failed, which is seen below
                    core.stdin.write("go\n")
                    core.stdin.flush()
            said = [core.communicate() for core in cores]
        if any(core.returncode for core in cores):
            raise Failed(f"a matrix product failed: {last_line(*(err for _, err in said))}")
        found = [json.loads(out) for out, _ in said]
        peaks = {precision: sum(core[precision] for core in found) for precision in found[0]}
        for precision, peak in peaks.items():
            self.seen.note("gemm", precision, value=peak)
        say(f"  matrix products: {', '.join(f'{p} {peak:.0f} GFLOP/s' for p, peak in peaks.items())}")

    def arms(self, place: str, overrides: Overrides) -> None:
        """The step of every arm: what `compare` measures when nothing else runs."""
        short = {"trainer.steps": 1, "trainer.eval_every": 1, "study.seeds": 1}
        study = self.run("compare", overrides, short, options=("--workers", "1"))
        costs = read(study / "cost.json")["costs"]
        for arm, cost in costs.items():
            self.seen.note("arm", place, arm, value=cost["step_ms"])
        self.look_at(next(study.glob("*/seed=0")))
        say(f"  {place}: " + ", ".join(f"{arm} {cost['step_ms']:.1f} ms" for arm, cost in costs.items()))

    def startup(self) -> None:
        """Seconds until help, a list and the first training step are there; the very first time warms up."""
        if not self.seen.below("startup"):
            self.start_once()
        for name, seconds in self.start_once().items():
            self.seen.note("startup", name, value=seconds)
        say(f"  first step after {self.seen.values['startup', 'first step'][-1]:.2f} s")

    def start_once(self) -> dict[str, float]:
        """Each of the three, once."""
        seconds = {}
        for name, word in (("help", "--help"), ("list", "list")):
            begun = time.perf_counter()
            mha_ablate(word, cwd=self.folder)
            seconds[name] = time.perf_counter() - begun
        begun = time.time()
        run = only_run(self.run("train", self.asked.overrides, {"trainer.steps": 1, "trainer.log_every": 1}))
        self.look_at(run)
        return {**seconds, "first step": lines_of(run)[0]["wall_time"] - begun}

    def telling(self) -> None:
        """What one run at the default settings spends on anything but training, once it trains."""
        run = only_run(self.run("train", self.asked.overrides))
        self.look_at(run)
        shares = shares_of_telling(lines_of(run), read(run / "run.json")["ended"])
        for what, share in shares.items():
            self.seen.note("telling", what, value=share)
        say("  of a run, " + ", ".join(f"{what} {share:.1%}" for what, share in shares.items()))

    def report(self) -> None:
        """Seconds for a report over a study that nobody has reported on before."""
        study = self.run("compare", WRITTEN, options=("--workers", str(self.asked.workers)))
        multiply(study, SEEDS_WRITTEN)
        self.seen.reported = {"runs": len(list(study.glob("*/seed=*"))), "evaluations": WRITTEN["trainer.steps"]}
        self.look_at(study / "dense/seed=0")
        begun = time.perf_counter()
        mha_ablate("report", str(study), cwd=self.folder)
        self.seen.note("report", value=time.perf_counter() - begun)
        say(f"  report: {self.seen.values['report',][-1]:.1f} s")

    def look_at(self, run: Path) -> None:
        """What a run says of the machine and the text."""
        if self.seen.machine.get("text"):
            return
        about = read(run / "run.json")
        source = about["provenance"]
        self.seen.machine = {
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


def worker_counts(workers: int) -> list[int]:
    """1, 2, 4 ... and the number itself."""
    return sorted({workers, *(2**n for n in range(workers.bit_length()) if 2**n < workers)})


def only_run(study: Path) -> Path:
    """The run that `train` has left."""
    (run,) = study.glob("*/seed=*")
    return run


def quoted(path: Path) -> str:
    """A path as a value of an override, whatever characters it has."""
    return "'" + str(path).replace("'", r"\'") + "'"


def say(line: str) -> None:
    """A line of progress on standard error."""
    print(line, file=sys.stderr, flush=True)


def measure(asked: argparse.Namespace) -> Seen:
    """All rounds, in a temporary folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="mha_ablate-bench-") as folder:
        bench = Bench(asked, Path(folder))
        for number in range(asked.rounds):
            say(f"round {number + 1} of {asked.rounds}")
            bench.round(number)
        return bench.seen
