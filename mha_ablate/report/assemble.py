"""report.json: everything that a report says, as plain values."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from mha_ablate.config.compose import key_of
from mha_ablate.config.flat import flat
from mha_ablate.data.corpus import bits_per_byte, unseen_words
from mha_ablate.errors import RequestError, nearest
from mha_ablate.report.floor import copies, floor_notes, known_floor
from mha_ablate.report.sentence import counted, sentence
from mha_ablate.report.trade import SIDE_BY_SIDE, to_reach
from mha_ablate.report.waterfall import waterfall
from mha_ablate.stats.paired import Paired, paired
from mha_ablate.stats.power import smallest_effect
from mha_ablate.stats.verdict import Verdict, decide
from mha_ablate.study.collect import Run, Study
from mha_ablate.study.promise import departures

METRIC = "validation loss in nats per token, whole split, at the last step"
DEFAULT_MARGIN = 0.01
NAMED = 8  # arms in a message
NOISY = 1.3  # slowest round over fastest, of one arm
COST_KEYS = (
    "params",
    "params_attention",
    "params_fc_out",
    "flops_per_token",
    "step_ms",
    "tokens_per_s",
    "peak_memory_mb",
)
LENGTH = ("trainer.steps", "trainer.batch_size", "model.context")  # how much an arm is trained on
SETTING_KEYS = ("init", "model", "attention", "tokenizer", "data", "optim", "trainer")


def assemble(study: Study, *, baseline: str | None = None, margin: float | None = None) -> dict[str, Any]:
    """The report of a study. `baseline` and `margin` fall back on the plan's, then on the arm with the largest fc_out and on 0.01.

    Raises RequestError for a baseline that is not among the arms.
    """
    plan = study.plan or {}
    base = _baseline(study, baseline)
    margin = margin if margin is not None else float(plan.get("margin", DEFAULT_MARGIN))
    losses = {arm: _losses(study.of(arm)) for arm in study.arms}
    contrasts: dict[str, Paired] = {}
    incomplete: dict[str, str] = {}
    for arm in study.arms:
        if arm == base:
            continue
        if losses[arm].keys() & losses[base].keys():
            contrasts[arm] = paired(losses[arm], losses[base])
        if why := unfit(study, arm, base):
            incomplete[arm] = why
    unplanned = [arm for arm in study.arms if plan and arm not in plan["arms"]]
    verdicts = decide(contrasts, margin=margin, incomplete=incomplete, exploratory=unplanned)
    arms = [_arm(study, arm, base, losses, contrasts, verdicts, incomplete, margin) for arm in _ordered(study, base)]
    setting = _setting(study)
    written = partial(_contrast, margin=margin)
    report: dict[str, Any] = {
        "study": plan.get("study", study.folder.path.name),
        "name": study.folder.path.resolve().name,
        "baseline": base,
        "metric": METRIC,
        "margin": margin,
        "kind": _kind(plan, base, margin),
        "plan_hash": plan.get("hash"),
        "setting": setting,
        "arms": arms,
        "waterfall": waterfall(plan.get("waterfall", {}), losses, written),
        "copies": copies(plan.get("copies", {}), losses, written),
        "noise_floor": known_floor(study.folder, study.arm_hash(base), len(losses[base])),
        "bits_per_byte": bits_per_byte(setting["text"]),
        "notes": [*_point_notes(study, base), *_notes(study, setting)],
        "provenance": _provenance(study),
    }
    report["notes"] += _waterfall_notes(study, report["waterfall"])
    report["notes"] += [
        *_asked_otherwise(plan, base, margin),
        *_promise_notes(plan, contrasts, incomplete),
        *floor_notes(report),
    ]
    report["sentence"] = sentence(report)
    return report


def _kind(plan: dict[str, Any], base: str, margin: float) -> str:
    """`confirmatory` where the plan was made ahead of the study and kept, `changed` where it was not kept, else `exploratory`."""
    if not plan.get("power"):
        return "exploratory"
    return "changed" if plan.get("earlier") or _asked_otherwise(plan, base, margin) else "confirmatory"


def _asked_otherwise(plan: dict[str, Any], base: str, margin: float) -> list[str]:
    """Where the report was asked for another baseline or margin than was planned: a choice that may have seen the results."""
    planned = float(plan.get("margin", DEFAULT_MARGIN))
    asked = [f"the margin is ±{margin:g} nats, and the plan's is ±{planned:g}"] if plan and margin != planned else []
    if base != plan.get("baseline", base):
        asked.append(f"the baseline is {base}, and the plan's is {plan['baseline']}")
    return [f"{change}: asked for with the report, and no longer fixed before the run" for change in asked]


def _baseline(study: Study, asked: str | None) -> str:
    wanted = asked or (study.plan or {}).get("baseline") or _fullest(study)
    if wanted not in study.arms:
        raise RequestError(
            f"baseline {wanted} is not among the arms{nearest(wanted, study.arms)}: choose one of {_listed(study.arms)} with "
            "--baseline"
        )
    return wanted


def _listed(arms: list[str]) -> str:
    """The first few in words; names of a sweep's arms hold commas."""
    return "; ".join(arms[:NAMED]) + (f" and {len(arms) - NAMED} more" if len(arms) > NAMED else "")


