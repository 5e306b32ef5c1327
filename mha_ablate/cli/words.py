"""Numbers as people read them."""

from __future__ import annotations


def duration(seconds: float | None) -> str:
    """`1h02m`, `2m05s`, `7s`; `-` where unknown."""
    if seconds is None:
        return "-"
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def thousands(value: float) -> str:
    """`23.4k`, `870`."""
    return f"{value / 1000:.1f}k" if value >= 1000 else f"{value:.0f}"


def characters(done: int, total: int | None) -> str:
    """`12.3M of 100.0M characters`; empty before the first."""
    if not done:
        return ""
    return f"{done / 1e6:.1f}M{f' of {total / 1e6:.1f}M' if total else ''} characters"


def loss(value: float | None, digits: int = 3) -> str:
    """A loss; `nan` where it was not finite."""
    return "nan" if value is None else f"{value:.{digits}f}"


def measured(line: dict) -> list[str]:
    """The losses of a line, as far as it has them."""
    return [f"{key.partition('/')[2]} {loss(line[key])}" for key in ("loss/train", "loss/val") if key in line]


def pace(tokens_per_s: float, seconds_left: float | None) -> list[str]:
    """Tokens a second and time left, once they are known."""
    known = [f"{thousands(tokens_per_s)} tokens/s"] if tokens_per_s else []
    return known if seconds_left is None else [*known, f"{duration(seconds_left)} left"]
