"""Several studies side by side: points of one study, stages of tuning, or any studies below one folder."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from mha_ablate.config.catalog import default_choice
from mha_ablate.cost.freedom import freedom_lost
from mha_ablate.errors import RequestError
from mha_ablate.report.assemble import assemble, changed_since, commits, unfit
from mha_ablate.report.claims import cards
from mha_ablate.report.curves import curves_of
from mha_ablate.report.family import STAGES, absent_of, decide_together, parts_of, wholes
from mha_ablate.report.generalise import generalises, over_points_of
from mha_ablate.report.joint_page import joint_page
from mha_ablate.report.joint_plots import joint_figures
from mha_ablate.report.plots import as_png, as_svg
from mha_ablate.report.screen import screen_of
from mha_ablate.report.sentence import counted
from mha_ablate.report.starts import ordering, starts_of
from mha_ablate.report.tables import latex_table, markdown_table, parts_csv, regenerating
from mha_ablate.run.folder import StudyFolder, write_atomic
from mha_ablate.start_rule import gain_of_out
from mha_ablate.study.collect import Study, collect
from mha_ablate.study.parts import GRID, SHARED, STABLE, TUNED, Tuning, tuning_of

COLUMNS = ("point", "arm", "val loss", "delta, 95%", "verdict")
ENOUGH_RATES = 5


def studies_below(path: Path) -> list[Path]:
    """Folders of studies below a folder that is none itself."""
    if (path / "plan.json").exists():
        return []
    return sorted(file.parent for file in path.rglob("plan.json"))


def write_joint(path: Path, *, margin: float | None = None) -> dict[str, Any]:
    """Collect the studies below `path`, write report.json, report.html and figures to `path/report`; returns the report.

    Raises RequestError where there is none that has a run.
    """
    studies = _studies(path)
    report = _assembled(path, studies, margin)
    folder = StudyFolder(path).report_dir
    if folder.is_symlink():
        raise RequestError(f"{folder} is a link, and a report is written beside its runs: remove the link")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / "report.json", json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    named = {f.relative_to(path).as_posix(): study for f, study in studies.items()}
    write_atomic(folder / "runs.csv", parts_csv(named))
    write_atomic(folder / "table.md", "\n".join(markdown_table(*one) for one in _tables(report)))
    write_atomic(folder / "table.tex", latex_table(COLUMNS, rows(report)))
    svgs: list[str] = []
    for name, figure in joint_figures(report).items():
        svgs.append(as_svg(figure))
        write_atomic(folder / f"{name}.svg", svgs[-1])
        write_atomic(folder / f"{name}.png", as_png(figure))
    write_atomic(folder / "report.html", joint_page(report, svgs, regenerating(path, None, margin)))
    return report


def _tables(report: dict[str, Any]) -> list[tuple[tuple[str, ...], list[tuple[str, ...]]]]:
    """All arms, and below them the steps of removal where there are any."""
    fall = fall_rows(report)
    return [(COLUMNS, rows(report)), *([(fall[0], fall[1:])] if fall else [])]


def joint_report(path: Path, *, margin: float | None = None) -> dict[str, Any]:
    """`{study, name, one_study, parts, tunings, starts, curves, over_points, screen, claims, notes, sentence}`.

    Each part has its arms and their deltas to its own baseline.

    Where the parts are those of one study, verdicts are over all its contrasts; studies that happen to lie together keep their own.
    """
    return _assembled(path, _studies(path), margin)


def _studies(path: Path) -> dict[Path, Study]:
    """The studies below a folder that have a run, by their folders."""
    return {folder: collect(folder) for folder in studies_below(path) if any(folder.rglob("run.json"))}


def _assembled(path: Path, studies: dict[Path, Study], margin: float | None) -> dict[str, Any]:
    parts = [_part(path, study, margin) for f, study in studies.items() if _stage(f) != GRID]
    tunings = [_tuning(path, f, study) for f, study in studies.items() if _stage(f) == GRID]
    if not parts:
        raise RequestError(f"{path} holds no study with a finished run: give a folder that `mha-ablate compare` wrote")
    families = wholes(path, parts)
    parts.sort(key=partial(_order, families))
    places = list(dict.fromkeys(part["point"] for part in parts))
    tunings.sort(key=lambda tuning: places.index(tuning["point"]) if tuning["point"] in places else len(places))
    whole = families.get("")
    absent: list[tuple[str, str]] = []
    for below, of_study in families.items():
        absent += (lacking := absent_of(below, of_study, parts))
        decide_together(parts_of(below, parts), lacking)
    name = path.resolve().name
    report = {
        "study": whole["study"] if whole else name,
        "name": name,
        "kind": _kind(whole, parts),
        "plan_hash": whole.get("hash") if whole else None,
        "axis": _axis(parts),
        "parts": parts,
        "tunings": tunings,
    }
    report["one_study"] = bool(whole)
    late = [f"not run yet: {', '.join('/'.join(filter(None, place)) for place in absent)}"] if absent else []
    grids = [note for f, study in studies.items() if _stage(f) == GRID for note in _grid_notes(path, study)]
    report["notes"] = [*late, *_changed_notes(whole, parts), *grids, *_notes(report)]
    report["starts"] = starts_of(report)
    report["curves"] = curves_of(report)
    report["over_points"] = over_points_of(parts) if whole else {}
    report["screen"] = screen_of(whole, parts, _seconds(studies))
    removal, along = _removal(report), [curve["sentence"] for curve in report["curves"].values()]
    told = (_answer(report), ordering(report, removal), *along, generalises(report, removal))
    report["sentence"] = " ".join(filter(None, told))
    complete = not absent and not any(arm["missing"] for part in parts for arm in part["arms"])
    report["claims"] = cards(whole, parts, tunings, complete=complete) if whole else []
    return report


def _order(families: dict[str, dict[str, Any]], part: dict[str, Any]) -> tuple[Any, ...]:
    """Where a part stands: beside those of its study, then by stage, then in the order of the study's points.

    Points that are values of one setting stand by their numbers.
    """
    study = next((name for name in families if name and part["folder"].startswith(f"{name}/")), "")
    points = list(families.get(study, {}).get("points", {}))
    unlike = len({point.rpartition("=")[0] for point in points}) > 1 or any(_number(point) is None for point in points)
    written = next((n for n, point in enumerate(points) if unlike and _is(study, point, part)), 0)
    return study, list(STAGES).index(part["stage"]), written, part["x"] is None, part["x"] or 0, part["point"]


def _is(study: str, point: str, part: dict[str, Any]) -> bool:
    return part["point"] == "/".join(filter(None, (study, point)))


def _kind(whole: dict[str, Any] | None, parts: list[dict[str, Any]]) -> str:
    """As of a study of one part: `confirmatory` where the whole was planned ahead and neither it nor a part was changed."""
    if not whole or not whole.get("power"):
        return "exploratory"
    kept = not whole.get("earlier") and all(part["kind"] == "confirmatory" for part in parts)
    return "confirmatory" if kept else "changed"


def _changed_notes(whole: dict[str, Any] | None, parts: list[dict[str, Any]]) -> list[str]:
    """Of a plan made ahead of the whole: what was changed of it, and what lies here that it lacks."""
    if not whole or not whole.get("power"):
        return []
    notes = [changed_since(whole)] if whole.get("earlier") else []
    if whole.get("final"):
        notes.append(
            "its rates were tuned in another way meanwhile, and those runs lie in the grid: that cannot be taken back"
        )
    unplanned = [part["folder"] for part in parts if part["kind"] == "exploratory"]
    if unplanned:
        notes.append(f"no part of the plan that was made ahead, though they lie here: {', '.join(unplanned)}")
    return notes


def _grid_notes(root: Path, grid: Study) -> list[str]:
    """Of the cells of a grid that did not come to an end: their arms are judged without these rates."""
    ended = {f"{run.arm}/seed={run.seed}" for run in grid.runs if run.state in ("ok", "diverged")}
    cells = (grid.plan or {}).get("cells") or {f"{run.arm}/seed={run.seed}": "" for run in grid.runs}
    lost = [cell for cell in cells if cell not in ended]
    shown = ", ".join(lost[:5]) + (" ..." if len(lost) > 5 else "")
    where = grid.folder.path.relative_to(root).as_posix()
    return [f"{where}: {len(lost)} cell(s) have not ended, and their rates are left out: {shown}"] if lost else []


def _part(root: Path, study: Study, margin: float | None) -> dict[str, Any]:
    """One study as a part: where it stands, its arms, its waterfall, and what algebra says that removal takes away."""
    report = assemble(study, margin=margin)
    point, stage = _place(root, study.folder.path)
    base = report["baseline"]
    return {
        "point": point,
        "stage": stage,
        "x": _number(point),
        "folder": study.folder.path.relative_to(root).as_posix(),
        **{key: report[key] for key in ("baseline", "margin", "kind", "plan_hash", "arms", "waterfall", "sentence")},
        "unfit": {a["arm"]: why for a in report["arms"][1:] if (why := unfit(study, a["arm"], base))},
        "freedom_lost": _freedom(study, base),
        "start_gain": start_gain(study, base),
        "setting": report["setting"],
        "commits": commits(study),
        "notes": report["notes"],
    }


def _place(root: Path, folder: Path) -> tuple[str, str]:
    """(point, stage) of a part, by its folder below the root."""
    names = folder.relative_to(root).parts
    stage = _stage(folder)
    return "/".join(names[:-1] if stage else names), stage


def _stage(folder: Path) -> str:
    """The stage of tuning that a folder holds, by what the whole study says of itself: a study may be called `grid` too."""
    above = (StudyFolder(path).parts() or {} for path in (folder.parent, folder.parent.parent))
    return folder.name if folder.name in (GRID, SHARED, TUNED) and any(whole.get("tune") for whole in above) else ""


def _number(point: str) -> float | None:
    """The value of a point such as `n_heads=4`; None where it is no number."""
    try:
        value = float(point.rpartition("=")[2])
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _freedom(study: Study, base: str) -> float | None:
    """Degrees of freedom that the OV maps of all layers lose without a projection; None where the sizes do not say."""
    config = next((run.config for run in study.of(base) if run.config), {})
    model, attention = config.get("model") or {}, config.get("attention") or {}
    d, heads, layers = (model.get(key) for key in ("d_model", "n_heads", "n_layers"))
    usual = attention.get("value", "learned") == "learned" and model.get("head_dim") in (
        None,
        d and heads and d // heads,
    )
    if not (d and heads and layers and usual):
        return None
    return layers * freedom_lost(d, heads, split=attention.get("qkv") == "split")


def start_gain(study: Study, base: str) -> float | None:
    """The gain with which the baseline's W_O starts, by its init's rule and its sizes; None where they do not say.

    None also for a baseline other than the whole projection, which alone starts by that rule, and for blocks without a skip,
    where W_O starts with gain 1 whatever the rule.
    """
    run = next((run for run in study.of(base) if run.config), None)
    if run is None or run.about.get("choices", {}).get("fc_out") != default_choice("fc_out"):
        return None
    rules, model, attention = (run.config.get(group) or {} for group in ("init", "model", "attention"))
    if model.get("block") == "skipless":
        return None
    try:
        sizes = {"head_dim": model["head_dim"] or model["d_model"] // model["n_heads"]}
        sizes |= {"d_ff": model["d_ff"] or 4 * model["d_model"]}
        return gain_of_out(rules, {**model, **sizes}, divide_by=attention.get("divide_by", "sqrt_head_dim"))
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None


def _axis(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the points differ in, by their names."""
    names = {part["point"].rpartition("=")[0] for part in parts}
    numeric = len(names) == 1 and all(part["x"] is not None for part in parts)
    return {"name": names.pop() if numeric else "study", "numeric": numeric}


