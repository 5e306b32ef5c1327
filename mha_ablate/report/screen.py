"""What a screen says: which settings turn the difference between an arm and the baseline, and what is left for pairs of them."""

from __future__ import annotations

from typing import Any

from mha_ablate.report.family import TUNED
from mha_ablate.report.sentence import counted
from mha_ablate.stats.screen import Effect, Screen, aliases, screened
from mha_ablate.stats.verdict import ALPHA

STRONGEST = 3  # factors that a second step takes
PAIRS = 5  # classes of pairs that are listed
BAR = 16  # cells of the longest bar in a terminal


def screen_of(
    whole: dict[str, Any] | None, parts: list[dict[str, Any]], seconds: float | None
) -> dict[str, Any] | None:
    """The screen of a study with factors: `{factors, pairs, rest, aliases, design, tests, arms, next, sentence}`; None for others.

    `factors` has a row per arm and factor: `{factor, levels, arm, effect, se, ci95, p, p_holm, on_baseline}`, ranked within
    each arm; `effect` is the mean delta at the second level minus that at the first, and `on_baseline` the same of the
    baseline's own loss. `seconds` is what a run took.
    """
    factors: dict[str, list[list[str]]] = (whole or {}).get("factors", {})
    if not whole or not factors:
        return None
    stage = TUNED if any(part["stage"] == TUNED for part in parts) else parts[0]["stage"]
    there = {part["point"]: part for part in parts if part["stage"] == stage}
    levels = {point: found for point, words in whole["points"].items() if (found := _levels(words, factors))}
    if len(levels) < len(whole["points"]) or not levels:
        return None  # points that are not those of its factors: nothing that a design is known of
    arms = list(dict.fromkeys(arm["arm"] for part in there.values() for arm in part["arms"][1:]))
    screens = {arm: found for arm in arms if (found := _screened(levels, there, arm)) is not None}
    of_base = _screened(levels, there, None)
    report: dict[str, Any] = {
        "arms": list(screens),
        "baseline": whole["baseline"],
        "tests": any(effect.p is not None for one in screens.values() for effect in one.effects.values()),
        "factors": [row for arm, one in screens.items() for row in _factor_rows(arm, one, of_base, factors)],
        "pairs": [row for arm, one in screens.items() for row in _pair_rows(arm, one)],
        "rest": {
            arm: {key: getattr(one.rest, key) for key in ("df", "rms", "expected", "p")} for arm, one in screens.items()
        },
        "design": _design(levels, screens, there, {point: " ".join(words) for point, words in whole["points"].items()}),
        "aliases": _aliases(levels, screens),
        "stage": stage,
    }
    report["next"] = _next(report, whole, there, seconds)
    report["sentence"] = _sentence(report)
    return report


def _levels(words: list[str], factors: dict[str, list[list[str]]]) -> dict[str, int] | None:
    """Which level of each factor a point's words hold, factor by factor in their order; None where they hold no such levels."""
    read: dict[int, dict[str, int]] = {0: {}}  # by how many words are read, the levels so far
    for name, levels in factors.items():
        read = {
            n + len(level): {**found, name: sign}
            for n, found in read.items()
            for sign, level in zip((-1, 1), levels, strict=True)
            if words[n : n + len(level)] == level
        }
    return read.get(len(words))


def levels_in_words(words: list[str], factors: dict[str, list[list[str]]]) -> dict[str, str]:
    """The level of every factor at a point, `{"block": "post"}`; empty where the study is no screen."""
    signs = (_levels(words, factors) if factors else None) or {}
    return {name: short_levels([" ".join(level) for level in factors[name]])[sign > 0] for name, sign in signs.items()}


def _screened(levels: dict[str, dict[str, int]], there: dict[str, dict[str, Any]], arm: str | None) -> Screen | None:
    """The screen of an arm's deltas, or of the baseline's losses; a point with a missing or diverged seed is left out whole."""
    values = {}
    for point, part in there.items():
        if arm is None:
            losses = part["arms"][0]["val_loss"]["values"]
            values[point] = {} if None in losses.values() else {int(seed): loss for seed, loss in losses.items()}
            continue
        found = next((one for one in part["arms"][1:] if one["arm"] == arm and one["delta"]), None)
        if found and arm not in part["unfit"]:
            values[point] = {int(seed): delta for seed, delta in found["delta"]["values"].items()}
    known = {point: by_seed for point, by_seed in values.items() if by_seed and point in levels}
    return screened(levels, known) if known else None


def _factor_rows(
    arm: str, one: Screen, of_base: Screen | None, factors: dict[str, list[list[str]]]
) -> list[dict[str, Any]]:
    made = [
        {
            "factor": name,
            "levels": [" ".join(words) for words in factors[name]],
            "arm": arm,
            **_plain(effect),
            "on_baseline": of_base.effects[name].effect if of_base else None,
        }
        for name, effect in one.effects.items()
    ]
    return sorted(made, key=lambda row: -abs(row["effect"] or 0.0))