def _fullest(study: Study) -> str:
    """Without a plan, the arm whose fc_out has the most parameters stands for the unablated model."""

    def size(arm: str) -> int:
        return max((r.about.get("cost", {}).get("params_fc_out") or 0 for r in study.of(arm)), default=0)

    return max(study.arms, key=size)


def _ordered(study: Study, base: str) -> list[str]:
    return [base, *(arm for arm in study.arms if arm != base)]


def _losses(runs: list[Run]) -> dict[int, float]:
    return {run.seed: run.val_loss for run in runs if run.val_loss is not None}


def unfit(study: Study, arm: str, base: str) -> str | None:
    """Why an arm and the baseline make no fair comparison; None where they do."""
    return "; ".join(filter(None, (_missing_seeds(study, arm, base), _unlike_training(study, arm, base)))) or None


def _unlike_training(study: Study, arm: str, base: str) -> str | None:
    """Where an arm trained on more or less than the baseline, and nobody asked for that."""
    own, of_base = (_configured(study, name) for name in (arm, base))
    unlike = [key for key in LENGTH if key in own and key in of_base and own[key] != of_base[key]]
    return ", ".join(
        f"{key} is {own[key]} of {arm} and {of_base[key]} of {base}"
        for key in unlike
        if not _asked(study, arm, base, key)
    )


def _configured(study: Study, arm: str) -> dict[str, Any]:
    return next((flat(run.config) for run in study.of(arm) if run.config), {})


def _asked(study: Study, arm: str, base: str, key: str) -> bool:
    """Whether two arms are there to differ in a length: planned with it, or, without a plan, unlike in nothing else."""
    words, of_base = _overrides(study, arm), _overrides(study, base)
    if {arm, base} <= (study.plan or {}).get("arms", {}).keys():
        return any(_sets(word, key) for word in (*words, *of_base))
    unlike = {*words} ^ {*of_base}
    return bool(unlike) and all(any(_sets(word, length) for length in LENGTH) for word in unlike)


def _sets(word: str, key: str) -> bool:
    """Whether an override sets a key, by itself or through its group."""
    return f"{key}.".startswith(f"{key_of(word)}.")


def _missing_seeds(study: Study, arm: str, base: str) -> str | None:
    """Why an arm's seeds are no complete sample; None where they are."""
    counts: dict[str, int] = {}
    cells = (study.plan or {}).get("cells", {})
    planned = {int(cell.rpartition("=")[2]) for cell in cells if cell.rpartition("/")[0] == arm}
    seeds = planned | {r.seed for r in study.of(arm)} if planned else {r.seed for a in (arm, base) for r in study.of(a)}
    for name in (arm, base):
        states = {run.seed: run.state for run in study.of(name)}
        for seed in seeds:
            state = states.get(seed, "missing")
            state = "unfinished" if state == "running" else state
            if state != "ok":
                counts[f"of {name} {state}"] = counts.get(f"of {name} {state}", 0) + 1
    return ", ".join(f"{n} of {counted(len(seeds), 'seed')} {what}" for what, n in counts.items()) or None


def _absent(study: Study, arm: str) -> list[int]:
    """Seeds that the plan, or else any other arm, has and this arm has no run for."""
    cells = (study.plan or {}).get("cells", {})
    planned = {int(cell.rpartition("=")[2]) for cell in cells if cell.rpartition("/")[0] == arm}
    return sorted((planned or {run.seed for run in study.runs}) - {run.seed for run in study.of(arm)})


