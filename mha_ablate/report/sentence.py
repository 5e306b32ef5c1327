"""The answer in one sentence."""

from __future__ import annotations

from typing import Any

from mha_ablate.stats.verdict import ALPHA, ENOUGH_SEEDS


def sentence(report: dict[str, Any]) -> str:
    """The main contrast in words, with learning rate, steps and seeds.

    It is that of the first arm whose fc_out has no parameters left, the removal; without one, of the first arm. The
    other arms stand in the table.
    """
    base = report["arms"][0]
    others = report["arms"][1:]
    if not others:
        return f"Only {base['arm']} was run: a comparison takes another arm."
    if floor := _floor(report):
        return floor
    removal = removed(report)
    main = removal or others[0]
    clause = _clause(main, base["arm"], removed=removal is not None, bits=report.get("bits_per_byte"))
    text = f"{_setting(report, main)}, {clause}"
    if main["delta"] and main["n"] < ENOUGH_SEEDS:
        text += f": a look, not a result, which takes {ENOUGH_SEEDS} seeds"
    return text + "."


def counted(n: int, what: str) -> str:
    """`1 seed`, `2 seeds`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def _floor(report: dict[str, Any]) -> str | None:
    """How far apart arms lie that differ by chance alone, where most arms are there to show it; else None."""
    pairs = [pair for pair in report.get("copies") or [] if pair["delta"]["ci95"]]
    if not pairs or 2 * len(pairs) < len(report["arms"]) - 1:
        return None
    told = [f"{p['to']} and {p['from']} by {p['delta']['mean']:+.4f} ({_interval(p['delta'])})" for p in pairs]
    seeds = f"over {min(len(pair['delta']['values']) for pair in pairs)} paired seeds"
    return f"Arms that differ by chance alone differ in nats per token, {seeds}: {'; '.join(told)}."


def removed(report: dict[str, Any]) -> dict[str, Any] | None:
    """The first arm whose fc_out has no parameters left, where the baseline's is the whole one: none has more."""
    base, *others = report["arms"]
    size = base["cost"].get("params_fc_out")
    if not size or any((arm["cost"].get("params_fc_out") or 0) > size for arm in others):
        return None
    return next((arm for arm in others if arm["cost"].get("params_fc_out") == 0), None)


def _setting(report: dict[str, Any], main: dict[str, Any]) -> str:
    same, differs = report["setting"]["same"], report["setting"]["differs"]
    rate = f"learning rate {same['optim.lr']:g}" if "optim.lr" in same else "each arm's own learning rate"
    if "optim.lr" not in same and "optim.lr" not in differs:
        rate = "an unknown learning rate"
    steps = same.get("trainer.steps")
    length = counted(steps, "step") if steps else "unequal numbers of steps"
    n = main["n"]
    return f"At {rate} after {length}" + (f" over {counted(n, 'paired seed')}" if n else "")


def _clause(arm: dict[str, Any], base: str, *, removed: bool, bits: float | None) -> str:
    """The main contrast, spelled out."""
    name = f"removing fc_out ({arm['arm']})" if removed else arm["arm"]
    delta = arm["delta"]
    if delta is None:
        return f"{name} cannot be compared with {base}: {arm['verdict_reason']}"
    size = f"{abs(delta['mean']):.4f} nats per token" + (
        f", {abs(delta['mean']) * bits:.4f} bits per byte," if bits else ""
    )
    sure = f" ({_interval(delta)})"
    if arm["verdict"] == "costs":
        return f"{name} costs {size} against {base}{sure}"
    if arm["verdict"] == "helps":
        return f"{name} gains {size} on {base}{sure}"
    if arm["verdict"] == "equivalent":
        low, high = delta["ci90"]
        margin = delta["equivalence"]["margin"]
        return f"{name} is equivalent to {base} (90% interval {low:+.4f} to {high:+.4f}, within ±{margin:g})"
    if delta["p_holm"] is not None and delta["p_t"] < ALPHA <= delta["p_holm"]:
        sure = f" ({_interval(delta)}, but Holm's correction for all arms leaves p = {delta['p_holm']:.2g})"
    elif delta["p_t"] is not None and delta["p_t"] < ALPHA:  # it is not the size that leaves it undecided
        sure = f" ({_interval(delta)}, but {arm['verdict_reason']})"
    return f"it is undecided whether {name} costs anything against {base}{sure}"


def _interval(delta: dict[str, Any]) -> str:
    if not delta["ci95"]:
        return f"delta {delta['mean']:+.4f}, one seed gives no interval"
    return f"95% interval {delta['ci95'][0]:+.4f} to {delta['ci95'][1]:+.4f}"
