"""Why a cell that a launcher was given came to no end, from what the launcher, the job and Slurm have to say."""

from __future__ import annotations

import contextlib
import re
from typing import Any

from mha_ablate.errors import OUT_OF_TIME, in_a_line
from mha_ablate.study import slurm


def reason_of(returned: list[Any], broken: Exception | None, jobs: list[Any], i: int) -> str:
    """Why the `i`-th of the cells that were launched came to no end."""
    error = _error_of(returned[i]) if i < len(returned) else None
    return error or _why(broken, jobs[i] if i < len(jobs) else None)


def _why(broken: Exception | None, job: Any) -> str:
    """What there is to say of a process that is gone."""
    with contextlib.suppress(Exception):  # it may have come home with an error of its own
        if told := _error_of(job.results()[0]):
            return told
    where = f"Slurm job {job.job_id}" if type(job).__name__ == "SlurmJob" else "its process"
    last = ""
    if job is not None:
        with contextlib.suppress(Exception):
            lines = [line.strip() for line in (job.stderr() or "").splitlines()]
            last = next((line for line in reversed(lines) if line and not line.startswith("srun: ")), "")
    if type(broken).__name__ == "WorkerCrashedError":  # Ray's
        return "its process was killed"
    if job is None and broken is not None:
        codes = re.search(r"exit codes of the workers are \{(.*?)\}", str(broken))  # joblib's
        return f"its process was killed ({codes[1]})" if codes else in_a_line(broken)[:300]
    how = slurm.ended_as(job.job_id) if job is not None and where != "its process" else None
    if how == "TIMEOUT":
        return f"{where}: {': '.join(OUT_OF_TIME)}"
    ended = "ended without a word (killed?)" if how in (None, "COMPLETED", "FAILED") else f"ended as {how}"
    return f"{where} {ended}" + (f": {last[:200]}" if last else "")


def _error_of(returned: Any) -> str | None:
    """The error that a job came home with."""
    value = getattr(returned, "_return_value", None)
    return str(value) if isinstance(value, Exception) else None
