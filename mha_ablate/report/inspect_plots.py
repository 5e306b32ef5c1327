"""Figures of what `inspect` found: loss against rank, what heads are worth, spectra, cross-head energy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mha_ablate.report.plots import BAND, FAINT, GREY, GRID, PALETTE, PANEL, Panel, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Found = dict[str, Any]
HEIGHT = 3.6
LINEAR = 1e-3  # nats: below it the axis of deltas is linear, above it logarithmic
SILENCED = (("zero", "o", PALETTE[1]), ("mean", "s", PALETTE[0]), ("resample", "^", PALETTE[2]))
HEADS_OF_A_PANEL = 24  # of more the figure is as wide as the page
BELOW = {"loc": "upper center", "frameon": False, "fontsize": 9}


def figures(found: Found) -> dict[str, Figure]:
    """Figures by file name, of what there is to draw."""
    made = {}
    if found["ranks"]:
        made["ranks"] = drawn([rank_panel(found)], HEIGHT)
    if found["heads"]:
        made["heads"] = drawn([head_panel(found)], HEIGHT, width=heads_width(found))
    spectra = [row for row in found["layers"] if row["w_o"]]
    if spectra:
        made["spectra"] = drawn([spectrum_panel(found, "w_o"), spectrum_panel(found, "ov")], HEIGHT)
    if any(row["cross_head_energy"] is not None for row in spectra):
        made["cross_head_energy"] = drawn([energy_panel(found)], HEIGHT)
    return made


def page_panels(found: Found) -> dict[str, Figure]:
    """The same for the page, which shows one panel a figure."""
    made = {}
    for name, figure in figures(found).items():
        if name == "spectra":
            made |= {which: drawn([spectrum_panel(found, which)], HEIGHT) for which in ("w_o", "ov")}
        else:
            made[name] = figure
    return made


def heads_width(found: Found) -> float:
    """Inches: of many heads those of two panels."""
    return PANEL if len(found["heads"]) <= HEADS_OF_A_PANEL else 2 * PANEL


def rank_panel(found: Found) -> Panel:
    """Delta against the rank kept, and random changes of the same sizes."""

    def draw(axes: Axes) -> None:
        rows = found["ranks"]
        places = range(len(rows))
        nulls = [(x, row["null"]) for x, row in enumerate(rows) if row["null"]]
        if nulls:
            at, low, high = zip(*((x, null["low"], null["high"]) for x, null in nulls), strict=True)
            axes.fill_between(at, low, high, color=BAND, lw=0)
            axes.plot(at, [null["mean"] for _, null in nulls], color=FAINT, lw=1.4, ls="--", label="random, same norm")
        costs = [float("nan") if row["delta"] is None else row["delta"] for row in rows]
        axes.plot(places, costs, color=PALETTE[0], lw=1.8, marker="o", ms=4, label="smallest directions cut")
        axes.set_xticks(places, [str(row["rank"]) for row in rows], fontsize=9)
        _delta_axis(axes, [*costs, *(null["low"] for _, null in nulls), *(null["high"] for _, null in nulls)])
        axes.set(title="Loss against the rank of W_O", xlabel="rank kept, in every layer")
        axes.legend(**BELOW, bbox_to_anchor=(0.5, -0.2), ncols=2)

    return draw


def head_panel(found: Found) -> Panel:
    """What it costs to silence each head, three ways."""

    def draw(axes: Axes) -> None:
        rows, n_heads = found["heads"], found["sizes"]["n_heads"]
        for x, row in enumerate(rows):
            if row["null"]:
                axes.plot((x, x), (row["null"]["low"], row["null"]["high"]), color=FAINT, lw=5, solid_capstyle="butt")
        for how, marker, colour in SILENCED:
            points = [(x, row[how]) for x, row in enumerate(rows) if row[how] is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker, color=colour, ms=5, label=how)
        if any(row["null"] for row in rows):
            axes.plot([], [], color=FAINT, lw=5, label="random, same norm")
        for layer in range(1, len(rows) // n_heads):
            axes.axvline(layer * n_heads - 0.5, color=GRID, lw=0.8)
        middles = [layer * n_heads + (n_heads - 1) / 2 for layer in range(len(rows) // n_heads)]
        axes.set_xticks(middles, [str(layer) for layer in range(len(middles))])
        axes.tick_params(axis="x", length=0)
        _delta_axis(axes, [row[how] for row in rows for how, _, _ in SILENCED])
        axes.set(title="One head silenced", xlabel="layer; its heads from left to right")
        axes.legend(**BELOW, bbox_to_anchor=(0.5, -0.2), ncols=4)

    return draw


def _delta_axis(axes: Axes, values: list[float | None]) -> None:
    """Zero in view, logarithmic away from it; numbers as people write them."""
    told = [value for value in values if value is not None and value == value]
    axes.axhline(0, color=GREY, lw=1)
    axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.6)
    axes.set_ylim(min([-LINEAR, *(1.6 * v for v in told)]), max([LINEAR, *(1.6 * v for v in told)]))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("delta, nats per token")
    axes.grid(axis="y", color=GRID, lw=0.6)
    axes.minorticks_off()


def spectrum_panel(found: Found, which: str) -> Panel:
    """Singular values of W_O, or of every head's OV_h, layer by layer."""

    def draw(axes: Axes) -> None:
        from matplotlib.ticker import LogLocator

        rows = [row for row in found["layers"] if row["w_o"]]
        for row in rows:
            spectra = [row["w_o"]] if which == "w_o" else row["ov"]
            for i, spectrum in enumerate(spectra):
                values = [s for s in spectrum["singular_values"] if s > 1e-6 * max(spectrum["singular_values"])]
                label = f"layer {row['layer']}" if i == 0 and _named(row["layer"], len(rows)) else None
                axes.plot(
                    range(1, len(values) + 1),
                    values,
                    color=_colour(row["layer"], len(rows)),
                    lw=1.6 if which == "w_o" else 0.9,
                    label=label,
                )
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        if high < 100 * low:  # powers of ten alone would leave one tick or none
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.grid(axis="y", color=GRID, lw=0.6)
        title = "W_O: singular values" if which == "w_o" else "OV of each head: singular values"
        axes.set(title=title, xlabel="number, the largest first")
        axes.legend(**BELOW, bbox_to_anchor=(0.5, -0.2), ncols=4)

    return draw


