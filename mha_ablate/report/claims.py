"""Claims on trial: what a study's parts say for and against each, row by row, and the verdict on it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mha_ablate.errors import RequestError
from mha_ablate.report.family import SHARED, STAGES, TUNED
from mha_ablate.report.sentence import counted
from mha_ablate.stats.paired import Paired, paired
from mha_ablate.stats.verdict import ENOUGH_SEEDS, decide

# What the rows of a claim add up to.
SUPPORTED, ONLY_IF, REFUTED, UNDECIDED = "supported", "supported only if", "refuted", "undecided"
STANDS = {True: "for", False: "against", None: "open"}
# The verdict that speaks against a one-sided expectation, and the sign that makes it an upper bound.
SIDES = {"no_worse": ("costs", 1), "no_better": ("helps", -1)}
SHOWN = 4  # places named in a verdict


def cards(
    whole: dict[str, Any], parts: list[dict[str, Any]], tunings: list[dict[str, Any]], *, complete: bool = True
) -> list[dict[str, Any]]:
    """One card a claim: `{claim, says, algebra, arms, change, verdict, only_if, look, shared_only, so_far, open, evidence}`.

    `shared_only` where each arm's own best rate leaves open what the shared rate decides; `so_far` where a verdict rests on
    runs and the study is not `complete`: parts of it have not run yet. Evidence is `{what, where, arm, delta, ci95, n, found,
    predicted, agrees}`: `agrees` is None where the row decides nothing.
    """
    return [
        _card(name, claim, whole, parts, tunings) | {"so_far": _rests_on_runs(claim) and not complete}
        for name, claim in whole.get("claims", {}).items()
    ]


def _card(
    name: str,
    claim: dict[str, Any],
    whole: dict[str, Any],
    parts: list[dict[str, Any]],
    tunings: list[dict[str, Any]],
) -> dict[str, Any]:
    at, expects = claim.get("at"), claim.get("expects", {})
    here = [part for part in parts if not at or part["point"] in at]
    rows = _costs(claim["costs"], here, whole.get("points", {}))
    rows += [row for part in here for arm, what in expects.items() if (row := _expected(part, arm, what))]
    rows += [row for tuning in tunings for arm in claim["rates"] if (row := _rate(tuning, arm, parts))]
    for arm, words in claim["refused"].items():
        rows += _fits(arm, parts) + _refusal(
            [*whole.get("request", []), *whole.get("arms", {}).get(arm, [])], arm, words
        )
    verdict, only_if = weighed(rows)
    return {
        "claim": name,
        **{key: claim[key] for key in ("says", "algebra", "change")},
        "arms": list(dict.fromkeys([*claim["costs"], *expects, *claim["rates"], *claim["refused"]])),
        "verdict": verdict,
        "only_if": only_if,
        "look": verdict != UNDECIDED and any(row["look"] for row in rows if row["agrees"] is not None),
        "shared_only": verdict != UNDECIDED and _shared_only(rows),
        "open": sum(row["agrees"] is None for row in rows),
        "evidence": rows,
    }


def _shared_only(rows: list[dict[str, Any]]) -> bool:
    """Whether rows at the shared rate decide, and rows at own best rates are there and all open."""
    decided, own = ([row for row in rows if row["stage"] == stage] for stage in (SHARED, TUNED))
    return bool(own) and any(row["agrees"] is not None for row in decided) and all(row["agrees"] is None for row in own)


def _rests_on_runs(claim: dict[str, Any]) -> bool:
    return bool(claim["costs"] or claim.get("expects") or claim["rates"])


def weighed(rows: list[dict[str, Any]]) -> tuple[str, str | None]:
    """The verdict on a claim, and the condition where it holds under one.

    A claim is supported where every row that can speak for it does: a row that is open shows it as little as one against it. It is
    refuted where some row is against it and none for it. A row that predicts no cost can speak against a claim, and not for it:
    that nothing happens where nothing should is not what it says.
    """
    main = [row for row in rows if row["predicted"] != "no cost"]
    agree = [row for row in main if row["agrees"] is True]
    if not agree:
        return (REFUTED if any(row["agrees"] is False for row in main) else UNDECIDED), None
    rest = [row for row in main if row["agrees"] is not True]
    apart = [row for row in rows if row["predicted"] == "no cost" and row["agrees"] is False]
    told = [_condition(agree, rest)] if rest else []
    told += [f"what it costs at {_places(apart)}, where by algebra nothing is lost, is taken off"] if apart else []
    return (ONLY_IF, ", and ".join(told)) if told else (SUPPORTED, None)


def _condition(agree: list[dict[str, Any]], rest: list[dict[str, Any]]) -> str:
    """What tells the rows for a claim from the others: the stage, the arm, the place, or else the rows themselves."""
    for key in ("stage", "arm", "point"):
        of_agree, of_rest = ({row[key] for row in rows} for rows in (agree, rest))
        without_stage = key == "stage" and "" in of_agree  # what holds at any rate is not told apart by one
        if not of_agree & of_rest and not without_stage:
            return _either(dict.fromkeys(_as_condition(key, row[key]) for row in agree))
    return _either(f"the arm is {row['arm']}, at {row['where']}" for row in agree)


def _as_condition(key: str, value: str) -> str:
    if key == "stage":
        return {SHARED: "all arms share one learning rate", TUNED: "each arm has its own best learning rate"}[value]
    if key == "arm":
        return f"{value} is what shows it"
    return value if "=" in value else f"the setting is {value}"


def _places(rows: list[dict[str, Any]]) -> str:
    return ", ".join(_few(dict.fromkeys(row["point"] for row in rows)))


def _either(words: Iterable[str]) -> str:
    return " or ".join(_few(words))


def _few(words: Iterable[str]) -> list[str]:
    words = list(words)
    return words[:SHOWN] + ([f"{len(words) - SHOWN} more"] if len(words) > SHOWN else [])


def _costs(arms: list[str], parts: list[dict[str, Any]], points: dict[str, list[str]]) -> list[dict[str, Any]]:
    """A row a part and arm: its delta, or where the arm costs at a control already, what it costs beyond that.

    A cost decides nothing where the arm costs without any loss too, and this setting lacks a control of its own. The excess
    `costs more` by the decision rule over all of them; it is `no more` where its 90% interval ends below the margin.
    """
    rows, beyond = [], {}
    for part in parts:
        for arm in arms:
            if (row := _cost(part, arm)) is None:
                continue
            lossless = _lossless(part, arm, parts)
            control = _control(part, lossless, points)
            costly = [other for other in lossless if _verdict(other, arm) == "costs"]
            if control is not None and control in costly:
                beyond[f"{part['folder']}\n{arm}"] = row, part, control
            elif control is None and costly and row["agrees"]:
                row |= {"found": f"costs, as at {costly[0]['point']}", "agrees": None}
            rows.append(row)
    contrasts = {key: _excess(part, control, row["arm"]) for key, (row, part, control) in beyond.items()}
    unfit = {key: part["unfit"][row["arm"]] for key, (row, part, _) in beyond.items() if row["arm"] in part["unfit"]}
    margin = min((part["margin"] for part in parts), default=0.0)
    for key, verdict in decide(contrasts, margin=margin, incomplete=unfit).items():
        (row, _, control), excess = beyond[key], contrasts[key]
        more = verdict.word == "costs"
        no_more = key not in unfit and not more and excess.ci90 is not None and excess.ci90[1] < margin
        row |= {
            "what": f"{row['what']}, beyond {control['point']}",
            "delta": excess.mean,
            "ci95": list(excess.ci95) if excess.ci95 else None,
            "n": excess.n,
            "found": "costs more" if more else "no more" if no_more else "undecided",
            "predicted": "costs more",
            "agrees": True if more else False if no_more else None,
            "look": verdict.look,
        }
    return rows


def _lossless(part: dict[str, Any], arm: str, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For a part that loses freedom: those of its stage that lose none by algebra, and where the arm has run."""
    if not part["freedom_lost"]:
        return []
    return [
        other
        for other in parts
        if other["stage"] == part["stage"] and other["freedom_lost"] == 0 and _verdict(other, arm)
    ]