def _tuning(root: Path, folder: Path, grid: Study) -> dict[str, Any]:
    """A grid as plain values; a loss that was not finite is None."""
    found: Tuning = tuning_of(grid)
    finite = {
        arm: {f"{rate:g}": loss if math.isfinite(loss) else None for rate, loss in sorted(curve.items())}
        for arm, curve in found.losses.items()
    }
    trains = {arm for arm, curve in finite.items() if any(loss is not None for loss in curve.values())}
    kept = Tuning({arm: curve for arm, curve in found.losses.items() if arm in trains}, found.seeds)
    return {
        "point": _place(root, folder)[0],
        "seeds": found.seeds,
        "losses": finite,
        "best": kept.best,
        "at_edge": kept.at_edge if trains else [],
        "widest_stable": kept.widest_stable,
        "sensitivity": kept.sensitivity,
    }


def _notes(report: dict[str, Any]) -> list[str]:
    """What a reader must know before believing the numbers: the joint ones first, then those of the parts, each said once."""
    placed = []
    for tuning in report["tunings"]:
        if tuning["at_edge"]:
            placed.append(
                (
                    tuning["point"],
                    f"the best rate of {', '.join(tuning['at_edge'])} lies at the edge of the grid, which was not widened any "
                    "further: a better one may lie outside",
                )
            )
        fewest = min(map(len, tuning["losses"].values()), default=0)
        if 0 < fewest < ENOUGH_RATES:
            few = f"tuned on {counted(fewest, 'rate')}, where {ENOUGH_RATES} tell an optimum from its neighbours"
            placed.append((tuning["point"], few))
    told = [(p["folder"], note) for p in report["parts"] for note in p["notes"] if not note.startswith("step times")]
    return [*_said_once(placed), *_unlike(report), *_said_once(told)]


