"""Loss against a cost: every arm with its interval, the frontier, and names that do not cover each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mha_ablate.report.plots import GREY, GRID, LEGIBLE, Panel, colours
from mha_ablate.report.tables import si
from mha_ablate.report.trade import PRICES, frontier, priced

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[float, float, float, float]  # left, bottom, right, top
LETTER = (4.9, 9.0)  # points across and high
# Where a name can stand beside its point, nearest first: points to the right and up, and what of the name is there.
PLACES = [(6.0, 3.0, "left"), (-6.0, 3.0, "right"), (6.0, -11.0, "left"), (-6.0, -11.0, "right")]
PLACES += [(6.0, 14.0, "left"), (-6.0, 14.0, "right"), (6.0, -22.0, "left"), (-6.0, -22.0, "right")]


def trade_panel(report: dict[str, Any], key: str) -> Panel:
    """Loss against one cost with the paired 95% interval of each arm; the frontier is joined by a line."""

    def draw(axes: Axes) -> None:
        colour, best = colours(report), frontier(report, key)
        points = {arm: (cost, loss) for arm, (loss, cost) in priced(report, key).items()}
        axes.plot(*zip(*sorted(points[arm] for arm in best), strict=True), color=GREY, lw=1, ls="--", zorder=1)
        for arm, (cost, loss) in points.items():
            if half := _half_interval(report, arm):
                axes.plot((cost, cost), (loss - half, loss + half), color=colour[arm], lw=1.2, alpha=0.6)
            axes.plot(cost, loss, "o", color=colour[arm], ms=7 if arm in best else 5, alpha=1 if arm in best else 0.6)
        axes.margins(x=0.2, y=0.14)
        axes.set(title=f"Loss against {PRICES[key]}", ylabel="nats per token")
        axes.set_xlabel("ms" if key == "step_ms" else PRICES[key])
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}" if key == "step_ms" else si(value))
        axes.xaxis.set_major_locator(_few_ticks())
        axes.grid(axis="y", color=GRID, lw=0.6)
        _name(axes, points, [arm for arm in points if len(points) <= LEGIBLE + 1 or arm in best])

    return draw


def _half_interval(report: dict[str, Any], arm: str) -> float | None:
    delta = next(one["delta"] for one in report["arms"] if one["arm"] == arm)
    return (delta["ci95"][1] - delta["ci95"][0]) / 2 if delta and delta["ci95"] else None


def _name(axes: Axes, points: dict[str, tuple[float, float]], named: list[str]) -> None:
    """Write names where they cover no other name and no point, as far as there is room."""
    room = axes.get_window_extent()
    width, height = (72 / axes.figure.dpi * pixels for pixels in (room.width, room.height))
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    at = {arm: ((x - x0) / (x1 - x0) * width, (y - y0) / (y1 - y0) * height) for arm, (x, y) in points.items()}
    taken: list[Box] = [(x - 4, y - 4, x + 4, y + 4) for x, y in at.values()]
    for arm in named:
        options = [(dx, dy, side, box_of(at[arm], arm, dx, dy, side)) for dx, dy, side in PLACES]
        dx, dy, side, box = min(options, key=lambda o: crowd(o[3], taken, width, height))
        taken.append(box)
        axes.annotate(arm, points[arm], (dx, dy), textcoords="offset points", fontsize=8, ha=side)


def box_of(at: tuple[float, float], text: str, dx: float, dy: float, side: str) -> Box:
    """What a name would cover, in points, written so far from its point."""
    left = at[0] + dx - (LETTER[0] * len(text) if side == "right" else 0)
    return left, at[1] + dy, left + LETTER[0] * len(text), at[1] + dy + LETTER[1]


def crowd(box: Box, taken: list[Box], width: float, height: float) -> float:
    """How much of what is taken, or lies outside the axes, a box would cover."""
    covered = sum(
        max(0.0, min(box[2], b[2]) - max(box[0], b[0])) * max(0.0, min(box[3], b[3]) - max(box[1], b[1])) for b in taken
    )
    outside = max(0.0, -box[0]) + max(0.0, box[2] - width) + max(0.0, -box[1]) + max(0.0, box[3] - height)
    return covered + 10 * outside


def _few_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)