def _control(
    part: dict[str, Any], lossless: list[dict[str, Any]], points: dict[str, list[str]]
) -> dict[str, Any] | None:
    """Of these, the one that differs in one setting alone: n_heads=1 is a control of base and n_heads=8, and of no other width."""
    ours = points.get(part["point"])
    if ours is None:
        return None
    return next((other for other in lossless if _apart(ours, points.get(other["point"], [])) == 1), None)


def _verdict(part: dict[str, Any], arm: str) -> str | None:
    return (_found(part, arm) or {}).get("verdict")


def _apart(one: list[str], other: list[str]) -> int:
    """How many settings differ between two points, by the words of both."""
    a, b = ({key: value for key, _, value in (word.partition("=") for word in words)} for words in (one, other))
    return sum(a.get(key) != b.get(key) for key in a | b)


def _excess(part: dict[str, Any], control: dict[str, Any], arm: str) -> Paired:
    """Delta at a point minus delta at its control, seed by seed."""
    ours, theirs = ((_found(place, arm) or {})["delta"]["values"] for place in (part, control))
    return paired(ours, theirs)


def _cost(part: dict[str, Any], arm: str) -> dict[str, Any] | None:
    """An arm's delta at one point and stage: for the claim where it costs and freedom is lost, against it else.

    It does not cost where its 90% interval ends below the margin, as in `as_expected`.
    """
    found = _found(part, arm)
    if found is None or part["freedom_lost"] is None:
        return None
    predicted = "costs" if part["freedom_lost"] > 0 else "no cost"
    free = None if arm in part["unfit"] else as_expected("no_worse", found, part["margin"])
    row = _measured(part, found, predicted, None if free is None else free == (predicted == "no cost"))
    return row | ({"found": "no cost"} if free and row["found"] == "undecided" else {})


