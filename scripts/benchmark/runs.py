"""What runs leave behind, and what can be read from it."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import statistics
from pathlib import Path
from typing import Any

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
