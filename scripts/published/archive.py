"""What a study's figures rest on, in one file: its run folders without weights and without what is derived from them.

`scripts/findings OUTPUTS --keep` writes docs/runs/STUDY.tar.xz; `tar -xf docs/runs/STUDY.tar.xz -C outputs` gives folders that
`mha-ablate report` reads, and that the study's own command goes on with.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

# What is measured or was asked for; weights, event files and reports are not: a report is made from these alone.
KEPT = frozenset(
    ("config.yaml", "run.json", "metrics.jsonl", "plan.json", "parts.json", "cost.json", "floor.json", "inspect.json")
)


def pack(study: Path, into: Path) -> Path:
    """`into`/STUDY.tar.xz of what is kept below `study`; returns it. The same files give the same bytes.

    Raises FileNotFoundError for a folder in which there is nothing to keep.
    """
    files = sorted(file for file in study.rglob("*") if file.name in KEPT and file.is_file())
    if not files:
        raise FileNotFoundError(f"{study} holds no run")
    into.mkdir(parents=True, exist_ok=True)
    packed = into / f"{study.name}.tar.xz"
    with tarfile.open(packed, "w:xz", format=tarfile.PAX_FORMAT, preset=9) as tar:
        for file in files:
            content = file.read_bytes()
            entry = tarfile.TarInfo(file.relative_to(study.parent).as_posix())  # no owner, no date
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed


def unpack(packed: Path, into: Path) -> None:
    """The folders of an archive below `into`. Raises tarfile.TarError or EOFError for a file that is none or is cut off."""
    with tarfile.open(packed, "r:xz") as tar:
        tar.extractall(into, filter="data")