def _arm(
    study: Study,
    arm: str,
    base: str,
    losses: dict[str, dict[int, float]],
    contrasts: dict[str, Paired],
    verdicts: dict[str, Verdict],
    incomplete: dict[str, str],
    margin: float,
) -> dict[str, Any]:
    values = losses[arm]
    contrast, verdict = contrasts.get(arm), verdicts.get(arm)
    return {
        "arm": arm,
        "n": contrast.n if contrast else len(values) if arm == base else 0,
        "overrides": _overrides(study, arm),
        "verdict": "baseline" if arm == base else verdict.word if verdict else "undecided",
        "verdict_reason": None
        if arm == base
        else verdict.reason
        if verdict
        else incomplete.get(arm, "no pair of seeds"),
        "look": verdict.look if verdict else None,
        "exploratory": bool(study.plan) and arm not in (study.plan or {})["arms"],
        "val_loss": {
            "mean": statistics.fmean(values.values()) if values else None,
            "sd": statistics.stdev(values.values()) if len(values) > 1 else None,
            "values": {str(run.seed): run.val_loss for run in study.of(arm)},
        },
        "delta": _delta(contrast, verdict, margin) if contrast else None,
        "states": {str(run.seed): run.state for run in study.of(arm)},
        "missing": _absent(study, arm),
        "errors": {str(run.seed): run.about["error"] for run in study.of(arm) if run.about.get("error")},
        "cost": (cost := _cost(study, arm, base)),
        "to_reach": to_reach(study, arm, base, cost),
    }


def _delta(contrast: Paired, verdict: Verdict | None, margin: float) -> dict[str, Any]:
    """A contrast with the baseline and what the rule made of it."""
    of_rule = {"p_holm": verdict.p_holm, "verdict_reason": verdict.reason} if verdict else {}
    return {**_contrast(contrast, margin), "p_holm": None, "verdict_reason": None, **of_rule}


def _contrast(c: Paired, margin: float) -> dict[str, Any]:
    """All statistics of a contrast as plain values; `least_margin` is the smallest at which it would be called equivalent."""
    intervals = {"ci95": c.ci95, "ci90": c.ci90, "bca95": c.bca95, "p_worse_ci95": c.p_worse_ci95}
    least = max(map(abs, c.ci90)) if c.ci90 else None
    return {
        "mean": c.mean,
        "sd": c.sd,
        **{key: list(ends) if ends else None for key, ends in intervals.items()},
        "p_t": c.p_t,
        "p_sign_flip": c.p_sign_flip,
        "p_worse": c.p_worse,
        "g": c.g,
        "mde": c.mde,
        "correlation": c.correlation,
        "equivalence": {"p": c.p_equivalence(margin), "margin": margin, "least_margin": least},
        "values": {str(seed): value for seed, value in c.differences.items()},
    }


def _overrides(study: Study, arm: str) -> list[str]:
    """What makes the arm: as planned, or else the words of its runs that say neither where nor with which seed."""
    planned = (study.plan or {}).get("arms", {})
    if arm in planned:
        return list(planned[arm])
    words = next((run.about.get("overrides", []) for run in study.of(arm)), [])
    return [word for word in words if word.partition("=")[0] not in ("seed", "name", "outputs")]


def _ratio(rounds: list[float] | None, of_base: list[float] | None) -> dict[str, Any]:
    """A step's time as a share of the baseline's, taken round by round: what a drift of the machine does to both drops out."""
    if not rounds or not of_base or len(rounds) != len(of_base):
        return {}
    ratios = [mine / theirs for mine, theirs in zip(rounds, of_base, strict=True)]
    return {"step_ratio": statistics.median(ratios), "step_ratio_range": [min(ratios), max(ratios)]}


def _cost(study: Study, arm: str, base: str) -> dict[str, Any]:
    """Counted costs; step time from the interleaved measurement, or else from the runs themselves (median over seeds)."""
    if arm in study.costs:
        return {
            **{k: study.costs[arm].get(k) for k in COST_KEYS},
            **_ratio(study.costs[arm].get("step_ms_rounds"), study.costs.get(base, {}).get("step_ms_rounds")),
            "timed": SIDE_BY_SIDE,
        }
    counted = next((run.about["cost"] for run in study.of(arm) if "cost" in run.about), {})
    cost = {k: counted.get(k) for k in COST_KEYS}
    if study.costs:  # times of two kinds do not belong into one column
        return {**cost, "step_ms": None, "tokens_per_s": None, "timed": "not with the others"}
    for key in ("step_ms", "tokens_per_s"):
        seen = [v for r in study.of(arm) if (v := (r.about.get("result") or {}).get(key)) is not None]
        cost[key] = statistics.median(seen) if seen else None
    return {**cost, "timed": "during the runs, beside whatever else the machine did"}


