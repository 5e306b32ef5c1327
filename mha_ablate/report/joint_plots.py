"""Figures of several studies side by side: deltas against what was swept, loss against learning rate, waterfalls in a row."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from mha_ablate.report.plots import BAND, GREY, GRID, PALETTE, STYLE
from mha_ablate.stats.sample import t_interval
from mha_ablate.stats.verdict import ALPHA
from mha_ablate.study.parts import SHARED, TUNED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 10  # inches, of every figure: they are shown at one width, and letters should have one size
RATES_NAMED = 5  # in one of three panels; of more every second or third
TITLES = {"": "Delta to the baseline", SHARED: "At the shared learning rate", TUNED: "At each arm's own best rate"}


def joint_figures(report: dict[str, Any]) -> dict[str, Figure]:
    """Figures by file name."""
    figures = {"screen": screen_figure(report)} if report.get("screen") else {}
    if report.get("starts"):
        figures["starts"] = starts_figure(report)
    figures["deltas"] = deltas_figure(report)
    if report["axis"]["numeric"]:
        figures["losses"] = losses_figure(report)
    if any(map(_has_rates, report["tunings"])):
        figures["rates"] = rates_figure(report)
    if any(part["waterfall"] for part in report["parts"]):
        figures["waterfalls"] = waterfalls_figure(report)
    return figures


def deltas_figure(report: dict[str, Any]) -> Figure:
    """Delta with its 95% interval and every seed against the swept quantity, by stage; below, what algebra says is lost."""
    import matplotlib
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(part["stage"] for part in report["parts"]))
    foretold = report["axis"]["numeric"] and all(part["freedom_lost"] is not None for part in report["parts"])
    rows = 2 if foretold else 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6 + 1.5 * foretold), layout="constrained")
        grid = figure.subplots(
            rows, len(stages), squeeze=False, sharex="col", sharey="row", height_ratios=(3, 1)[:rows]
        )
        for column, stage in enumerate(stages):
            parts = [part for part in report["parts"] if part["stage"] == stage]
            _deltas(grid[0][column], parts, report)
            grid[0][column].set_title(TITLES[stage])
            if foretold:
                _freedom(grid[1][column], _places(parts, report), parts, first=column == 0)
            _x_axis(grid[-1][column], report)
        grid[0][0].set_ylabel("nats per token (above 0: worse)")
        _legend(figure, grid[0])
    return figure


def screen_figure(report: dict[str, Any]) -> Figure:
    """A panel an arm: the effect of every factor with its 95% interval, the strongest of the first arm on top (a Pareto chart)."""
    import matplotlib
    from matplotlib.figure import Figure

    from mha_ablate.report.screen import ranked, short_levels

    screen = report["screen"]
    order = ranked(screen)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.3 + 0.34 * max(3, len(order))), layout="constrained")
        panels = figure.subplots(1, max(1, len(screen["arms"])), squeeze=False, sharey=True, sharex=True)[0]
        for axes, arm in zip(panels, screen["arms"], strict=False):
            _effects(axes, {row["factor"]: row for row in ranked(screen, arm)}, [row["factor"] for row in order])
            axes.set_title(arm)
        names = [f"{row['factor']}: {' to '.join(short_levels(row['levels']))}" for row in order]
        panels[0].set_yticks(range(len(order)), names)
        panels[0].invert_yaxis()
        how = "filled: found after Holm's correction" if screen["tests"] else "nothing is tested"
        figure.supxlabel(f"change of the difference to the baseline, nats per token ({how})", size=10)
    return figure


def _effects(axes: Axes, rows: dict[str, dict[str, Any]], order: list[str]) -> None:
    for place, name in enumerate(order):
        if (row := rows.get(name)) is None:
            continue
        colour = PALETTE[1] if row["effect"] > 0 else PALETTE[0]
        found = row["p_holm"] is not None and row["p_holm"] < ALPHA
        axes.barh(place, row["effect"], height=0.7, color=colour, alpha=0.8 if found else 0.25)
        if row["ci95"]:
            axes.plot(row["ci95"], (place, place), color=colour, lw=2, solid_capstyle="butt")
    axes.axvline(0, color=GREY, lw=1)
    axes.grid(axis="x", color=GRID, lw=0.6)


def starts_figure(report: dict[str, Any]) -> Figure:
    """A panel an arm: delta with its 95% interval at every start, those on top whose branch becomes largest without W_O."""
    import matplotlib
    from matplotlib.figure import Figure

    from mha_ablate.report.starts import correlation_text, factor_text, parts_by_start

    starts, colours, parts = report["starts"], arm_colours(report), parts_by_start(report)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.7 + 0.33 * max(3, len(parts))), layout="constrained")
        panels = figure.subplots(1, max(1, len(colours)), squeeze=False, sharey=True, sharex=True)[0]
        for axes, (arm, colour) in zip(panels, colours.items(), strict=False):
            _by_start(axes, parts, arm, colour)
            axes.set_title(arm, pad=18)  # with room for the line below
            told = correlation_text(starts, arm)
            axes.annotate(told, (0, 1.01), xycoords="axes fraction", ha="left", va="bottom", size=8)
        names = [f"{part['point']}   {factor_text(starts['points'][part['point']], 1)}" for part in parts]
        panels[0].set_yticks(range(len(parts)), names)
        panels[0].invert_yaxis()
        panels[0].set_ylabel("start of the weights, and how much larger\nthe branch starts without W_O")
        figure.supxlabel(f"minus {parts[0]['baseline']} at the same seed, nats per token (right of 0: worse)", size=10)
    return figure


def _by_start(axes: Axes, parts: list[dict[str, Any]], arm: str, colour: str) -> None:
    axes.axvspan(-parts[0]["margin"], parts[0]["margin"], color=BAND, lw=0, zorder=0)
    axes.axvline(0, color=GREY, lw=1, zorder=1)
    for place, part in enumerate(parts):
        found = next((a["delta"] for a in part["arms"][1:] if a["arm"] == arm and a["delta"]), None)
        if not found:
            continue
        seeds = list(found["values"].values())
        axes.plot(seeds, [place] * len(seeds), "|", color=colour, ms=6, alpha=0.45)
        if found["ci95"]:
            axes.plot(found["ci95"], (place, place), color=colour, lw=2, solid_capstyle="butt")
        axes.plot(found["mean"], place, "o", color=colour, ms=5)
    axes.grid(axis="x", color=GRID, lw=0.6)


def losses_figure(report: dict[str, Any]) -> Figure:
    """Every arm's own loss with its 95% interval over seeds, against the swept quantity, by stage: curves that may coincide."""
    import matplotlib
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(part["stage"] for part in report["parts"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
        grid = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
        for axes, stage in zip(grid, stages, strict=True):
            _losses(axes, [part for part in report["parts"] if part["stage"] == stage], report)
            axes.set_title("Loss" + (f": {TITLES[stage][0].lower()}{TITLES[stage][1:]}" if stage else " of every arm"))
            _x_axis(axes, report)
        grid[0].set_ylabel("validation loss, nats per token")
        _legend(figure, grid)
    return figure


def _losses(axes: Axes, parts: list[dict[str, Any]], report: dict[str, Any]) -> None:
    colours = {report["parts"][0]["baseline"]: GREY} | arm_colours(report)
    for number, (arm, colour) in enumerate(colours.items()):
        found = [
            (
                place + 0.05 * (number - (len(colours) - 1) / 2),
                [v for v in one["val_loss"]["values"].values() if v is not None],
            )
            for place, part in zip(_places(parts, report), parts, strict=True)
            for one in part["arms"]
            if one["arm"] == arm and one["val_loss"]["mean"] is not None
        ]
        if not found:
            continue
        xs, values = zip(*found, strict=True)
        axes.plot(xs, [sum(v) / len(v) for v in values], "o-", color=colour, lw=1.2, ms=5, label=arm)
        for x, seeds in found:
            if len(seeds) > 1:
                low, high = t_interval(np.array(seeds), 0.95)
                axes.plot((x, x), (float(low), float(high)), color=colour, lw=2, solid_capstyle="butt")
    axes.grid(axis="y", color=GRID, lw=0.6)


def _places(parts: list[dict[str, Any]], report: dict[str, Any]) -> list[float]:
    """Where parts stand on the axis: evenly, whatever their values."""
    points = list(dict.fromkeys(part["point"] for part in report["parts"]))
    return [float(points.index(part["point"])) for part in parts]


def _deltas(axes: Axes, parts: list[dict[str, Any]], report: dict[str, Any]) -> None:
    for place, part in zip(_places(parts, report), parts, strict=True):  # studies of one folder may differ in it
        axes.fill_between((place - 0.5, place + 0.5), -part["margin"], part["margin"], color=BAND, lw=0, zorder=0)
    axes.axhline(0, color=GREY, lw=1, zorder=1)
    colours = arm_colours(report)
    for number, (arm, colour) in enumerate(colours.items()):
        shift = (number - (len(colours) - 1) / 2) * min(0.12, 0.6 / len(colours))
        found = [
            (place + shift, a["delta"])
            for place, part in zip(_places(parts, report), parts, strict=True)
            for a in part["arms"][1:]
            if a["arm"] == arm and a["delta"]
        ]
        if not found:
            continue
        xs, deltas = zip(*found, strict=True)
        line = "o-" if report["axis"]["numeric"] else "o"  # what has no order is not joined
        axes.plot(xs, [d["mean"] for d in deltas], line, color=colour, lw=1.2, ms=5, label=arm)
        for x, delta in found:
            seeds = list(delta["values"].values())
            axes.plot([x] * len(seeds), seeds, "_", color=colour, ms=6, alpha=0.5)
            if delta["ci95"]:
                axes.plot((x, x), delta["ci95"], color=colour, lw=2, solid_capstyle="butt")
    axes.grid(axis="y", color=GRID, lw=0.6)


def _freedom(axes: Axes, places: list[float], parts: list[dict[str, Any]], *, first: bool) -> None:
    axes.bar(places, [part["freedom_lost"] / 1e3 for part in parts], width=0.5, color=GREY, alpha=0.5)
    axes.set_ylim(bottom=0)
    if first:
        axes.set_ylabel("freedom lost,\nthousands")


def _x_axis(axes: Axes, report: dict[str, Any]) -> None:
    points = list(dict.fromkeys(part["point"] for part in report["parts"]))
    labels = [p.rpartition("=")[2] if report["axis"]["numeric"] else p for p in points]
    long = max(map(len, labels), default=0) > 8 or len(labels) > 8
    axes.set_xticks(range(len(points)), labels, rotation=30 if long else 0, ha="right" if long else "center")
    axes.set_xlim(-0.6, len(points) - 0.4)
    axes.set_xlabel(report["axis"]["name"] if report["axis"]["numeric"] else "")


def rates_figure(report: dict[str, Any]) -> Figure:
    """Loss against learning rate for each arm, its best rate ringed: how far arms differ in the rate that they want."""
    import matplotlib
    from matplotlib.figure import Figure

    tunings = [tuning for tuning in report["tunings"] if _has_rates(tuning)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6 * -(-len(tunings) // 3)), layout="constrained")
        grid = figure.subplots(-(-len(tunings) // 3), min(len(tunings), 3), squeeze=False, sharey=True)
        for axes, tuning in zip(grid.flat, tunings, strict=False):
            _rates(axes, tuning, report)
        for axes in list(grid.flat)[len(tunings) :]:
            axes.set_visible(False)
        grid[0][0].set_ylabel("validation loss, nats per token")
        _legend(figure, grid.flat)
    return figure


def _has_rates(tuning: dict[str, Any]) -> bool:
    """Whether some run of its grid has come to an end and is told of."""
    return any(loss is not None for curve in tuning["losses"].values() for loss in curve.values())


def _rates(axes: Axes, tuning: dict[str, Any], report: dict[str, Any]) -> None:
    colours = {report["parts"][0]["baseline"]: GREY} | arm_colours(report)
    for arm, curve in tuning["losses"].items():
        known = [(float(rate), loss) for rate, loss in curve.items() if loss is not None]
        if not known:
            continue
        xs, ys = zip(*known, strict=True)
        axes.plot(xs, ys, "o-", color=colours.get(arm, GREY), ms=4, lw=1.5, label=arm)
        best = tuning["best"][arm]
        axes.plot(best, curve[f"{best:g}"], "o", ms=11, mfc="#00000000", mec=colours.get(arm, GREY), mew=1.6)
    axes.set_xscale("log")
    rates = sorted({float(rate) for curve in tuning["losses"].values() for rate in curve})
    every = -(-len(rates) // RATES_NAMED)
    axes.set_xticks(rates, [f"{rate:g}" if i % every == 0 else "" for i, rate in enumerate(rates)])
    axes.minorticks_off()
    axes.set(title=tuning["point"] or "Loss against learning rate", xlabel="learning rate (ring: the best)")
    axes.grid(axis="y", color=GRID, lw=0.6)


def waterfalls_figure(report: dict[str, Any]) -> Figure:
    """The cost of removal taken apart at every point: a group of bars for each, the whole first, each with its interval."""
    import matplotlib
    from matplotlib.figure import Figure

    apart = [part for part in report["parts"] if part["waterfall"]]
    stages = list(dict.fromkeys(part["stage"] for part in apart))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
        grid = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
        for axes, stage in zip(grid, stages, strict=True):
            parts = [part for part in apart if part["stage"] == stage]
            _waterfalls(axes, parts, report)
            axes.set_title(f"Removal taken apart{': ' + TITLES[stage].lower() if stage else ''}")
        grid[0].set_ylabel("nats per token")
        _legend(figure, grid)
    return figure


def _waterfalls(axes: Axes, parts: list[dict[str, Any]], report: dict[str, Any]) -> None:
    axes.axhline(0, color=GREY, lw=1)
    named: set[str] = set()
    for place, part in zip(_places(parts, report), parts, strict=True):
        steps = [{"name": "the whole", **part["waterfall"]["total"]}, *part["waterfall"]["steps"]]
        width = 0.8 / len(steps)
        for number, step in enumerate(steps):
            colour = GREY if number == 0 else PALETTE[(number - 1) % len(PALETTE)]
            x, delta = place + (number - (len(steps) - 1) / 2) * width, step["delta"]
            axes.bar(
                x,
                delta["mean"],
                width=0.9 * width,
                color=colour,
                alpha=0.75,
                label=None if step["name"] in named else step["name"],
            )
            named.add(step["name"])
            if delta["ci95"]:
                axes.plot((x, x), delta["ci95"], color=colour, lw=2, solid_capstyle="butt")
    axes.grid(axis="y", color=GRID, lw=0.6)
    _x_axis(axes, report)


def _legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """One for all panels, above them, where it covers nothing. Without a named thing, none."""
    named = {name: handle for axes in panels for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    if named:
        figure.legend(named.values(), named, loc="outside upper center", ncols=min(len(named), 6), frameon=False)


def arm_colours(report: dict[str, Any]) -> dict[str, str]:
    """A colour per arm besides the baselines, the same at every point."""
    arms = dict.fromkeys(arm["arm"] for part in report["parts"] for arm in part["arms"][1:])
    return {arm: PALETTE[i % len(PALETTE)] for i, arm in enumerate(arms)}