def _pair_rows(arm: str, one: Screen) -> list[dict[str, Any]]:
    return [
        {"pairs": [" x ".join(pair) for pair in found.pairs], "arm": arm, **_plain(found.estimate)}
        for found in one.pair_classes[:PAIRS]
    ]


def _plain(effect: Effect) -> dict[str, Any]:
    return {
        "effect": effect.effect,
        "se": effect.se,
        "ci95": list(effect.ci95) if effect.ci95 else None,
        "p": effect.p,
        "p_holm": effect.p_holm,
    }


def _design(
    levels: dict[str, dict[str, int]],
    screens: dict[str, Screen],
    there: dict[str, dict[str, Any]],
    words: dict[str, str],
) -> dict[str, Any]:
    seeds = sorted({n for one in screens.values() for n in one.seeds.values()})
    return {
        "points": levels,
        "words": words,
        "runs": len(levels),
        "factors": len(next(iter(levels.values()))),
        "resolution": aliases(levels).resolution,
        "seeds": seeds,
        "done": len(there),
        "lost": {arm: list(one.lost) for arm, one in screens.items() if one.lost},
        "as_run": {arm: one.aliases.resolution for arm, one in screens.items()},
    }


def _aliases(levels: dict[str, dict[str, int]], screens: dict[str, Screen]) -> dict[str, Any]:
    """Confounding of the points that the first arm really has."""
    found = next((one.aliases for one in screens.values()), None) or aliases(levels)
    return {
        "resolution": found.resolution,
        "mixed": {
            name: {" x ".join(pair): share for pair, share in pairs.items()}
            for name, pairs in found.mixed.items()
            if pairs
        },
        "classes": [[" x ".join(pair) for pair in group] for group in found.classes if len(group) > 1],
        "between": found.between,
        "inestimable": list(found.inestimable),
    }


def main_arm(report: dict[str, Any]) -> str | None:
    """The arm that the ranking is by: the first."""
    return next(iter(report["arms"]), None)


def ranked(report: dict[str, Any], arm: str | None = None) -> list[dict[str, Any]]:
    """The factors of one arm, the strongest first."""
    arm = arm or main_arm(report)
    return [row for row in report["factors"] if row["arm"] == arm and row["effect"] is not None]


def _next(
    report: dict[str, Any], whole: dict[str, Any], there: dict[str, dict[str, Any]], seconds: float | None
) -> dict[str, Any] | None:
    """The second step: every combination of the three strongest factors, with what it costs."""
    names = [row["factor"] for row in ranked(report)[:STRONGEST]]
    if len(whole["factors"]) <= STRONGEST or len(names) < STRONGEST:
        return None
    ordered = [name for name in whole["factors"] if name in names]
    arms = list(dict.fromkeys(arm["arm"] for part in there.values() for arm in part["arms"]))
    seeds = max(4, *report["design"]["seeds"]) if report["design"]["seeds"] else 4
    runs = 2**STRONGEST * len(arms) * seeds
    return {
        "words": [
            _factors_word(ordered, whole),
            f"study.arms=[{','.join(arms)}]",
            f"study.seeds={seeds}",
            f"name={whole['study']}_follow",
        ],
        "runs": runs,
        "core_minutes": None if seconds is None else runs * seconds / 60,
    }


def _factors_word(names: list[str], whole: dict[str, Any]) -> str:
    """What picks these factors: by name; with their levels where the request gave the factors as a table of its own."""
    if not any(word.partition("=")[2].lstrip().startswith("{") for word in _asked(whole, "study.factors")):
        return f"study.factors=[{','.join(names)}]"

    def listed(words: list[str]) -> str:
        return "[" + ",".join(f"'{word}'" for word in words) + "]"

    told = (f"{name}: [{','.join(map(listed, whole['factors'][name]))}]" for name in names)
    return f"study.factors={{{', '.join(told)}}}"


def _asked(whole: dict[str, Any], key: str) -> list[str]:
    return [word for word in whole.get("request", []) if word.partition("=")[0].lstrip("+") == key]


