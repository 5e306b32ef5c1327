"""TensorBoard's comparison: events rebuilt with the paired delta, means with bands, and links to the right views."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Collection
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote, urlencode

from mha_ablate.errors import RequestError
from mha_ablate.report.family import whole_above
from mha_ablate.report.means import mean_folders, mean_points
from mha_ablate.report.screen import levels_in_words
from mha_ablate.run.events import DELTA, FILES, HPARAMS, rebuild, rebuild_mean
from mha_ablate.run.folder import StudyFolder
from mha_ablate.study.collect import Run, Study

Curves = dict[int, dict[int, float]]  # validation loss by seed and step
MEANS = "/mean$"  # the runs that are means, as a regular expression


def rebuild_events(
    study: Study, baseline: str, costs: dict[str, dict[str, Any]], settled: Collection[tuple[str, int]] | None = None
) -> None:
    """Derive the event files of every finished run and of every arm's mean from the seeds' metrics.jsonl.

    A run has its delta to the baseline step by step, a mean that and its band. `costs` are those of the arms; where an arm has
    none, its runs say what was counted. While a study goes on, `settled` names the arms and seeds that nothing writes to any
    more, and no other run is touched. A file that says all this already is left alone: a thousand runs take a while, and most
    have not changed.
    """
    base = {run.seed: run.curve for run in study.of(baseline)}
    factors = _factors(study.folder.path)
    digests = {run.folder.path: run.folder.digest() for run in study.runs}
    for run in study.runs:
        if run.state != "running" and (settled is None or (run.arm, run.seed) in settled):
            cost, digest = costs.get(run.arm, {}), digests[run.folder.path]
            _rebuild_run(run, base.get(run.seed, {}), cost, digest, factors, watched=settled is not None)
    for arm, folder in mean_folders(study).items():
        against = None if arm == baseline else base
        about = [[r.arm, r.seed, r.state, digests[r.folder.path]] for a in (arm, baseline) for r in study.of(a)]
        cost = costs.get(arm, {})
        _rebuild_mean(folder, study.of(arm), against, cost, about, factors, watched=settled is not None)


def _rebuild_run(
    run: Run, against: dict[int, float], cost: dict[str, Any], digest: str, factors: dict[str, str], *, watched: bool
) -> None:
    rebuild(
        run.folder.path,
        partial(_lines, run),
        lines_digest=digest,
        hparams=_hparams(run, str(run.seed), factors),
        session=f"{_place(run)}{run.arm}/seed={run.seed}",
        results=_results([run], cost),
        deltas={step: loss - against[step] for step, loss in run.curve.items() if step in against},
        ok=run.state == "ok",
        times=_times(run),
        watched=watched,
    )


def _rebuild_mean(
    folder: Path,
    runs: list[Run],
    against: Curves | None,
    cost: dict[str, Any],
    digests: list[Any],
    factors: dict[str, str],
    *,
    watched: bool,
) -> None:
    """Of an arm's runs. Its row in the table is open while one of them runs, and a success if all of them are."""
    running = any(run.state == "running" for run in runs)
    started, ended = zip(*map(_times, runs), strict=True)
    rebuild_mean(
        folder,
        partial(mean_points, runs, against),
        digests=digests,
        hparams=_hparams(runs[0], "mean", factors),
        session=f"{_place(runs[0])}{runs[0].arm}/mean",
        results=_results(runs, cost),
        ok=None if running else all(run.state == "ok" for run in runs),
        times=(min(started), max(ended)),
        watched=watched,
    )


def _times(run: Run) -> tuple[float, float]:
    started = float(run.about.get("started", 0.0))
    return started, float(run.about.get("ended", started))


def _lines(run: Run) -> list[dict[str, Any]]:
    """What there is to be drawn of a run, by step: its evaluations, which are read already, and all else."""
    return sorted([*run.evaluations, *run.folder.lines(without="loss/val")], key=lambda line: line["step"])


def _place(run: Run) -> str:
    """The part of its study that a run belongs to: without it, the table would take runs of two parts for one."""
    above = run.folder.path.resolve().parent.parent
    whole = whole_above(above)
    return f"{above.relative_to(whole).as_posix()}/" if whole else ""


def _factors(folder: Path) -> dict[str, str]:
    """Of a point of a screen: the level of every factor, as its words have it."""
    if (whole := whole_above(folder)) is None:
        return {}
    held = StudyFolder(whole).parts() or {}
    words = held.get("points", {}).get(folder.resolve().relative_to(whole).parts[0], [])
    return levels_in_words(words, held.get("factors", {})) if words else {}


def _hparams(run: Run, seed: str, factors: dict[str, str]) -> dict[str, Any]:
    return {
        "arm": run.arm,
        "fc_out": run.about.get("choices", {}).get("fc_out", ""),
        "seed": seed,
        "n_heads": str((run.config.get("model") or {}).get("n_heads", "")),
        "lr": float((run.config.get("optim") or {}).get("lr", 0.0)),
        **{name: value for name, value in factors.items() if name not in HPARAMS},
    }


def _results(runs: list[Run], cost: dict[str, Any]) -> dict[str, float]:
    """Of a run, or the mean over several; what an arm's cost does not say is what its runs have counted."""
    cost = cost or next((run.about["cost"] for run in runs if "cost" in run.about), {})
    losses = [run.val_loss for run in runs if run.val_loss is not None]
    gflop = [(run.about.get("result") or {}).get("gflop") or 0 for run in runs if run.state != "running"]
    values = {
        "result/val_loss": fmean(losses) if losses else None,
        "result/step_ms": cost.get("step_ms"),
        "result/params_M": (cost.get("params") or 0) / 1e6,
        "result/train_TFLOP": fmean(gflop) / 1e3 if gflop else None,
    }
    return {tag: value for tag, value in values.items() if value is not None}


def has_means(folder: Path) -> bool:
    """Whether a mean over seeds lies somewhere below."""
    return any(folder.rglob(f"mean/{FILES}"))


def links(url: str, *, means: bool) -> dict[str, str]:
    """TensorBoard's address, a page each: the comparison with the delta pinned, the bands if there are means, and the table.

    Smoothing is off, and an arm's mean and seeds have one colour. Where there are means the curves are those of the means until
    the filter above the list of runs is emptied.
    """
    pinned = json.dumps([{"plugin": "scalars", "tag": DELTA}], separators=(",", ":"))
    view = {"pinnedCards": pinned, "smoothing": "0", "runColorGroup": "regex:^(.+)/(?:mean$|seed=)"}
    view |= {"runFilter": MEANS} if means else {}
    address = f"{url.rstrip('/')}/?{urlencode(view, quote_via=quote, safe='')}"
    found = {"link": f"{address}#timeseries"}
    if means:
        found["bands"] = f"{address}#custom_scalars&regexInput={quote(MEANS, safe='')}&_smoothingWeight=0"
    return found | {"table": f"{address}#hparams"}


def serve(folder: Path, port: int | None, host: str = "127.0.0.1") -> str:
    """Start TensorBoard in a thread of this process; returns its address. Raises RequestError where it cannot listen."""
    import logging

    from tensorboard import default, program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    argv = ["", "--logdir", str(folder), "--host", host, "--samples_per_plugin", "scalars=10000"]
    if port is not None:
        argv += ["--port", str(port)]
    server = program.TensorBoard(default.get_plugins())
    server.configure(argv=argv)
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # a note about its data loader, at every start
            return server.launch()
    except program.TensorBoardServerException as error:
        raise RequestError(f"TensorBoard cannot listen there: {error}") from error
