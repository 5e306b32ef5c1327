"""The answer in one sentence."""

from __future__ import annotations

from typing import Any

from mha_ablate.stats.verdict import ENOUGH_SEEDS


def sentence(report: dict[str, Any]) -> str:
    """Every verdict in words, with learning rate, steps and seeds.

    The first arm whose fc_out has no parameters left is the removal, and is named so.
    """
    base = report["arms"][0]
    others = report["arms"][1:]
    if not others:
        return f"Only {base['arm']} was run: a comparison takes another arm."
    removal = next(
        (a for a in others if base["cost"].get("params_fc_out") and a["cost"].get("params_fc_out") == 0), None
    )
    clauses = [_clause(arm, base["arm"], removed=arm is removal) for arm in others]
    text = f"{_setting(report, base)}, {'; '.join(clauses)}"
    fewest = min((arm["n"] for arm in others), default=0)
    if fewest < ENOUGH_SEEDS:
        text += f" (a look, not a result: that takes {ENOUGH_SEEDS} seeds)"
    return text + "."


def _setting(report: dict[str, Any], base: dict[str, Any]) -> str:
    same, differs = report["setting"]["same"], report["setting"]["differs"]
    rate = f"learning rate {same['optim.lr']:g}" if "optim.lr" in same else "each arm's own learning rate"
    if "optim.lr" not in same and "optim.lr" not in differs:
        rate = "an unknown learning rate"
    steps = same.get("trainer.steps")
    length = f"{steps} steps" if steps else "unequal numbers of steps"
    n = base["n"]
    return f"At {rate} after {length} over {n} paired seed{'' if n == 1 else 's'}"


def _clause(arm: dict[str, Any], base: str, *, removed: bool) -> str:
    name = f"removing fc_out ({arm['arm']})" if removed else arm["arm"]
    delta = arm["delta"]
    if delta is None:
        return f"{name} cannot be compared ({arm['verdict_reason']})"
    size = f"{abs(delta['mean']):.4f} nats per token"
    interval = f"{delta['mean']:+.4f}"
    if delta["ci95"]:
        interval = f"95% interval of the delta {delta['ci95'][0]:+.4f} to {delta['ci95'][1]:+.4f}"
    if arm["verdict"] == "costs":
        return f"{name} costs {size} against {base} ({interval})"
    if arm["verdict"] == "helps":
        return f"{name} gains {size} on {base} ({interval})"
    if arm["verdict"] == "equivalent":
        return f"{name} is equivalent to {base} within the margin ({interval})"
    why = "" if delta["ci95"] else f", {arm['verdict_reason']}"
    return f"{name} against {base} is undecided ({interval}{why})"