def _setting(study: Study) -> dict[str, Any]:
    """What the runs have in common, and under `differs` the keys in which arms differ."""
    settings: dict[str, list[Any]] = {}
    seeds: set[int] = set()
    for run in study.runs:
        seeds.add(run.seed)
        settings.setdefault("init", [])
        if run.init not in settings["init"]:
            settings["init"].append(run.init)
        for group in SETTING_KEYS:
            for key, value in flat(run.config.get(group) or {}, f"{group}.").items():
                settings.setdefault(key, [])
                if value not in settings[key]:
                    settings[key].append(value)
    text = next((run.about["text"] for run in study.runs if run.about.get("text")), {})
    return {
        "same": {k: v[0] for k, v in settings.items() if len(v) == 1},
        "differs": {k: v for k, v in settings.items() if len(v) > 1},
        "seeds": sorted(seeds),
        "text": text,
    }


def _notes(study: Study, setting: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers."""
    notes = []
    sources = [run.about["provenance"] for run in study.runs if run.about.get("provenance")]
    for key in ("precision", "device", "threads"):
        seen = {str(source.get(key)) for source in sources}
        if len(seen) > 1:
            notes.append(f"runs differ in {key}: {'; '.join(sorted(seen))}")
    notes += _code_notes(study, sources)
    for key in LENGTH:
        values = setting["differs"].get(key)
        if values:
            notes.append(f"runs differ in {key}: {', '.join(map(str, values))}")
    if study.plan and study.plan.get("earlier") and not study.plan.get("power"):
        notes.append(f"the plan was changed {len(study.plan['earlier'])} time(s) after it was first written")
    spread = [max(r) / min(r) for c in study.costs.values() if (r := c.get("step_ms_range"))]
    if spread and max(spread) > NOISY:
        notes.append(f"step times are noisy here: the rounds of one arm differ by up to {max(spread) - 1:.0%}")
    elif not study.costs and len(study.arms) > 1:
        notes.append("step times were taken during the runs, each under its own load: they cannot be compared")
    unplanned = [arm for arm in study.arms if study.plan and arm not in study.plan["arms"]]
    if unplanned:
        notes.append(f"exploratory, because the plan does not hold them: {', '.join(unplanned)}")
    notes += _unequal_seeds(study)
    same = setting["same"]
    if same.get("optim.warmup_steps", 0) >= same.get("trainer.steps", 1):
        notes.append("optim.warmup_steps is not below trainer.steps: the rate never reaches its peak")
    for state, word in (("running", "unfinished"), ("failed", "failed"), ("diverged", "diverged")):
        named = [f"{run.arm}/seed={run.seed}" for run in study.runs if run.state == state]
        if named:
            shown = ", ".join(named[:5]) + (" ..." if len(named) > 5 else "")
            notes.append(f"{len(named)} run(s) {word}: {shown}")
    if study.left_out:
        shown = ", ".join(str(file.relative_to(study.folder.path)) for file in study.left_out[:5])
        more = " ..." if len(study.left_out) > 5 else ""
        notes.append(f"{len(study.left_out)} file(s) cannot be read and are left out: {shown}{more}")
    if strange := unseen_words(setting["text"]):
        notes.append(strange)
    return notes


def _unequal_seeds(study: Study) -> list[str]:
    """Of a study whose arms were asked for at other seeds than others: who adds seeds where an arm promises much finds too much."""
    if not study.plan:
        return []
    planned: dict[str, int] = dict.fromkeys(study.plan["arms"], 0)
    for cell in study.plan["cells"]:
        planned[cell.rpartition("/")[0]] = planned.get(cell.rpartition("/")[0], 0) + 1
    if len(set(planned.values())) < 2:
        return []
    told = ", ".join(f"{arm} {n}" for arm, n in planned.items())
    return [
        f"arms were asked for at unequal numbers of seeds ({told}): each delta is over the seeds that both arms have"
    ]


def _code_notes(study: Study, sources: list[dict[str, Any]]) -> list[str]:
    """Where runs were made by different code: the versions of what all of them had, and the commits."""
    notes = []
    versions = [source["versions"] for source in sources if isinstance(source.get("versions"), dict)]
    for package in sorted(set.intersection(*map(set, versions))) if versions else []:
        seen = sorted({str(of_run[package]) for of_run in versions})
        if len(seen) > 1:
            notes.append(f"runs differ in the version of {package}: {', '.join(seen)}")
    if len(made_by := commits(study)) > 1:
        notes.append(f"runs were made by different commits of the code: {', '.join(made_by)}")
    return notes


def commits(study: Study) -> list[str]:
    """The states of the code that made the runs; none where it was installed and no checkout."""
    states = [(run.about.get("provenance") or {}).get("git") for run in study.runs]
    return sorted({_commit(state) for state in states if isinstance(state, dict)})


def _commit(state: dict[str, Any]) -> str:
    return str(state.get("commit"))[:10] + (" with changes" if state.get("dirty") else "")


def _point_notes(study: Study, base: str) -> list[str]:
    """Of a sweep over more than the projection: deltas hold what the other settings change too."""
    if study.plan is not None:
        return []
    keys = {word.partition("=")[0] for arm in study.arms for word in _differing(study, arm)}
    others = sorted(keys - {"fc_out"})
    if not others or "fc_out" not in keys:
        return []
    point = " ".join(word for word in _differing(study, base) if not word.startswith("fc_out="))
    return [
        f"arms differ in {', '.join(others)} too, and every delta is to {base} ({point}); a study with study.points=[...] compares "
        "each point with a baseline of its own"
    ]


def _differing(study: Study, arm: str) -> list[str]:
    """The words of an arm that not all arms have."""
    every = [set(_overrides(study, other)) for other in study.arms]
    return [word for word in _overrides(study, arm) if not all(word in words for words in every)]


def _waterfall_notes(study: Study, fall: dict[str, Any] | None) -> list[str]:
    """Of a waterfall that was planned: what it lacks."""
    chain = (study.plan or {}).get("waterfall", {})
    arms = list(dict.fromkeys(arm for pair in chain.values() for arm in pair))
    if chain and fall is None:
        return [f"there is no waterfall: no seed has ended well in all of its arms ({', '.join(arms)})"]
    seeds = {run.seed for arm in arms for run in study.of(arm)}
    if fall is None or len(fall["seeds"]) == len(seeds):
        return []
    return [
        f"the waterfall is over {len(fall['seeds'])} of {counted(len(seeds), 'seed')}: one of its arms "
        "has not ended well at the others"
    ]


def _promise_notes(plan: dict[str, Any], contrasts: dict[str, Paired], incomplete: dict[str, str]) -> list[str]:
    """Of a plan made ahead: whether it was kept, and whether the study can see what was promised."""
    power = plan.get("power")
    if not power:
        return []
    notes = []
    if plan.get("earlier"):
        notes.append(changed_since(plan))
    seen = {
        arm: smallest_effect(c.sd, c.n, alpha=power["alpha"], power=power["power"])
        for arm, c in contrasts.items()
        if c.sd is not None and arm in power["contrasts"] and arm not in incomplete
    }
    late = [arm for arm, size in seen.items() if size > power["effect"]]
    open_yet = [
        f"{arm} ({incomplete.get(arm, 'fewer than two paired seeds')})" for arm in power["contrasts"] if arm not in seen
    ]
    parts = [f"planned to find a difference of {power['effect']:g} nats" + ("" if late or open_yet else ", and it can")]
    parts += [f"it cannot for {', '.join(late)}"] if late else []
    parts += [f"nothing can be said yet of {', '.join(open_yet)}"] if open_yet else []
    finest = ", ".join(f"{size:.3g} for arm {arm}" for arm, size in seen.items())
    parts += [f"the smallest that its seeds can find: {finest}"] if seen else []
    return [*notes, "; ".join(parts)]


def changed_since(plan: dict[str, Any]) -> str:
    """Of a plan made ahead and changed afterwards: what of it."""
    how = "; ".join(departures(plan))
    return f"the plan was made ahead and changed afterwards{f' ({how})' if how else ''}: no longer confirmatory"


def _provenance(study: Study) -> dict[str, Any]:
    return next((dict(run.about["provenance"]) for run in study.runs if run.about.get("provenance")), {})
