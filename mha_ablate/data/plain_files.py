"""Text files through `datasets`, without what it reads into names and contents.

A module of its own, because `datasets` puts its own `open` and `Path` into the module of a builder.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets.builder import Key
from datasets.packaged_modules.text.text import Text as TextBuilder

from mha_ablate.data.text import PIECE


class PlainFiles(TextBuilder):
    """The text builder on given files as they are: no search for archives to unpack; a line break between two files."""

    files: tuple[str, ...] = ()

    def _split_generators(self, dl_manager: Any) -> Any:  # noqa: ARG002
        kwargs = {"base_files": list(self.files), "files_iterables": [[file] for file in self.files]}
        return [datasets.SplitGenerator(name="train", gen_kwargs=kwargs)]

    def _generate_tables(self, base_files: Any, files_iterables: Any) -> Any:  # noqa: ARG002
        """One row a piece: a text without line breaks needs no more memory than one with them."""
        for i, (file,) in enumerate(files_iterables):
            between = ["\n"] if file != self.files[0] else []  # a stream may ask for each file alone: `i` says nothing
            with open(file, encoding="utf-8-sig") as stream:  # noqa: PTH123
                rows = itertools.chain(between, iter(lambda: stream.read(PIECE), ""))
                for n, row in enumerate(rows):
                    yield Key(i, n), pa.table({"text": [row]})


def pieces(files: list[Path]) -> Iterator[str]:
    """The text of UTF-8 files, streamed; files are joined by a line break."""
    with tempfile.TemporaryDirectory(prefix="mha_ablate-") as scratch:
        # Links with plain names: `datasets` would take `::` and `$` in a file's own name for more than letters.
        links = [Path(scratch, f"{i:06d}.txt") for i in range(len(files))]
        for link, file in zip(links, files, strict=True):
            link.symlink_to(file)
        builder = PlainFiles(cache_dir=str(Path(scratch, "cache")))
        builder.files = tuple(map(str, links))
        for rows in batches(builder.as_streaming_dataset(split="train"), "text", size=1):
            yield "".join(rows)


def batches(table: Any, column: str, size: int = 1000) -> Iterator[list[str]]:
    """The strings of one column of a `datasets` table, streamed or not, `size` rows at a time; empty cells are left out."""
    for batch in table.select_columns(column).with_format("arrow").iter(batch_size=size):
        yield [value for value in batch.column(column).to_pylist() if value is not None]
