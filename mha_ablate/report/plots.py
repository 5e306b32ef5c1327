"""Figures. The page shows single panels, as wide as a telephone; files have them side by side."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mha_ablate.report.sentence import removed
from mha_ablate.report.tables import verdict_text
from mha_ablate.stats.paired import t_band
from mha_ablate.study.collect import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too. The baseline is grey.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#117733")
GREY, BAND, GRID, FAINT = "#666666", "#eeeeee", "#dddddd", "#999999"
PANEL = 5.0  # inches across a panel: on a telephone its letters are still 9 pixels high
TITLE = 40  # letters of a title in a line, above a panel that is half as wide as the figure
NAME = 16  # letters of a name in a line beside a panel, or in a third of what stands below it
LEGIBLE = len(PALETTE)  # curves in one panel, the baseline's aside
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.axisbelow": True,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.hashsalt": "mha_ablate",
    "svg.fonttype": "path",
    "text.parse_math": False,
}
CURVES_HEIGHT = 6.6  # inches, of losses with the differences below them
Panel = Callable[["Axes"], None]


def colours(report: dict[str, Any]) -> dict[str, str]:
    """A colour per arm: one of its own where its curve is drawn, a faint one for the others."""
    own = dict(zip(_with_curves(report), PALETTE, strict=False))
    return {report["baseline"]: GREY} | {arm["arm"]: own.get(arm["arm"], FAINT) for arm in report["arms"][1:]}


def _with_curves(report: dict[str, Any]) -> list[str]:
    """Arms other than the baseline whose curves are drawn: all, or of many the removal and those furthest from the baseline."""
    others = report["arms"][1:]
    if len(others) > LEGIBLE:
        main, compared = removed(report), [arm for arm in others if arm["delta"]]
        ranked = sorted(compared, key=lambda arm: (arm is not main, -abs(arm["delta"]["mean"])))[:LEGIBLE]
        others = [arm for arm in others if arm in ranked]
    return [arm["arm"] for arm in others]


def drawn(panels: list[Panel], height: float, *, share: bool = False, width: float = PANEL) -> Figure:
    """Panels side by side; with `share`, one above the other over the same steps."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        rows, columns = (len(panels), 1) if share else (1, len(panels))
        figure = Figure(figsize=(width * columns, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex="col" if share else False)
        for axes, panel in zip(grid.flat, panels, strict=True):
            panel(axes)
            if share:  # the steps stand once, at the bottom
                axes.label_outer()
    return figure


def forest_height(report: dict[str, Any]) -> float:
    """Inches: a row for each arm."""
    return 1.9 + 0.5 * max(2, min(len(report["arms"]) - 1, 6)) + 0.27 * max(0, len(report["arms"]) - 7)


def as_svg(figure: Figure) -> str:
    """The figure as SVG text, the same bytes for the same figure."""
    import matplotlib

    out = io.StringIO()
    with matplotlib.rc_context(STYLE), _any_script():
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return out.getvalue()


def as_png(figure: Figure) -> bytes:
    """The figure as PNG, 160 dots per inch."""
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context(STYLE), _any_script():
        figure.savefig(out, format="png", dpi=160, metadata={"Software": None})
    return out.getvalue()


@contextmanager
def _any_script() -> Iterator[None]:
    """A letter that the font lacks becomes a box, which is no reason to warn a reader of the report."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def forest_panel(report: dict[str, Any]) -> Panel:
    """Each arm's delta with its 95% interval and every seed; grey: the margin."""

    def draw(axes: Axes) -> None:
        arms = report["arms"][1:]
        if len(arms) > LEGIBLE:  # of many, the order says who is where
            arms = sorted(arms, key=lambda arm: (arm["delta"] is None, arm["delta"] and arm["delta"]["mean"]))
        margin, colour = report["margin"], colours(report)
        axes.axvspan(-margin, margin, color=BAND, zorder=0)
        axes.axvline(0, color=GREY, lw=1, zorder=1)
        for y, arm in enumerate(arms):
            _forest_row(axes, y, arm, colour[arm["arm"]])
        axes.set_yticks(range(len(arms)), [textwrap.fill(arm["arm"], NAME, max_lines=2) for arm in arms])
        axes.set_ylim(max(1, len(arms)) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.locator_params(axis="x", nbins=5)
        axes.spines["left"].set_visible(False)
        axes.set(
            title=textwrap.fill(f"Cost against {report['baseline']}, at the end", TITLE),
            xlabel="delta, nats per token   (right of 0: worse)\nbar: 95% interval   ticks: seeds   grey: margin",
        )

    return draw


def _forest_row(axes: Axes, y: int, arm: dict[str, Any], colour: str) -> None:
    delta = arm["delta"]
    if delta is None:
        axes.text(0, y, "  no pair of seeds", va="center", color=GREY)
        return
    seeds = list(delta["values"].values())
    axes.plot(seeds, np.full(len(seeds), y + 0.26), "|", color=colour, ms=7, alpha=0.8)
    if delta["ci95"]:
        axes.plot(delta["ci95"], (y, y), color=colour, lw=2.5, solid_capstyle="butt")
    axes.plot(delta["mean"], y, "o", color=colour, ms=7)
    where = ("axes fraction", "data")
    axes.annotate(verdict_text(arm), (1.01, y), xycoords=where, va="center", fontsize=9)


def legible(report: dict[str, Any]) -> dict[str, str]:
    """The arms whose curves are drawn, the baseline first, with their colours."""
    kept = {report["baseline"], *_with_curves(report)}
    return {arm: colour for arm, colour in colours(report).items() if arm in kept}


def change_panel(report: dict[str, Any], study: Study) -> Panel:
    """The paired difference during training, with its 95% interval."""

    def draw(axes: Axes) -> None:
        base = {run.seed: run.curve for run in study.of(report["baseline"])}
        axes.axhspan(-report["margin"], report["margin"], color=BAND, zorder=0)
        axes.axhline(0, color=GREY, lw=1)
        for arm, colour in list(legible(report).items())[1:]:
            _change(axes, {run.seed: run.curve for run in study.of(arm)}, base, colour)
        axes.set(
            title=textwrap.fill(f"Cost against {report['baseline']}, during training", TITLE),
            xlabel="step",
            ylabel="delta, nats per token",
        )
        axes.grid(axis="y", color=GRID, lw=0.6)

    return draw


def _change(axes: Axes, own: dict[int, dict[int, float]], base: dict[int, dict[int, float]], colour: str) -> None:
    points = []
    for step in sorted({s for curve in own.values() for s in curve if s > 0}):
        at = {seed: curve[step] for seed, curve in own.items() if step in curve}
        base_at = {seed: curve[step] for seed, curve in base.items() if step in curve}
        if at.keys() & base_at.keys():
            points.append((step, *t_band(at, base_at)))
    if not points:
        return
    steps, means, bands = zip(*points, strict=True)
    axes.plot(steps, means, color=colour, lw=1.8, marker="o", ms=3)
    if all(bands):
        low, high = zip(*bands, strict=True)
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)


def loss_panel(report: dict[str, Any], study: Study) -> Panel:
    """Validation loss against steps: the mean of each arm, with the band from its lowest to its highest seed."""

    def draw(axes: Axes) -> None:
        handles, labels = [], []
        for arm, colour in legible(report).items():
            steps, values = _curves(study, arm)
            if len(steps):
                handles += axes.plot(steps, values.mean(axis=0), color=colour, lw=1.8, marker="o", ms=3)
                labels.append(arm)
                axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
        axes.set(title="Validation loss", xlabel="step", ylabel="nats per token")
        if len(handles) > 1:  # below, where it hides no curve
            where = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08)}
            side_by_side = 3 if max(map(len, labels)) <= NAME else 1
            names = [textwrap.fill(label, 2 * NAME) for label in labels]
            axes.legend(handles, names, frameon=False, ncols=side_by_side, fontsize=9, **where)
        axes.grid(axis="y", color=GRID, lw=0.6)

    return draw


