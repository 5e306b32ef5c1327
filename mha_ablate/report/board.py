"""TensorBoard's comparison: events rebuilt with the paired delta, and the link that opens the right view."""

from __future__ import annotations

import contextlib
import io
import json
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mha_ablate.errors import RequestError
from mha_ablate.run.events import DELTA, rebuild
from mha_ablate.study.collect import Run, Study


def rebuild_events(study: Study, report: dict[str, Any]) -> None:
    """Derive every finished run's event file from its metrics.jsonl, with its delta to the baseline step by step.

    A file that says all this already is left alone: a thousand runs take a while, and most have not changed.
    """
    base = {run.seed: run.curve for run in study.of(report["baseline"])}
    costs = {arm["arm"]: arm["cost"] for arm in report["arms"]}
    for run in study.runs:
        if run.state == "running":
            continue
        against = base.get(run.seed, {})
        deltas = {step: loss - against[step] for step, loss in run.curve.items() if step in against}
        about = run.about
        started = float(about.get("started", 0.0))
        rebuild(
            run.folder.path,
            partial(_lines, run),
            lines_digest=run.folder.digest(),
            hparams=_hparams(run),
            session=f"{run.arm}/seed={run.seed}",
            results=_results(run, costs[run.arm]),
            deltas=deltas,
            ok=run.state == "ok",
            times=(started, float(about.get("ended", started))),
        )


def _lines(run: Run) -> list[dict[str, Any]]:
    """What there is to be drawn of a run, by step: its evaluations, which are read already, and all else."""
    return sorted([*run.evaluations, *run.folder.lines(without="loss/val")], key=lambda line: line["step"])


def _hparams(run: Run) -> dict[str, Any]:
    return {
        "arm": run.arm,
        "fc_out": run.about.get("choices", {}).get("fc_out", ""),
        "seed": str(run.seed),
        "n_heads": str((run.config.get("model") or {}).get("n_heads", "")),
        "lr": float((run.config.get("optim") or {}).get("lr", 0.0)),
    }


def _results(run: Run, cost: dict[str, Any]) -> dict[str, float]:
    values = {
        "result/val_loss": run.val_loss,
        "result/step_ms": cost.get("step_ms"),
        "result/params_M": (cost.get("params") or 0) / 1e6,
        "result/train_TFLOP": ((run.about.get("result") or {}).get("gflop") or 0) / 1e3,
    }
    return {tag: value for tag, value in values.items() if value is not None}


def deep_link(url: str) -> str:
    """TensorBoard's address with the delta pinned, smoothing off and colours by arm."""
    pinned = json.dumps([{"plugin": "scalars", "tag": DELTA}], separators=(",", ":"))
    by_arm = quote("regex:^(.+)/seed=", safe="")
    return f"{url.rstrip('/')}/?pinnedCards={quote(pinned, safe='')}&smoothing=0&runColorGroup={by_arm}#timeseries"


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
