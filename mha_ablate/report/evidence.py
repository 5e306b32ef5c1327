"""Rows of evidence for and against a claim: `{what, where, point, stage, arm, delta, ci95, n, found, predicted, agrees, look}`.

`agrees` is True where the row speaks for the claim, False where it speaks against it, None where it decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mha_ablate.errors import RequestError
from mha_ablate.report.family import STAGES
from mha_ablate.report.sentence import counted
from mha_ablate.stats.paired import Paired, paired
from mha_ablate.stats.sample import holm
from mha_ablate.stats.verdict import ALPHA, ENOUGH_SEEDS, decide
from mha_ablate.study.parts import STABLE

Row = dict[str, Any]
Part = dict[str, Any]
NO_COST = "no cost"  # what a claim about lost freedom predicts where none is lost
# The verdict that speaks against a one-sided expectation.
SIDES = {"no_worse": "costs", "no_better": "helps"}


@dataclass
class Contrast:
    """A difference on its way to a row: `pair` by seed, and why it is no fair sample, if it is none."""

    row: Row
    pair: Paired
    margin: float
    unfit: str | None

    def excludes(self, side: str = "no_worse") -> float:
        """P that what lies beyond the margin on that side is excluded; 1 where nothing can be said."""
        p = self.pair.p_below(self.margin) if side == "no_worse" else self.pair.p_above(-self.margin)
        return 1.0 if self.unfit or p is None else p

    def no_more_than(self, place: Part) -> float:
        """P that this is no more than the same arm's delta at another place, by the seeds that both have; 1 where unknown."""
        theirs = _deltas(place, self.row["arm"])
        if self.unfit or self.row["arm"] in place["unfit"] or not theirs.keys() & self.pair.differences.keys():
            return 1.0
        p = paired(self.pair.differences, theirs).p_above(0.0)
        return 1.0 if p is None else p


def cost_rows(arms: list[str], parts: list[Part], points: dict[str, list[str]]) -> list[Row]:
    """A row a part and arm: for the claim where removal costs what is lost by algebra, and against it where it does not.

    Where a setting has a control of its own, one that differs in one key and loses nothing, its row is the excess: the delta here
    minus the delta there, seed by seed, whatever the verdict on the control. It speaks for the claim where it *costs* by the
    decision rule over all excesses. Elsewhere a row is the arm's delta, and speaks for the claim where the study's verdict is
    *costs* and it is more than at every place of its stage that loses nothing (Holm over these rows).

    It speaks against the claim where a cost above the margin is excluded, at 5% for all of the claim's rows together (Holm).
    """
    lossless = {
        _key(part, arm): _free(part, arm) for part, arm in _measured_at(arms, parts) if not part["freedom_lost"]
    }
    lost = [(part, arm) for part, arm in _measured_at(arms, parts) if part["freedom_lost"]]
    excesses = {
        _key(part, arm): _excess(part, control, arm)
        for part, arm in lost
        if (control := _control(part, arm, parts, points)) is not None
    }
    alone = {_key(part, arm): _contrast(part, arm, "costs") for part, arm in lost if _key(part, arm) not in excesses}
    _speak_for(excesses)
    _speak_for_alone(alone, [place for place in parts if place["freedom_lost"] == 0])
    _speak_against(excesses | alone)
    found = {key: contrast.row for key, contrast in (excesses | alone).items()} | lossless
    return [found[_key(part, arm)] for part, arm in _measured_at(arms, parts)]


def _measured_at(arms: list[str], parts: list[Part]) -> Iterator[tuple[Part, str]]:
    """Parts whose loss of freedom is known, with each arm that has a delta there."""
    for part in parts:
        for arm in arms:
            if part["freedom_lost"] is not None and found_of(part, arm):
                yield part, arm


def _key(part: Part, arm: str) -> str:
    return f"{part['folder']}\n{arm}"


def _free(part: Part, arm: str) -> Row:
    """An arm where nothing is lost: it agrees where it is free of cost within the margin."""
    contrast = _contrast(part, arm, NO_COST)
    verdict = contrast.row["found"]
    free = contrast.excludes() < ALPHA
    agrees = False if verdict == "costs" else True if free else None
    return contrast.row | {"agrees": agrees} | ({"found": NO_COST} if free and verdict == "undecided" else {})


def _excess(part: Part, control: Part, arm: str) -> Contrast:
    """Delta at a setting minus delta at its control, by the seeds that both have."""
    ours, theirs = (_deltas(place, arm) for place in (part, control))
    pair = paired(ours, theirs)
    row = _contrast(part, arm, "costs more").row | {
        "what": f"{arm} minus {part['baseline']}, beyond {control['point']}",
        "delta": pair.mean,
        "ci95": list(pair.ci95) if pair.ci95 else None,
        "n": pair.n,
        "found": "undecided",
        "look": pair.n < ENOUGH_SEEDS,
    }
    return Contrast(row, pair, part["margin"], part["unfit"].get(arm) or control["unfit"].get(arm))


