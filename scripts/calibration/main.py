"""How often what the package says of samples is true, where the truth is known: tables of docs/statistics.md."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from scripts.calibration import simulate
from scripts.page import check_marks, write_into

PAGE = Path(__file__).resolve().parents[2] / "docs/statistics.md"
FEWER = 5  # samples to one that is resampled or planned from: both take a thousand times as long
MARGINS = (3.0, 2.0, 1.5, 1.0, 0.75, 0.5)
PILOTS = (3, 5, 8)
EFFECTS = (2.0, 1.0, 0.5)
SCREENS = ((0, 2), (0, 4), (0, 8), (1, 4), (2, 4))  # distribution, seeds of a point
SO_FAR = (14, 16, 18, 19, 20, 21, 22, 23)  # points of 24
SETTINGS = (5, 8, 12, 24)
RATIOS = (0.0, 1.0, 4.0)


def main(argv: list[str]) -> int:
    """Simulate as much as `argv` says, and print the tables."""
    parser = argparse.ArgumentParser(prog="scripts/calibrate", description=__doc__)
    parser.add_argument("--samples", type=int, default=20_000, help="of each kind and size (default: 20000)")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/statistics.md")
    asked = parser.parse_args(argv)
    if asked.samples < FEWER:
        print(f"calibrate: --samples must be at least {FEWER}", file=sys.stderr)
        return 2
    if asked.write:
        check_marks(PAGE, "calibration")
    text = tables(asked.samples)
    print(text)
    if asked.write:
        write_into(PAGE, "calibration", text)
    return 0


def tables(samples: int) -> str:
    """All of them in Markdown, each under a line that says what it is of."""
    fewer = samples // FEWER
    parts = [
        f"{samples:,} samples or studies a row; {fewer:,} for BCa and for plans. Two standard errors of a share: "
        f"{error(0.05, samples)} points at 5%, {error(0.95, fewer)} at 95% of the fewer.",
    ]
    for make in (one_contrast, decisions, known_effect):
        say(make.__name__.replace("_", " "))
        parts.append(make(samples))
    say("plans")
    parts += [known_equality(samples), planned(fewer)]
    for make in (screens, screens_so_far, over_settings):
        say(make.__name__.replace("_", " "))
        parts.append(make(samples))
    return "\n\n".join(parts)


def error(share: float, samples: int) -> str:
    """Two standard errors in points."""
    return f"{200 * (share * (1 - share) / samples) ** 0.5:.1f}"


def say(what: str) -> None:
    """Progress, on standard error."""
    print(f"calibrate: {what}", file=sys.stderr, flush=True)


def percent(*shares: float) -> list[str]:
    """Shares as they stand in a table."""
    return [f"{100 * one:.1f}%" for one in shares]


def table(title: str, head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join([f"**{title}**", "", *(f"| {' | '.join(line)} |" for line in lines)])


def cells() -> list[tuple[simulate.Shape, int]]:
    """Every shape at every number of seeds."""
    return [(shape, n) for shape in simulate.SHAPES for n in simulate.SEEDS]


def one_contrast(samples: int) -> str:
    """Tests and intervals, each alone."""
    rows = []
    for shape, n in cells():
        found = simulate.one_contrast(shape, n, samples, samples // FEWER)
        rows.append([shape.name, str(n), *percent(*found.values())])
    head = ["differences", "seeds", "t test: false", "sign-flip: false", "t 95% covers", "t 90% covers"]
    head += ["BCa 95% covers", "P(worse) 95% covers", "upper 80% of s covers"]
    return table("One contrast, no true difference", head, rows)


def decisions(samples: int) -> str:
    """The rule where it should say nothing."""
    rows = [[shape.name, str(n), *percent(*simulate.decisions(shape, n, samples).values())] for shape, n in cells()]
    head = ["differences", "seeds", "false *costs* or *helps*, any of four", "any of three beside a real effect"]
    head += ["false *equivalent* at +margin", "at -margin"]
    return table("The whole rule, four contrasts", head, rows)


def known_effect(samples: int) -> str:
    """Effects as large as `mde`."""
    rows = []
    for shape, n in cells():
        mde, *shares = simulate.known_effect(shape, n, samples).values()
        rows.append([shape.name, str(n), f"{mde:.2f}", *percent(*shares)])
    head = ["differences", "seeds", "`mde` / s", "promised", "t test finds +`mde`", "-`mde`"]
    head += ["sign-flip finds +`mde`", "-`mde`", "rule, one of four: +`mde`", "-`mde`"]
    return table("A true effect of the size `mde`", head, rows)


def known_equality(samples: int) -> str:
    """Arms that are equal, with as many seeds as `seeds_for_equivalence` asks for."""
    rows = []
    for margin in MARGINS:
        seeds, *shares = simulate.known_equality(margin, samples).values()
        rows.append([f"{margin:g}", f"{seeds:.0f}", *percent(*shares)])
    head = ["margin / s", "seeds asked for", *(shape.name for shape in simulate.SHAPES)]
    return table("No true difference: called *equivalent*, where 80% was asked for", head, rows)


def planned(pilots: int) -> str:
    """Plans from pilots."""
    rows = []
    for effect in EFFECTS:
        for pilot in PILOTS:
            found = simulate.planned(pilot, effect, pilots)
            with_s, with_upper = percent(found["s"], found["upper"])
            seeds = [f"{found[name]:.0f}" for name in ("enough", "s, seeds", "upper, seeds")]
            rows.append([f"{effect:g}", str(pilot), seeds[0], with_s, seeds[1], with_upper, seeds[2]])
    head = ["effect / s", "seeds of the pilot", "seeds needed", "plans from its s that suffice", "their median"]
    head += ["plans from its upper 80% limit that suffice", "their median"]
    return table("Plans for a power of 80%, from a pilot", head, rows)


def screens(samples: int) -> str:
    """Screens of 12 factors in 24 points."""
    rows = []
    for shape, n in ((simulate.SHAPES[i], n) for i, n in SCREENS):
        found = simulate.screens(shape, n, samples)
        rows.append([shape.name, str(n), *percent(*found.values())])
    head = ["differences", "seeds a point", "nothing active: any false factor", "rest p < 0.05"]
    for situation in ("one factor", "one factor, three pairs", "the same, one point lost"):
        head += [f"{situation}: found", "any false", "rest p < 0.05"]
    return table("Screens of 12 factors, 24 points", head, rows)


def screens_so_far(samples: int) -> str:
    """Screens of 12 factors of which the first points have run."""
    rows = []
    for points in SO_FAR:
        left, *shares = simulate.screens_so_far(points, samples).values()
        rows.append([str(points), f"{left:.0f}", *percent(*shares)])
    head = ["points", "residual degrees of freedom", "active factor found", "any false factor"]
    head += ["tested whatever is left: any false", "the same, random points"]
    return table("Screens of which the first points have run: one factor, three pairs, normal, 4 seeds", head, rows)


def over_settings(samples: int) -> str:
    """Intervals over settings."""
    rows = []
    for k in SETTINGS:
        for ratio in RATIOS:
            found = simulate.over_settings(k, ratio, samples)
            rows.append([str(k), f"{ratio:g}", *percent(*found.values())])
    head = ["settings", "sd between settings / standard error of one", "`ci95` covers the mean"]
    head += ["`prediction95` covers a new setting", "mean of `coverage`"]
    return table("Over settings, 4 seeds each", head, rows)