def _said_once(placed: list[tuple[str, str]]) -> list[str]:
    """`PLACE, PLACE: note` for every note, however many places have it."""
    places: dict[str, list[str]] = {}
    for place, note in placed:
        places.setdefault(note, []).append(place)
    return [f"{', '.join(filter(None, found))}: {note}".removeprefix(": ") for note, found in places.items()]


def _unlike(report: dict[str, Any]) -> list[str]:
    """What parts differ in that nobody swept, and that tells their numbers apart."""
    notes = []
    for key in ("text", "tokenizer", "trainer.steps", "trainer.batch_size", "model.context"):
        found = _places(report["parts"], partial(_common, key))
        swept = report["axis"]["name"] == key.rpartition(".")[2]
        if len(found) > 1 and not swept:
            so = ", so that their nats per token cannot be compared with each other" if key == "tokenizer" else ""
            notes.append(f"parts differ in {key}: {_shown(found)}{so}")
    if len(found := _places(report["parts"], lambda part: ", ".join(part["commits"]) or None)) > 1:
        notes.append(f"parts were made by different commits of the code: {_shown(found)}")
    return notes


def _common(key: str, part: dict[str, Any]) -> Any:
    """What all runs of a part have; None where they differ."""
    text, same = part["setting"]["text"], part["setting"]["same"]
    return text.get({"text": "name"}.get(key, key), same.get(key))