def _speak_for(excesses: dict[str, Contrast]) -> None:
    """By the decision rule over all of them."""
    unfit = {key: one.unfit for key, one in excesses.items() if one.unfit}
    for margin in {one.margin for one in excesses.values()}:
        verdicts = decide({key: one.pair for key, one in excesses.items()}, margin=margin, incomplete=unfit)
        for key, one in excesses.items():
            if one.margin == margin and verdicts[key].word == "costs":
                one.row |= {"found": "costs more", "agrees": True}


def _speak_for_alone(alone: dict[str, Contrast], lossless: list[Part]) -> None:
    """Where the verdict is *costs*, and by no more than at a place that loses nothing is excluded for each such place."""
    places = {key: _places_of(one, lossless) for key, one in alone.items()}
    no_more = {key: max(map(one.no_more_than, places[key])) for key, one in alone.items() if places[key]}
    adjusted = holm(no_more)
    for key, one in alone.items():
        if one.row["found"] == "costs":
            more = adjusted.get(key, 0.0) < ALPHA
            one.row |= {"agrees": True} if more else {"found": f"costs, maybe as at {places[key][0]['point']}"}


def _places_of(one: Contrast, lossless: list[Part]) -> list[Part]:
    return [place for place in lossless if place["stage"] == one.row["stage"] and found_of(place, one.row["arm"])]


def _speak_against(contrasts: dict[str, Contrast]) -> None:
    """Where a cost above the margin is excluded by all rows together, and no cost has been found."""
    for key, p in holm({key: one.excludes() for key, one in contrasts.items()}).items():
        row = contrasts[key].row
        if p < ALPHA and row["agrees"] is None and not row["found"].startswith("costs"):
            none_found = {"undecided": "no more" if row["predicted"] == "costs more" else NO_COST}
            row |= {"agrees": False, "found": none_found.get(row["found"], row["found"])}


def _control(part: Part, arm: str, parts: list[Part], points: dict[str, list[str]]) -> Part | None:
    """The part of its stage that loses nothing and differs in one setting: n_heads=1 for n_heads=8, and for no other width."""
    if (ours := points.get(part["point"])) is None:
        return None
    return next(
        (
            other
            for other in parts
            if (other["stage"], other["freedom_lost"]) == (part["stage"], 0)
            and found_of(other, arm)
            and _deltas(other, arm).keys() & _deltas(part, arm).keys()
            and _apart(ours, points.get(other["point"], [])) == 1
        ),
        None,
    )


def _apart(one: list[str], other: list[str]) -> int:
    """How many settings differ between two points, by the words of both."""
    a, b = ({key: value for key, _, value in (word.partition("=") for word in words)} for words in (one, other))
    return sum(a.get(key) != b.get(key) for key in a | b)


def expectation_rows(expects: dict[str, str], parts: list[Part]) -> list[Row]:
    """An arm's delta beside what a claim says that it does, at any setting.

    `costs`, `helps` and `level` are decided by the study's verdict. An arm is `no_worse` where a cost above the margin is excluded
    (non-inferiority), at 5% for all of the claim's rows of that kind together (Holm), and worse where the verdict says `costs`;
    `no_better` is the same from above.
    """
    found = [
        (_contrast(part, arm, what.replace("_", " ")), what)
        for part in parts
        for arm, what in expects.items()
        if found_of(part, arm)
    ]
    sided = {str(number): one.excludes(what) for number, (one, what) in enumerate(found) if what in SIDES}
    excluded = {number for number, p in holm(sided).items() if p < ALPHA}
    for number, (one, what) in enumerate(found):
        verdict = one.row["found"]
        if one.unfit:
            continue
        if what not in SIDES:
            agrees = None if verdict == "undecided" else verdict == {"level": "equivalent"}.get(what, what)
        else:
            agrees = False if verdict == SIDES[what] else True if str(number) in excluded else None
        one.row |= {"agrees": agrees}
        if agrees and verdict == "undecided":
            one.row["found"] = one.row["predicted"]
    return [one.row for one, _ in found]


def rate_rows(arms: list[str], tunings: list[dict[str, Any]], parts: list[Part]) -> list[Row]:
    """The highest rate at which an arm trains about as well as at its best, beside the baseline's: for a claim where it is lower.

    Equal rates speak against it, unless both reach the end of the grid. An arm that trains at none of its rates is lower than any.
    """
    return [row for tuning in tunings for arm in arms if (row := _rate(tuning, arm, parts))]