def _expected(part: dict[str, Any], arm: str, what: str) -> dict[str, Any] | None:
    """An arm's delta beside what a claim says that it does, at any setting."""
    found = _found(part, arm)
    if found is None:
        return None
    agrees = None if arm in part["unfit"] else as_expected(what, found, part["margin"])
    row = _measured(part, found, what.replace("_", " "), agrees)
    return row | ({"found": row["predicted"]} if agrees and row["found"] == "undecided" else {})


def as_expected(what: str, found: dict[str, Any], margin: float) -> bool | None:
    """Whether an arm does what a claim expects of it; None where that is open.

    `costs`, `helps` and `level` are decided by the verdict alone. An arm is `no_worse` where its 90% interval ends below the
    margin (non-inferiority, one-sided 5%), and is worse where the verdict says `costs`; `no_better` is the same from above.
    """
    verdict = found["verdict"]
    if what in SIDES:
        contrary, sign = SIDES[what]
        if verdict == contrary:
            return False
        interval = found["delta"]["ci90"]
        return True if interval and max(sign * end for end in interval) < margin else None
    return None if verdict == "undecided" else verdict == {"level": "equivalent"}.get(what, what)


def _found(part: dict[str, Any], arm: str) -> dict[str, Any] | None:
    return next((one for one in part["arms"][1:] if one["arm"] == arm and one["delta"]), None)


def _measured(part: dict[str, Any], found: dict[str, Any], predicted: str, agrees: bool | None) -> dict[str, Any]:
    return {
        "what": f"{found['arm']} minus {part['baseline']}",
        **_where(part["point"], part["stage"]),
        "arm": found["arm"],
        "delta": found["delta"]["mean"],
        "ci95": found["delta"]["ci95"],
        "n": found["n"],
        "found": found["verdict"],
        "predicted": predicted,
        "agrees": agrees,
        "look": bool(found["look"]),
    }


def _rate(tuning: dict[str, Any], arm: str, parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The highest rate at which an arm still trains, beside the baseline's: for the claim where it is lower."""
    base = next((part["baseline"] for part in parts if part["point"] == tuning["point"]), None)
    widest, losses = tuning["widest_stable"], tuning["losses"]
    if base not in widest or arm not in widest:
        return None
    ends = [widest[name] == max(map(float, losses[name])) for name in (arm, base)]
    told = [f"{name} {widest[name]:g}{' or more' if end else ''}" for name, end in zip((arm, base), ends, strict=True)]
    at_the_end_of_the_grid = all(ends)
    return {
        "what": f"highest rate that still trains: {', '.join(told)}",
        **_where(tuning["point"], ""),
        "arm": arm,
        "delta": None,
        "ci95": None,
        "n": len(tuning["seeds"]),
        "found": "lower" if widest[arm] < widest[base] else "as high" if widest[arm] == widest[base] else "higher",
        "predicted": "lower",
        "agrees": None if at_the_end_of_the_grid else widest[arm] < widest[base],
        "look": len(tuning["seeds"]) < ENOUGH_SEEDS,
    }


def _fits(arm: str, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Against a claim that an arm cannot be built: the runs of it that ended well."""
    ended = [one["n"] for part in parts for one in part["arms"] if one["arm"] == arm and one["n"]]
    if not ended:
        return []
    what = f"{arm} trains: {counted(sum(ended), 'run')} ended well"
    return [_built(arm, what, "n_heads x head_dim = d_model", "trains", agrees=False)]


def _refusal(request: list[str], arm: str, words: list[str]) -> list[dict[str, Any]]:
    """For it: that the arm is refused with some words. Tried here and now, without training."""
    where = ", ".join(words)
    try:
        _build([*request, *words])
    except RequestError as error:
        why = str(error)
        if " cannot align " not in why:  # it could not be tried
            return [_built(arm, f"{arm} could not be tried: {why}", where, "not tried", agrees=None)]
        return [_built(arm, f"{arm} is refused: {why}", where, "refused", agrees=True)]
    return [_built(arm, f"{arm} is built", where, "built", agrees=False)]


def _build(words: list[str]) -> None:
    """A model of these words, without memory for its values. Raises RequestError where it cannot be."""
    from mha_ablate import build
    from mha_ablate.config.compose import compose

    build.model_of(build.resolved(compose(words).config), 2, "meta")


def _built(arm: str, what: str, where: str, found: str, *, agrees: bool | None) -> dict[str, Any]:
    return {
        "what": what,
        "where": where,
        "point": where,
        "stage": "",
        "arm": arm,
        "delta": None,
        "ci95": None,
        "n": None,
        "found": found,
        "predicted": "refused",
        "agrees": agrees,
        "look": False,
    }


def _where(point: str, stage: str) -> dict[str, str]:
    """Where a row stands: its words for a reader, and its point and stage."""
    return {"where": ", ".join(filter(None, (point, STAGES[stage]))) or "here", "point": point, "stage": stage}
