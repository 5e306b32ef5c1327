"""What a screen says: which settings turn the difference between an arm and the baseline, and what is left for pairs of them."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any

from mha_ablate.report.family import TUNED
from mha_ablate.report.sentence import counted
from mha_ablate.stats.screen import Effect, Screen, aliases, screened
from mha_ablate.stats.verdict import ALPHA

STRONGEST = 3  # factors that a second step takes
PAIRS = 5  # classes of pairs that are listed
BAR = 16  # cells of the longest bar in a terminal
TAKEN = ("study.factors", "study.seeds", "study.arms", "name")  # keys that the second step sets itself
STEP = "next: "  # how its line begins


def screen_of(
    whole: dict[str, Any] | None, parts: list[dict[str, Any]], seconds: float | None
) -> dict[str, Any] | None:
    """The screen of a study with factors: `{factors, pairs, rest, aliases, design, tests, arms, next, sentence}`; None for others.

    `factors` has a row per arm and factor: `{factor, levels, arm, effect, se, ci95, p, p_holm, on_baseline}`,
    ranked within each arm; `effect` is the mean delta at the second level minus that at the first, and `on_baseline` the same of
    the baseline's own loss. `moves` has by arm what one point does to an effect at most. `seconds` is what a run took.
    """
    levels = _levels_of(whole) if whole else {}
    if not whole or not levels:
        return None
    stage = TUNED if any(part["stage"] == TUNED for part in parts) else parts[0]["stage"]
    there = {part["point"]: part for part in parts if part["stage"] == stage}
    arms = list(dict.fromkeys(arm["arm"] for part in there.values() for arm in part["arms"][1:]))
    screens = {arm: found for arm in arms if (found := _screened(levels, there, arm)) is not None}
    report: dict[str, Any] = {
        "arms": list(screens),
        "baseline": whole["baseline"],
        "tests": any(effect.p is not None for one in screens.values() for effect in one.effects.values()),
        "factors": _factor_rows(screens, _screened(levels, there, None), whole["factors"]),
        "pairs": [row for arm, one in screens.items() for row in _pair_rows(arm, one)],
        "rest": {arm: asdict(one.rest) for arm, one in screens.items()},
        "design": _design(levels, screens, there, whole["points"]),
        "aliases": _aliases(levels, screens),
        "moves": {
            arm: {"by": one.moves[0], "points": list(one.moves[1])} if one.moves else None
            for arm, one in screens.items()
        },
        "stage": stage,
    }
    report["next"] = _next(report, whole, there, seconds)
    report["sentence"] = _sentence(report)
    return report


def _levels_of(whole: dict[str, Any]) -> dict[str, dict[str, int]]:
    """The levels of every point; empty for a study without factors, or whose points are not those of its factors."""
    factors = whole.get("factors", {})
    found = {point: _levels(words, factors) for point, words in whole["points"].items()} if factors else {}
    known = {point: levels for point, levels in found.items() if levels}
    return known if len(known) == len(found) else {}


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
    screens: dict[str, Screen], of_base: Screen | None, factors: dict[str, list[list[str]]]
) -> list[dict[str, Any]]:
    """A row an arm and factor, arm by arm, the strongest first."""
    made = [
        {
            "factor": name,
            "levels": [" ".join(words) for words in factors[name]],
            "arm": arm,
            **_plain(effect),
            "on_baseline": of_base.effects[name].effect if of_base else None,
        }
        for arm, one in screens.items()
        for name, effect in one.effects.items()
    ]
    return sorted(made, key=lambda row: (list(screens).index(row["arm"]), -abs(row["effect"] or 0.0)))


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
    points: dict[str, list[str]],
) -> dict[str, Any]:
    """The design as it was made, and as far as it has run: `used` has for each arm the number of points with all its seeds."""
    seeds = sorted({n for one in screens.values() for n in one.seeds.values()})
    return {
        "points": levels,
        "words": {point: " ".join(words) for point, words in points.items()},
        "runs": len(levels),
        "factors": len(next(iter(levels.values()))),
        "resolution": aliases(levels).resolution,
        "seeds": seeds,
        "done": len(there),
        "used": {arm: len(one.seeds) for arm, one in screens.items()},
        "lost": {
            arm: lost for arm, one in screens.items() if (lost := [point for point in one.lost if point in there])
        },
        "pooled": {arm: list(one.pooled) for arm, one in screens.items() if one.pooled},
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
        "inseparable": [" x ".join(pair) for pair in found.inseparable],
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
    """The second step: every combination of the three strongest factors, with what it costs.

    `given` are the words of this screen's request that the step takes over, `words` its own; `options` are for the command line.
    """
    names = [row["factor"] for row in ranked(report)[:STRONGEST]]
    if len(whole["factors"]) <= STRONGEST or len(names) < STRONGEST:
        return None
    ordered = [name for name in whole["factors"] if name in names]
    arms = list(dict.fromkeys(arm["arm"] for part in there.values() for arm in part["arms"]))
    seeds = max(4, *report["design"]["seeds"]) if report["design"]["seeds"] else 4
    runs = 2**STRONGEST * len(arms) * seeds
    return {
        "given": [word for word in whole.get("request", []) if _key(word) not in TAKEN and word != "study=screen"],
        "words": [
            _factors_word(ordered, whole),
            f"study.arms=[{','.join(arms)}]",
            f"study.seeds={seeds}",
            f"name={whole['study']}_follow",
        ],
        "options": [],
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
    return [word for word in whole.get("request", []) if _key(word) == key]


def _key(word: str) -> str:
    return word.partition("=")[0].lstrip("+")


def step_command(step: dict[str, Any]) -> str:
    """The second step as a shell takes it."""
    return shlex.join(["mha-ablate", "screen", *step["given"], *step["words"], *step["options"]])


def _sentence(report: dict[str, Any]) -> str:
    """On which factors the main arm's delta hinges, strongest first; or the ranking of one seed."""
    rows, arm, design = ranked(report), main_arm(report), report["design"]
    if arm is None:
        return "No point of the screen has an arm to compare with its baseline yet."
    what, used, runs = f"{arm} minus {report['baseline']}", design["used"][arm], design["runs"]
    over = f"over {used} of {runs} design points" if used < runs else f"over {counted(runs, 'design point')}"
    if not rows:
        factors = counted(design["factors"], "factor")
        return (
            f"{what} is known at {used} of {runs} design points: too few to tell {factors} apart, which takes "
            f"{design['factors'] + 1} or more."
        )
    if all(row["p"] is None for row in rows):
        return _ranking(rows, what, over, one_seed=design["seeds"] == [1])
    sure = [row for row in rows if row["p_holm"] is not None and row["p_holm"] < ALPHA]
    if not sure:
        least = max((row["ci95"][1] - row["ci95"][0]) / 2 for row in rows if row["ci95"])
        told = _others(rows, [])
        return f"No factor is found to move {what}, {over}; 95% intervals are up to ±{least:.3f} nats wide{told}."
    told = "; ".join(
        f"{row['factor']} ({_change(row)}: {row['effect']:+.3f}, 95% CI {row['ci95'][0]:+.3f} to {row['ci95'][1]:+.3f})"
        for row in sure
    )
    holm = f"(Holm over {counted(design['factors'], 'factor')})"
    told = f"{what} hinges on these factors, in nats per token {over}: {told}{_others(rows, sure)} {holm}."
    return " ".join(filter(None, (told, _paired(report, arm), _moved(report["moves"][arm]))))