def _places(parts: list[dict[str, Any]], of: Callable[[dict[str, Any]], Any]) -> dict[str, list[str]]:
    """The folders of parts by something of theirs."""
    found: dict[str, list[str]] = {}
    for part in parts:
        if (value := of(part)) is not None:
            found.setdefault(str(value), []).append(part["folder"])
    return found


def _shown(found: dict[str, list[str]]) -> str:
    return "; ".join(f"{value} ({', '.join(places)})" for value, places in found.items())


def _sentence(report: dict[str, Any]) -> str:
    """The removal at every point and stage, in words."""
    clauses = []
    arms = {_main(part)["arm"] for part in report["parts"] if _main(part)}
    for stage in STAGES:
        parts = [part for part in report["parts"] if part["stage"] == stage]
        told = [f"{_named(part, arms)}{_told(_main(part))}" for part in parts if _main(part)]
        if told:
            where = {SHARED: "at the shared rate", TUNED: "at each arm's own best rate"}.get(
                stage, "against the baseline"
            )
            clauses.append(f"{where}: {', '.join(told)}")
    seeds = {_main(part)["n"] for part in report["parts"] if _main(part)}
    if not clauses:
        return "No part has an arm to compare with its baseline."
    over = (f"{min(seeds)} to " if len(seeds) > 1 else "") + counted(max(seeds), "paired seed")
    return f"What {' or '.join(sorted(arms))} costs in nats per token over {over}, {'; '.join(clauses)}."


def _answer(report: dict[str, Any]) -> str:
    """Of a screen what turns the difference, of any other study what removal costs at every point."""
    return report["screen"]["sentence"] if report["screen"] else _sentence(report)


def _removal(report: dict[str, Any]) -> str | None:
    """The arm that most parts have as their removal."""
    names = [main["arm"] for part in report["parts"] if (main := _main(part))]
    return max(names, key=names.count, default=None)