def _rate(tuning: dict[str, Any], arm: str, parts: list[Part]) -> Row | None:
    base = next((part["baseline"] for part in parts if part["point"] == tuning["point"]), "")
    widest, losses = tuning["widest_stable"], tuning["losses"]
    if base not in widest or arm not in losses:
        return None
    ours, theirs = widest.get(arm, 0.0), widest[base]
    ends = [rate == max(map(float, losses[name])) for name, rate in ((arm, ours), (base, theirs))]
    told = [_highest(losses[name], name, rate) for name, rate in ((arm, ours), (base, theirs))]
    return {
        "what": f"highest rate within {STABLE:g} nats of its best: {', '.join(told)}",
        **_where(tuning["point"], ""),
        "arm": arm,
        "delta": None,
        "ci95": None,
        "n": len(tuning["seeds"]),
        "found": "lower" if ours < theirs else "as high" if ours == theirs else "higher",
        "predicted": "lower",
        "agrees": None if all(ends) else ours < theirs,
        "look": len(tuning["seeds"]) < ENOUGH_SEEDS,
    }


def _highest(curve: dict[str, float | None], arm: str, rate: float) -> str:
    if not rate:
        return f"{arm} none"
    end = " or more" if rate == max(map(float, curve)) else ""
    return f"{arm} {rate:g}{end} (loss {curve[f'{rate:g}']:.2f})"


def refusal_rows(refused: dict[str, list[str]], whole: dict[str, Any], parts: list[Part]) -> list[Row]:
    """Against a claim that an arm cannot be built: the runs of it that ended well. For it: that it is refused with some words."""
    rows: list[Row] = []
    for arm, words in refused.items():
        rows += _fits(arm, parts)
        rows.append(_refusal([*whole.get("request", []), *whole.get("arms", {}).get(arm, [])], arm, words))
    return rows


def _fits(arm: str, parts: list[Part]) -> list[Row]:
    ended = [one["n"] for part in parts for one in part["arms"] if one["arm"] == arm and one["n"]]
    if not ended:
        return []
    what = f"{arm} trains, at {counted(len(ended), 'setting')} with up to {counted(max(ended), 'seed')}"
    return [_built(arm, what, "n_heads x head_dim = d_model", "trains", agrees=False)]


def _refusal(request: list[str], arm: str, words: list[str]) -> Row:
    """Tried here and now, without training."""
    where = ", ".join(words)
    try:
        _build([*request, *words])
    except RequestError as error:
        if " cannot align " not in str(error):  # it could not be tried
            return _built(arm, f"{arm} could not be tried: {error}", where, "not tried", agrees=None)
        what = f"{arm} with {where} is refused: {error}"
        return _built(arm, what, "n_heads x head_dim != d_model", "refused", agrees=True)
    return _built(arm, f"{arm} is built", where, "built", agrees=False)


def _build(words: list[str]) -> None:
    """A model of these words, without memory for its values. Raises RequestError where it cannot be."""
    from mha_ablate import build
    from mha_ablate.config.compose import compose

    build.model_of(build.resolved(compose(words).config), 2, "meta")


def _built(arm: str, what: str, where: str, found: str, *, agrees: bool | None) -> Row:
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


def found_of(part: Part, arm: str) -> dict[str, Any] | None:
    """What a part has of an arm, where it has a delta."""
    return next((one for one in part["arms"][1:] if one["arm"] == arm and one["delta"]), None)


def _deltas(part: Part, arm: str) -> dict[int, float]:
    found = found_of(part, arm)
    assert found is not None
    return {int(seed): delta for seed, delta in found["delta"]["values"].items()}


def _contrast(part: Part, arm: str, predicted: str) -> Contrast:
    """An arm's delta as the study has it, open so far."""
    found = found_of(part, arm)
    assert found is not None
    row = {
        "what": f"{arm} minus {part['baseline']}",
        **_where(part["point"], part["stage"]),
        "arm": arm,
        "delta": found["delta"]["mean"],
        "ci95": found["delta"]["ci95"],
        "n": found["n"],
        "found": found["verdict"],
        "predicted": predicted,
        "agrees": None,
        "look": bool(found["look"]),
    }
    deltas = _deltas(part, arm)
    return Contrast(row, paired(deltas, dict.fromkeys(deltas, 0.0)), part["margin"], part["unfit"].get(arm))


def _where(point: str, stage: str) -> dict[str, str]:
    """Where a row stands: its words for a reader, and its point and stage."""
    return {"where": ", ".join(filter(None, (point, STAGES[stage]))) or "here", "point": point, "stage": stage}