def _paired(report: dict[str, Any], arm: str) -> str:
    """The pairs that were found: a factor's effect is then another one at each level of the other."""
    sure = [row for row in report["pairs"] if row["arm"] == arm and row["p_holm"] is not None and row["p_holm"] < ALPHA]
    if not sure:
        return ""
    told = "; ".join(f"{' or '.join(row['pairs'])} {_effect_text(row)}" for row in sure)
    return f"It hinges on pairs of them as well, so that neither effect of a pair holds by itself: {told}."


def _moved(moves: dict[str, Any] | None) -> str:
    """By how much an effect depends on one point."""
    if moves is None:
        return ""
    return f"Without {' or without '.join(moves['points'][:2])} an effect changes by up to {moves['by']:.3f}."


def _ranking(rows: list[dict[str, Any]], what: str, over: str, *, one_seed: bool) -> str:
    """The strongest factors where none is tested, and why none is."""
    told = "; ".join(f"{row['factor']} ({_change(row)}: {row['effect']:+.3f})" for row in rows[:STRONGEST])
    too_few = "there are too few points to tell a factor from the pairs of factors that are mixed into it"
    why = "one seed a point gives no error" if one_seed else too_few
    return f"A ranking that tests nothing, since {why}: {what} moves most with {told} nats per token, {over}."