def _sentence(report: dict[str, Any]) -> str:
    """What turns the main arm's delta, strongest first; or the ranking of one seed."""
    rows, arm = ranked(report), main_arm(report)
    if not rows:
        return "No point of the screen has an arm to compare with its baseline yet."
    over = f"over {counted(report['design']['done'], 'design point')} of {report['design']['runs']}"
    what = f"{arm} minus {report['baseline']}"
    if all(row["p"] is None for row in rows):
        told = "; ".join(f"{row['factor']} ({_change(row)}: {row['effect']:+.3f})" for row in rows[:STRONGEST])
        one_seed = report["design"]["seeds"] == [1]
        why = "one seed a point gives no error" if one_seed else "the points that are left give no error"
        return f"A ranking that tests nothing, since {why}: {what} moves most with {told} nats per token, {over}."
    sure = [row for row in rows if row["p_holm"] is not None and row["p_holm"] < ALPHA]
    if not sure:
        least = max((row["ci95"][1] - row["ci95"][0]) / 2 for row in rows if row["ci95"])
        return f"No factor is found to move {what}, {over}; intervals are up to ±{least:.3f} nats wide."
    told = "; ".join(
        f"{row['factor']} ({_change(row)}: {row['effect']:+.3f}, 95% CI {row['ci95'][0]:+.3f} to {row['ci95'][1]:+.3f})"
        for row in sure
    )
    rest = f"; the other {len(rows) - len(sure)} are not found to" if len(rows) > len(sure) else ""
    return f"What {what} hinges on, in nats per token {over}: {told}{rest} (Holm over {counted(len(rows), 'factor')})."


def _change(row: dict[str, Any]) -> str:
    return " -> ".join(short_levels(row["levels"]))


def short_levels(levels: list[str]) -> list[str]:
    """Both levels without the key that they share: `model.block=post`, `model.block=pre` as `post`, `pre`."""
    keys = {level.partition("=")[0] for level in levels}
    alone = len(keys) == 1 and all(level.count("=") == 1 for level in levels)
    return [level.partition("=")[2] if alone else level for level in levels]


def columns(report: dict[str, Any]) -> tuple[str, ...]:
    """Of the table of factors: an effect for each arm, and a bar for the first."""
    return ("factor", "from", "to", *report["arms"], main_arm(report) or "")


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of text a factor, the strongest first; a star where Holm's p is below 5%."""
    by_arm = {(row["arm"], row["factor"]): row for row in report["factors"]}
    main = ranked(report)
    longest = max((abs(row["effect"]) for row in main), default=0.0) or 1.0
    made = []
    for row in main:
        effects = [_effect_text(by_arm.get((arm, row["factor"]))) for arm in report["arms"]]
        bar = "█" * max(1, round(BAR * abs(row["effect"]) / longest))
        made.append((row["factor"], *short_levels(row["levels"]), *effects, bar))
    return made


def _effect_text(row: dict[str, Any] | None) -> str:
    if row is None or row["effect"] is None:
        return "-"
    half = f" ±{(row['ci95'][1] - row['ci95'][0]) / 2:.3f}" if row["ci95"] else ""
    star = "*" if row["p_holm"] is not None and row["p_holm"] < ALPHA else ""
    return f"{row['effect']:+.3f}{half}{star}"


def lines(report: dict[str, Any]) -> list[str]:
    """What stands below the table: design, aliases, what is left, pairs, and the second step."""
    design, found = report["design"], report["aliases"]
    told = [
        f"design: {design['runs']} points, {counted(design['factors'], 'factor')}, resolution {design['resolution']}"
        + (f"; {design['done']} of them have run" if design["done"] < design["runs"] else "")
    ]
    if found["mixed"]:
        some = ", ".join(
            f"{name} with {', '.join(list(pairs)[:3])}" for name, pairs in list(found["mixed"].items())[:4]
        )
        told.append(f"as run, effects are mixed with pairs of factors: {some}")
    else:
        told.append(
            "no effect is mixed with a pair of factors"
            + (
                f"; pairs are mixed with each other (correlation up to {found['between']:.2f})"
                if found["between"]
                else ""
            )
        )
    if found["inestimable"]:
        told.append(f"the points that are there do not tell apart: {', '.join(found['inestimable'])}")
    for arm, lost in design["lost"].items():
        told.append(
            f"{arm}: left out whole, since a seed is missing or diverged: {', '.join(lost)} (resolution "
            f"{design['as_run'][arm]} without)"
        )
    for arm, rest in report["rest"].items():
        if rest["rms"] is not None:
            told.append(f"{arm}: between points {rest['rms']:.3f} nats are left (root mean square){_beyond(rest)}")
    if pairs := [row for row in report["pairs"] if row["arm"] == main_arm(report) and row["effect"] is not None][:3]:
        shown = "; ".join(f"{' or '.join(row['pairs'][:3])} {_effect_text(row)}" for row in pairs)
        how = "" if any(row["p"] is not None for row in pairs) else ", none of them tested by this design"
        told.append(f"largest pairs for {main_arm(report)}{how}: {shown}")
    return told


def _beyond(rest: dict[str, Any]) -> str:
    if rest["p"] is None:
        return ""
    more = (
        "more than the seeds explain: pairs of factors matter"
        if rest["p"] < ALPHA
        else "no more than the seeds explain"
    )
    return f", {more} (expected {rest['expected']:.3f}, p = {rest['p']:.2g})"
