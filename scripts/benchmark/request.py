"""What is to be measured: parts, settings, and what was asked for on the command line."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mha_ablate.config.compose import compose
from mha_ablate.errors import RequestError
from mha_ablate.training.compiled import why_not
from mha_ablate.training.hardware import cpu_count

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


# 4 layers, 4 heads, d 128, context 64, batch 12, learned positions, no bias. Compiled where that works, as a long run
# would be by default; the few steps that are measured here would not be.
NANOGPT = {"study": "nanogpt_cpu", "trainer.compile": "true" if why_not() is None else "false"}
WIDER = {"n_layers": 6, "n_heads": 8, "d_model": 256, "context": 256}
SETTINGS = {
    "small": Setting(NANOGPT, 200, 10),
    "medium": Setting(
        {**NANOGPT, **{f"model.{key}": value for key, value in WIDER.items()}, "trainer.batch_size": 32}, 8, 1
    ),
}


class Failed(Exception):
    """What ends the measurement, in one line, with its exit code: 1 for something that failed, 2 for the request."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


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
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object on standard output")
    form.add_argument("--markdown", action="store_true", help="tables in Markdown")
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
    if asked.workers > cpu_count():
        raise Failed(
            f"--workers {asked.workers}: there are {cpu_count()} cores, and two workers on one measure nothing", 2
        )
    if asked.data and not (asked.data.is_file() and os.access(asked.data, os.R_OK)):
        raise Failed(f"--data {asked.data} is no file that can be read", 2)
    try:
        compose([f"{key}={value}" for key, value in asked.overrides.items()])
    except RequestError as error:
        raise Failed(str(error), 2) from error
    if asked.versus is not None and not asked.versus.strip():
        raise Failed("--versus needs a command", 2)
    if asked.versus and asked.parts and "speed" not in asked.parts:
        raise Failed("--versus belongs to the part speed", 2)
    if asked.write and (asked.parts or asked.setting or asked.overrides):
        raise Failed("--write takes the whole measurement: leave out parts, --setting and overrides", 2)
