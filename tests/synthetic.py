"""A study as training would have left it, written without training: as many arms, seeds and lines as are asked for."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

TEXT = {
    "name": "synthetic.txt",
    "sha256": "ab" * 32,
    "characters": 1000,
    "split": "blocks",
    "train_tokens": 900,
    "val_tokens": 100,
    "vocab_size": 50,
    "tokenizer": "char",
    "tokenizer_sha256": "cd" * 32,
}
TOKENS_PER_STEP = 768


def write_study(path: Path, *, arms: list[str], seeds: int, evaluations: int, logged: int = 2, seed: int = 0) -> Path:
    """`arms` x `seeds` finished runs, each with its evaluations and `logged` lines of training before each of them.

    The first arm is the baseline. The numbers are drawn from `seed`.
    """
    draw = random.Random(seed)
    for i, arm in enumerate(arms):
        for run_seed in range(seeds):
            _write_run(path, arm, run_seed, _lines(draw, 0.02 * i, evaluations, logged))
    plan: dict[str, Any] = {
        "hash": "0123456789abcdef",
        "written": 999.0,
        "earlier": [],
        "study": "synthetic",
        "baseline": arms[0],
        "margin": 0.01,
        "seeds": list(range(seeds)),
        "arms": {arm: [f"fc_out={arm}"] for arm in arms},
        "cells": {f"{arm}/seed={n}": f"{arm}-{n}" for arm in arms for n in range(seeds)},
    }
    (path / "plan.json").write_text(json.dumps(plan))
    return path


def _lines(draw: random.Random, worse: float, evaluations: int, logged: int) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl: a loss that falls from about 4 to about 2, with noise."""
    lines = []
    for n in range(1, evaluations * logged + 1):
        at = {"step": 10 * n, "tokens": 10 * n * TOKENS_PER_STEP, "gflop": 40.0 * n, "wall_time": 1000.0 + n}
        loss = 2.0 + 2.0 / (1.0 + n / 20) + worse + draw.gauss(0.0, 0.02)
        pace = {"perf/step_ms": 80.0 + draw.random(), "perf/tokens_per_s": 9000.0 + draw.random(), "train_s": 0.8 * n}
        lines.append(at | {"loss/train": loss, "optim/lr": 0.003 / n, "optim/grad_norm": 1.0 + draw.random()} | pace)
        if n % logged == 0:
            lines.append(at | {"loss/val": loss + draw.gauss(0.0, 0.01), "train_s": 0.8 * n})
    return lines


def _write_run(path: Path, arm: str, seed: int, lines: list[dict[str, Any]]) -> None:
    folder = path / arm / f"seed={seed}"
    folder.mkdir(parents=True)
    last = lines[-1]
    run = {
        "state": "ok",
        "error": None,
        "arm": arm,
        "seed": seed,
        "overrides": [f"fc_out={arm}", f"seed={seed}"],
        "choices": {"fc_out": arm},
        "config_hash": f"{arm}-{seed}",
        "arm_hash": f"{arm}-hash",
        "owner": {"host": "elsewhere", "pid": 1},
        "started": 1000.0,
        "ended": last["wall_time"] + 1.0,
        "text": TEXT,
        "cost": {"params": 1000, "params_attention": 400, "params_fc_out": 100, "flops_per_token": 2000.0},
        "provenance": {"versions": {"torch": "2.11"}, "device": "cpu", "precision": "fp32", "threads": 1},
        "result": {
            "step": last["step"],
            "val_loss": last["loss/val"],
            "step_ms": 80.0,
            "tokens_per_s": 9000.0,
            "train_s": last["train_s"],
            "gflop": last["gflop"],
        },
    }
    config = {
        "model": {"n_heads": 4, "d_model": 128},
        "optim": {"lr": 0.003},
        "trainer": {"steps": last["step"], "batch_size": 12},
        "data": {"split": "blocks"},
        "seed": seed,
    }
    (folder / "run.json").write_text(json.dumps(run))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
