"""Text files through `datasets`, without what it reads into names and contents.

A module of its own, because `datasets` puts its own `open` and `Path` into the module of a builder.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.packaged_modules.text.text import Text as TextBuilder


class PlainFiles(TextBuilder):
    """The text builder on given files as they are: no search for archives to unpack; a line break between two files."""

    files: tuple[str, ...] = ()

    def _split_generators(self, dl_manager: Any) -> Any:  # noqa: ARG002
        kwargs = {"base_files": list(self.files), "files_iterables": [[file] for file in self.files]}
        return [datasets.SplitGenerator(name="train", gen_kwargs=kwargs)]

    def _generate_tables(self, base_files: Any, files_iterables: Any) -> Any:
        for i, file in enumerate(files_iterables):
            if file != [self.files[0]]:  # a stream may ask for each file alone, so their numbers say nothing
                yield Key(i, -1), pa.table({"text": ["\n"]})
            for n, (_, table) in enumerate(super()._generate_tables(base_files, [file])):
                yield Key(i, n), table


def pieces(files: list[Path]) -> Iterator[str]:
    """The text of UTF-8 files, streamed; files are joined by a line break."""
    with tempfile.TemporaryDirectory(prefix="mha_ablate-") as scratch:
        # Links with plain names: `datasets` would take `::` and `$` in a file's own name for more than letters.
        links = [Path(scratch, f"{i:06d}.txt") for i in range(len(files))]
        for link, file in zip(links, files, strict=True):
            link.symlink_to(file)
        builder = PlainFiles(
            cache_dir=str(Path(scratch, "cache")), keep_linebreaks=True, encoding="utf-8-sig", chunksize=1 << 20
        )
        builder.files = tuple(map(str, links))
        for rows in batches(builder.as_streaming_dataset(split="train"), "text"):
            yield "".join(rows)


def batches(table: Any, column: str) -> Iterator[list[str]]:
    """The strings of one column of a `datasets` table, streamed or not, some rows at a time; empty cells are left out."""
    for batch in table.select_columns(column).with_format("arrow").iter(batch_size=1000):
        yield [value for value in batch.column(column).to_pylist() if value is not None]
