"""Folders that are written to, and the Hugging Face Hub."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from mha_ablate.doctor.fact import Answer, size


def cache() -> Answer:
    """mha_ablate's own cache of token arrays."""
    from mha_ablate.data.cache import cache_dir

    folder = cache_dir()
    if reason := why_unwritable(folder):
        return Answer(str(folder), "note", f"{reason}, so texts are tokenised anew each time")
    return Answer(str(folder), why=f"{_used(folder)}, {_free(folder)}")


def hugging_face() -> Answer:
    """Where the Hugging Face libraries keep what they download: $HF_HOME, as they read it."""
    below = os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))
    given = os.environ.get("HF_HOME", str(Path(below) / "huggingface"))
    folder = Path(os.path.expandvars(given)).expanduser()
    if reason := why_unwritable(folder):
        return Answer(str(folder), "note", f"{reason}, so nothing from the Hub can be kept")
    return Answer(str(folder), why=_free(folder))


def outputs() -> Answer:
    """The folder that run folders go to, by default, from the folder where the command runs."""
    from mha_ablate.config.compose import compose

    folder = Path.cwd() / compose([]).config.outputs
    if reason := why_unwritable(folder):
        return Answer(str(folder), "problem", reason, "run in a folder that can be written to, or give outputs=FOLDER")
    return Answer(str(folder), why=_free(folder))


def hub() -> Answer:
    """Whether the Hub answers. Nothing that ships here needs it."""
    from mha_ablate.data.reach import endpoint, why_unreachable

    start = time.perf_counter()
    reason = why_unreachable()
    milliseconds = 1000 * (time.perf_counter() - start)
    if reason:
        why = f"not reached in {milliseconds:.0f} ms ({reason}); data=python_docs and data=text work without it"
        return Answer(endpoint(), "note", why)
    return Answer(endpoint(), why=f"connected in {milliseconds:.0f} ms")


def why_unwritable(folder: Path) -> str | None:
    """None where a folder can be written to or made, else the reason. Only looks."""
    nearest = _nearest(folder)
    named = "it" if nearest == folder.absolute() else str(nearest)
    if not nearest.is_dir():
        return f"{named} is not a folder"
    return None if os.access(nearest, os.W_OK | os.X_OK) else f"{named} cannot be written to"


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that is there."""

    def there(path: Path) -> bool:
        try:
            return path.exists()
        except OSError:  # behind a folder that may not be entered
            return False

    whole = folder.absolute()
    return next((path for path in (whole, *whole.parents) if there(path)), Path(whole.anchor))


def _used(folder: Path) -> str:
    if not folder.exists():
        return "not there yet"
    return f"{size(sum(file.lstat().st_size for file in folder.rglob('*') if file.is_file()))} used"


def _free(folder: Path) -> str:
    return f"{size(shutil.disk_usage(_nearest(folder)).free)} free"