def _curves(study: Study, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps that every seed of the arm has, and the losses there: `[steps]`, `[seeds, steps]`."""
    curves = [run.curve for run in study.of(arm) if run.curve]
    shared = sorted(set.intersection(*(set(c) for c in curves))) if curves else []
    return np.array(shared), np.array([[c[s] for s in shared] for c in curves])


def waterfall_panel(report: dict[str, Any]) -> Panel:
    """The cost of removal taken apart: each step begins where the one before it ends; its interval and seeds are its own."""
    fall = report["waterfall"]

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=GREY, lw=1)
        top = fall["total"]["delta"]["mean"]
        bars = [("in all", 0.0, fall["total"]["delta"], GREY)]
        for step in fall["steps"]:
            bars.append((step["name"], top - step["delta"]["mean"], step["delta"], FAINT))
            top -= step["delta"]["mean"]
        for x, (_, bottom, delta, colour) in enumerate(bars):
            axes.bar(x, delta["mean"], bottom=bottom, width=0.6, color=colour, alpha=0.55, lw=0)
            seeds = [bottom + value for value in delta["values"].values()]
            axes.plot(np.full(len(seeds), x + 0.2), seeds, "_", color="black", ms=7)
            if delta["ci95"]:
                axes.plot((x, x), [bottom + end for end in delta["ci95"]], color="black", lw=2, solid_capstyle="butt")
            if x + 1 < len(bars):
                level = bottom + delta["mean"] if x == 0 else bottom
                axes.plot((x + 0.3, x + 0.7), (level, level), color=GREY, lw=0.8, ls=":")
        axes.set_xticks(range(len(bars)), [_bar_label(name, delta) for name, _, delta, _ in bars])
        axes.tick_params(axis="x", length=0)
        title = textwrap.fill(f"What {fall['total']['from']} costs, taken apart", TITLE)
        axes.set(title=title, ylabel="nats per token")
        axes.grid(axis="y", color=GRID, lw=0.6)

    return draw


def _bar_label(name: str, delta: dict[str, Any]) -> str:
    half = f"\n±{(delta['ci95'][1] - delta['ci95'][0]) / 2:.4f}" if delta["ci95"] else ""
    return f"{name}\n{delta['mean']:+.4f}{half}"