def _colour(layer: int, n_layers: int) -> str:
    """A colour a layer; of many, one to several neighbours."""
    return PALETTE[layer if n_layers <= len(PALETTE) else layer * len(PALETTE) // n_layers]


def _named(layer: int, n_layers: int) -> bool:
    """Whether a layer is the first with its colour."""
    return layer == 0 or _colour(layer, n_layers) != _colour(layer - 1, n_layers)


def energy_panel(found: Found) -> Panel:
    """What share of W_O maps heads to others' slices, against a random W_O's."""

    def draw(axes: Axes) -> None:
        rows = [row for row in found["layers"] if row["w_o"] and row["cross_head_energy"] is not None]
        layers = [row["layer"] for row in rows]
        axes.bar(layers, [row["cross_head_energy"] for row in rows], width=0.55, color=PALETTE[0], alpha=0.75, lw=0)
        start = rows[0]["cross_head_energy_at_start"]
        axes.axhline(start, color=GREY, lw=1.2, ls="--", label=f"independent entries: 1 - 1/H = {start:.2f}")
        axes.set_xticks(layers)
        axes.tick_params(axis="x", length=0)
        axes.set(title="Cross-head energy of W_O", xlabel="layer", ylabel="share of |W_O|²", ylim=(0, 1.05))
        axes.grid(axis="y", color=GRID, lw=0.6)
        axes.legend(**BELOW, bbox_to_anchor=(0.5, -0.2))

    return draw
