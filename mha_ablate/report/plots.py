"""Figures: the deltas with every seed, how they change during training, and the loss curves."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from mha_ablate.report.tables import verdict_text
from mha_ablate.stats.paired import paired
from mha_ablate.study.collect import Study

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette: told apart by colour-blind readers too. The baseline is grey.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#117733")
GREY = "#666666"
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#999999",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "svg.hashsalt": "mha_ablate",
    "svg.fonttype": "path",
    "text.parse_math": False,
}


def colours(report: dict[str, Any]) -> dict[str, str]:
    """A colour per arm."""
    others = [arm["arm"] for arm in report["arms"][1:]]
    return {report["baseline"]: GREY} | {arm: PALETTE[i % len(PALETTE)] for i, arm in enumerate(others)}


def answer_figure(report: dict[str, Any], study: Study) -> Figure:
    """Left: each arm's delta with its 95% interval and every seed. Right: the same delta during training."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        rows = max(2, len(report["arms"]) - 1)
        figure = Figure(figsize=(10, 1.9 + 0.5 * rows), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _forest(left, report)
        _deltas_over_steps(right, report, study)
    return figure


def curves_figure(report: dict[str, Any], study: Study) -> Figure:
    """Validation loss against steps: the mean of each arm, with the band from its lowest to its highest seed."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 3.8), layout="constrained")
        axes = figure.subplots()
        handles, labels = [], []
        for arm, colour in colours(report).items():
            steps, values = _curves(study, arm)
            if len(steps):
                handles += axes.plot(steps, values.mean(axis=0), color=colour, lw=1.8, marker="o", ms=3)
                labels.append(arm)
                axes.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
        axes.set(title="Validation loss", xlabel="step", ylabel="nats per token")
        if handles:
            axes.legend(handles, labels, frameon=False)
        axes.grid(axis="y", color="#dddddd", lw=0.6)
    return figure


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


def _forest(axes: Axes, report: dict[str, Any]) -> None:
    arms = report["arms"][1:]
    margin, colour = report["margin"], colours(report)
    axes.axvspan(-margin, margin, color="#eeeeee", zorder=0)
    axes.axvline(0, color=GREY, lw=1, zorder=1)
    for y, arm in enumerate(arms):
        delta = arm["delta"]
        if delta is None:
            axes.text(0, y, "  no pair of seeds", va="center", color=GREY)
            continue
        seeds = list(delta["values"].values())
        axes.plot(seeds, np.full(len(seeds), y + 0.26), "|", color=colour[arm["arm"]], ms=7, alpha=0.8)
        if delta["ci95"]:
            axes.plot(delta["ci95"], (y, y), color=colour[arm["arm"]], lw=2.5, solid_capstyle="butt")
        axes.plot(delta["mean"], y, "o", color=colour[arm["arm"]], ms=7)
        axes.annotate(
            verdict_text(arm),
            (1.01, y),
            xycoords=("axes fraction", "data"),
            va="center",
            fontsize=9,
            color=colour[arm["arm"]],
        )
    axes.set_yticks(range(len(arms)), [arm["arm"] for arm in arms])
    axes.set_ylim(max(1, len(arms)) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set(
        title=f"Cost against {report['baseline']}, at the end",
        xlabel="delta, nats per token   (right of 0: worse)\nbar: 95% interval   ticks: seeds   grey: margin",
    )


def _deltas_over_steps(axes: Axes, report: dict[str, Any], study: Study) -> None:
    base = {run.seed: run.curve for run in study.of(report["baseline"])}
    axes.axhspan(-report["margin"], report["margin"], color="#eeeeee", zorder=0)
    axes.axhline(0, color=GREY, lw=1)
    for arm, colour in list(colours(report).items())[1:]:
        points = []
        own = {run.seed: run.curve for run in study.of(arm)}
        for step in sorted({s for curve in own.values() for s in curve if s > 0}):
            at = {seed: curve[step] for seed, curve in own.items() if step in curve}
            base_at = {seed: curve[step] for seed, curve in base.items() if step in curve}
            if at.keys() & base_at.keys():
                points.append((step, paired(at, base_at)))
        if not points:
            continue
        steps = [step for step, _ in points]
        axes.plot(steps, [p.mean for _, p in points], color=colour, lw=1.8, marker="o", ms=3)
        if all(p.ci95 for _, p in points):
            low, high = zip(*(p.ci95 for _, p in points if p.ci95), strict=True)
            axes.fill_between(steps, low, high, color=colour, alpha=0.15, lw=0)
    axes.set(title="The same, during training", xlabel="step")
    axes.grid(axis="y", color="#dddddd", lw=0.6)


def _curves(study: Study, arm: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps that every seed of the arm has, and the losses there: `[steps]`, `[seeds, steps]`."""
    curves = [run.curve for run in study.of(arm) if run.curve]
    shared = sorted(set.intersection(*(set(c) for c in curves))) if curves else []
    return np.array(shared), np.array([[c[s] for s in shared] for c in curves])
