"""Processes that a launcher leaves to joblib or Ray: how many there are, their silence, their end."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig

QUIET = "ignore:resource_tracker:UserWarning"


def is_joblib(config: DictConfig) -> bool:
    """Whether Hydra's settings choose the launcher that leaves cells to joblib."""
    return str(config.hydra.launcher.get("_target_")).endswith("JoblibLauncher")


def is_in_this_process(config: DictConfig) -> bool:
    """Whether joblib would not start processes at all: with one job at a time it runs that job where it was called."""
    n_jobs: Any = config.hydra.launcher.get("n_jobs")
    return is_joblib(config) and importlib.import_module("joblib").effective_n_jobs(n_jobs) == 1


@contextlib.contextmanager
def quiet_trackers(config: DictConfig) -> Iterator[None]:
    """What cleans up after joblib's workers does so in silence: of killed ones it warns, and at times shows a traceback of its own.

    It is a process of its own, and takes its standard error over from here.
    """
    if is_joblib(config):
        tracker = importlib.import_module("joblib.externals.loky.backend.resource_tracker")
        kept = os.dup(2)
        try:
            nothing = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nothing, 2)
            os.close(nothing)
            tracker.ensure_running()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [before, QUIET]))
    try:
        yield
    finally:
        os.environ.pop("PYTHONWARNINGS")
        if before is not None:
            os.environ["PYTHONWARNINGS"] = before


def stop_joblib() -> None:
    """Kill joblib's processes, if there are any."""
    loky = sys.modules.get("joblib.externals.loky.reusable_executor")
    executor = getattr(loky, "_executor", None)
    if executor is not None:
        with contextlib.suppress(Exception):
            executor.shutdown(wait=True, kill_workers=True)


def stop_ray() -> None:
    """Let go of Ray, if it was begun: its tasks of this process end with that."""
    if (ray := sys.modules.get("ray")) is not None:
        with contextlib.suppress(Exception):
            ray.shutdown()
