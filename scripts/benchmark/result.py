"""What the rounds come to: medians and ranges, as the JSON of scripts/bench has them."""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Seen:
    """What was measured: under each key one value a round, and facts that are the same in all of them."""

    values: dict[tuple[Any, ...], list[float]] = field(default_factory=dict)
    flops: dict[str, int] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    reported: dict[str, int] = field(default_factory=dict)

    def note(self, *key: Any, value: float) -> None:
        """Keep a value of this round."""
        self.values.setdefault(key, []).append(value)

    def below(self, *key: Any) -> dict[Any, list[float]]:
        """The values whose key is this one and one word more, by that word."""
        return {k[-1]: v for k, v in self.values.items() if k[:-1] == key}


def result_of(seen: Seen, asked: argparse.Namespace) -> dict[str, Any]:
    """Medians and ranges. With --setting, that setting's numbers stand at the top; else each has its place in `settings`."""
    settings = {name: {"setting": name, **of_setting(name, seen, asked)} for name in asked.settings}
    found: dict[str, Any] = settings[asked.setting] if asked.setting else {"settings": settings}
    if peaks := seen.below("gemm"):
        found["gemm_peak_gflops"] = {precision: median(values) for precision, values in peaks.items()}
        found["gemm_peak_gflops_range"] = {precision: extent(values) for precision, values in peaks.items()}
    if not asked.setting:
        found["default_arms"] = spreads("step_ms", seen.below("arm", "default"))
    found["startup_s"] = spreads("s", seen.below("startup"))
    found["telling"] = spreads("share", seen.below("telling"))
    seconds = seen.values.get(("report",))
    found["report"] = spread("s", seconds) | seen.reported if seconds else None
    request = {"workers": asked.workers, "rounds": asked.rounds, "overrides": asked.overrides}
    return {**found, **request, **seen.machine}


def of_setting(name: str, seen: Seen, asked: argparse.Namespace) -> dict[str, Any]:
    """Of one setting: speed, the share of the peak, the comparison, workers, arms."""
    found: dict[str, Any] = {}
    by_workers = dict(sorted(seen.below("speed", name).items()))
    if "speed" in asked.parts:
        rates, peaks = by_workers[asked.workers], seen.values["gemm", seen.machine["precision"]]
        shares = [seen.flops[name] * rate / (1e9 * peak) for rate, peak in zip(rates, peaks, strict=True)]
        found = spread("steps_per_s", rates)
        found["tokens_per_s"] = round(found["steps_per_s"] * seen.tokens[name])
        found["model_flops_per_step"] = seen.flops[name]
        found["gflops"] = median([seen.flops[name] * rate / 1e9 for rate in rates])
        found |= spread("share_of_peak", shares)
        found["versus"] = versus(rates, seen.values.get(("versus", name)), asked.versus)
    found["scaling"] = spreads("steps_per_s", by_workers) if "scaling" in asked.parts else {}
    return {**found, "arms": spreads("step_ms", seen.below("arm", name))}


def versus(ours: list[float], theirs: list[float] | None, command: str) -> dict[str, Any] | None:
    """The other command, and how many times faster we are: the ratio of every round, then its median."""
    if not theirs:
        return None
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return {**spread("steps_per_s", theirs), **spread("ratio", ratios), "command": command}


def spreads(name: str, values: dict[Any, list[float]]) -> dict[str, Any]:
    """The spread of each."""
    return {str(key): spread(name, seen) for key, seen in values.items()}


def spread(name: str, values: list[float]) -> dict[str, Any]:
    """`{"ratio": median, "ratio_range": [lowest, highest]}`."""
    return {name: median(values), f"{name}_range": extent(values)}


def median(values: list[float]) -> float:
    """The median to five digits: more would be noise."""
    return float(f"{statistics.median(values):.5g}")


def extent(values: list[float]) -> list[float]:
    """Lowest and highest."""
    return [float(f"{value:.5g}") for value in (min(values), max(values))]