def _others(rows: list[dict[str, Any]], sure: list[dict[str, Any]]) -> str:
    """How many factors beside those found were not found, and how many were not tested."""
    untested = sum(row["p"] is None for row in rows)
    found_not = len(rows) - len(sure) - untested
    those = "one is" if found_not == 1 else f"{found_not} are"
    told = [f"the other {those} not found to move it"] if sure and found_not else []
    told += [f"{untested} of the factors are not tested, since too few points are there"] if untested else []
    return "".join(f"; {one}" for one in told)


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
    """The text below the table: design, aliases, points left out, the rest between points, pairs, and the second step."""
    step = [_step_line(report["next"])] if report["next"] else []
    return [
        _design_line(report["design"]),
        *_alias_lines(report),
        *_seed_lines(report["design"]),
        *_rest_lines(report),
        *step,
    ]


def _design_line(design: dict[str, Any]) -> str:
    so_far = f"; {design['done']} of them have run" if design["done"] < design["runs"] else ""
    factors = counted(design["factors"], "factor")
    return f"design: {design['runs']} points, {factors}, resolution {design['resolution']}{so_far}"


def _alias_lines(report: dict[str, Any]) -> list[str]:
    """What the points that have run do not tell apart."""
    found = report["aliases"]
    if found["mixed"]:
        some = [f"{name} with {', '.join(list(pairs)[:3])}" for name, pairs in list(found["mixed"].items())[:4]]
        told = [f"as run, effects are mixed with pairs of factors: {', '.join(some)}"]
    else:
        how = f"pairs are mixed with each other (correlation up to {found['between']:.2f})" if found["between"] else ""
        told = ["; ".join(filter(None, ("no effect is mixed with a pair of factors", how)))]
    if found["inseparable"]:
        some = ", ".join(found["inseparable"][:3]) + (", ..." if len(found["inseparable"]) > 3 else "")
        told.append(f"{counted(len(found['inseparable']), 'pair')} cannot be told from the factors at all: {some}")
    if found["inestimable"]:
        told.append(f"the points that are there do not tell apart: {', '.join(found['inestimable'])}")
    return told


def _seed_lines(design: dict[str, Any]) -> list[str]:
    """Points that an arm lacks, and those of which it has one seed."""
    lost = [
        f"{arm}: left out whole, since a seed is missing or diverged: {', '.join(points)} (resolution "
        f"{design['as_run'][arm]} without)"
        for arm, points in design["lost"].items()
    ]
    pooled = [
        f"{arm}: one seed at {', '.join(points)}, whose spread is taken to be that of the other points (pooled)"
        for arm, points in design["pooled"].items()
    ]
    return lost + pooled


def _rest_lines(report: dict[str, Any]) -> list[str]:
    """What the factors leave between points, and the largest pairs."""
    told = [
        f"{arm}: between points {rest['rms']:.3f} nats are left (root mean square){_beyond(rest)}"
        for arm, rest in report["rest"].items()
        if rest["rms"] is not None
    ]
    main = main_arm(report)
    if pairs := [row for row in report["pairs"] if row["arm"] == main and row["effect"] is not None][:3]:
        shown = "; ".join(f"{' or '.join(row['pairs'][:3])} {_effect_text(row)}" for row in pairs)
        how = "" if any(row["p"] is not None for row in pairs) else ", none of them tested by this design"
        told.append(f"largest pairs for {main}{how}: {shown}")
    return told


def _step_line(step: dict[str, Any]) -> str:
    minutes = "" if step["core_minutes"] is None else f", about {step['core_minutes']:.0f} minutes of one core"
    return (
        f"{STEP}every combination of the {STRONGEST} strongest factors, to see which pairs of them matter "
        f"({step['runs']} runs{minutes}): {step_command(step)}"
    )


def _beyond(rest: dict[str, Any]) -> str:
    if rest["p"] is None:
        return ""
    more = (
        "more than the seeds explain: pairs of factors matter"
        if rest["p"] < ALPHA
        else "no more than the seeds explain"
    )
    return f", {more} (expected {rest['expected']:.3f}, p = {rest['p']:.2g})"
