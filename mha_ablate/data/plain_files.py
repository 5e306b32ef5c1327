"""Text files through `datasets`, without what it reads into names and contents.

A module of its own, because `datasets` puts its own `open` and `Path` into the module of a builder.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import datasets
from datasets.packaged_modules.text.text import Text as TextBuilder


class PlainFiles(TextBuilder):
    """The text builder on given files as they are: no search for archives to unpack."""

    files: tuple[str, ...] = ()

    def _split_generators(self, dl_manager: Any) -> Any:  # noqa: ARG002
        kwargs = {"base_files": list(self.files), "files_iterables": [[file] for file in self.files]}
        return [datasets.SplitGenerator(name="train", gen_kwargs=kwargs)]


def documents(files: list[Path]) -> list[str]:
    """The content of each UTF-8 file, whole. The Arrow copy lives in a temporary folder for as long as that takes."""
    shown = datasets.utils.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        with tempfile.TemporaryDirectory(prefix="mha_ablate-") as scratch:
            # Links with plain names: `datasets` would take `::` and `$` in a file's own name for more than letters.
            links = [Path(scratch, f"{i:06d}.txt") for i in range(len(files))]
            for link, file in zip(links, files, strict=True):
                link.symlink_to(file)
            builder = PlainFiles(cache_dir=str(Path(scratch, "cache")), sample_by="document", encoding="utf-8-sig")
            builder.files = tuple(map(str, links))
            builder.download_and_prepare()
            loaded: Any = builder.as_dataset(split="train", in_memory=True)  # pyright: ignore[reportArgumentType]
            return [row["text"] for row in loaded]
    finally:
        if shown:
            datasets.enable_progress_bars()