def _seconds(studies: dict[Path, Study]) -> float | None:
    """What a run took, as a median over all that ended."""
    taken = [
        float(run.about["ended"]) - float(run.about["started"])
        for study in studies.values()
        for run in study.runs
        if run.state == "ok" and "ended" in run.about and "started" in run.about
    ]
    return statistics.median(taken) if taken else None


def _named(part: dict[str, Any], arms: set[str]) -> str:
    """Point, and its arm where that is not the same at all."""
    names = (part["point"], _main(part)["arm"] if len(arms) > 1 else "")
    return "".join(f"{name} " for name in names if name)


def _told(arm: dict[str, Any]) -> str:
    delta = arm["delta"]
    return f"{_with_half(delta)} ({arm['verdict']}{', a look' if arm['look'] else ''})"


def _main(part: dict[str, Any]) -> dict[str, Any]:
    """The removal of a part, or its first arm that has a delta; empty without one."""
    others = [arm for arm in part["arms"][1:] if arm["delta"]]
    removed = [arm for arm in others if arm["cost"].get("params_fc_out") == 0]
    return next(iter([*removed, *others]), {})


def rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """One row of text per arm of a part, in the order of `COLUMNS`."""
    from mha_ablate.report.tables import delta_text, verdict_text

    return [
        (
            " ".join(word for word in (part["point"], STAGES[part["stage"]]) if word),
            arm["arm"],
            "-" if arm["val_loss"]["mean"] is None else f"{arm['val_loss']['mean']:.4f}",
            delta_text(arm),
            verdict_text(arm),
        )
        for part in report["parts"]
        for arm in part["arms"]
    ]


def why_undecided(report: dict[str, Any]) -> str:
    """Of the contrasts that are undecided: by how much they would have had to differ to be seen. Empty where there are none."""
    open_yet = [arm for part in report["parts"] for arm in part["arms"][1:] if arm["verdict"] == "undecided"]
    unfit_arms = sum(
        not arm["delta"] or arm["delta"]["mde"] is None or arm["delta"]["p_holm"] is None for arm in open_yet
    )
    least = [arm["delta"]["mde"] for arm in open_yet if arm["delta"] and arm["delta"]["mde"] is not None]
    told = []
    if least:
        ends = f"{min(least):.2g}" + (f" to {max(least):.2g}" if len(least) > 1 else "")
        told.append(f"their seeds can detect {ends} nats at best")
    if unfit_arms:
        told.append(f"{unfit_arms} of them lack seeds, or are no fair pair")
    return f"Undecided ({len(open_yet)}): {'; '.join(told)}." if told else ""


def fall_rows(report: dict[str, Any]) -> list[tuple[str, ...]]:
    """What removal costs and its steps, each in nats per token with its 95% interval: one row of text per part that has them.

    The first row holds the names. Parts whose steps are others have rows of their own below names of their own; empty without any.
    """
    made: list[tuple[str, ...]] = []
    names: tuple[str, ...] = ()
    for part in report["parts"]:
        if not part["waterfall"]:
            continue
        bars = [{"name": "in all", **part["waterfall"]["total"]}, *part["waterfall"]["steps"]]
        if names != (names := ("", *(bar["name"] for bar in bars))):
            made.append(names)
        place = " ".join(word for word in (part["point"], STAGES[part["stage"]]) if word)
        made.append((place, *(_with_half(bar["delta"]) for bar in bars)))
    return made


def _with_half(delta: dict[str, Any]) -> str:
    half = f" ±{(delta['ci95'][1] - delta['ci95'][0]) / 2:.4f}" if delta["ci95"] else ""
    return f"{delta['mean']:+.4f}{half}"


def tuning_rows(tuning: dict[str, Any]) -> list[tuple[str, ...]]:
    """Arm, best rate, widest stable rate, sensitivity."""
    return [
        (arm, f"{best:g}", _widest(tuning, arm), f"{tuning['sensitivity'][arm]:.3f}")
        for arm, best in tuning["best"].items()
    ]


def _widest(tuning: dict[str, Any], arm: str) -> str:
    """The widest stable rate; at the end of the grid nobody knows how much further it goes."""
    rate = tuning["widest_stable"][arm]
    return f"{rate:g}" + (" or more" if rate == max(float(r) for r in tuning["losses"][arm]) else "")


TUNING_COLUMNS = ("arm", "best rate", f"highest rate within {STABLE:g} nats of it", "sensitivity")
