"""Data sets of the Hugging Face Hub: fetched once through `datasets`, kept as plain text, found again without a network."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from mha_ablate.data.cache import check_seal, kept_at, place_of, written
from mha_ablate.data.reach import endpoint, why_silent, why_unreachable
from mha_ablate.data.text import PIECE, Text, Watch, first_characters, limits_of_parts, unwatched
from mha_ablate.errors import disk_trouble

ROWS = 64  # that are in memory at once: a row may be a book
RETRIES = 2  # of a streamed request, after 1 and 2 s
COMMIT = re.compile(r"[0-9a-f]{40}")
VALIDATION = ("validation", "valid", "val", "dev", "test")


@dataclass(frozen=True)
class HubData:
    """What to take from the Hub. `splits` are the parts of the text in order: the first trains, the second validates."""

    name: str
    config: str | None
    revision: str | None
    splits: tuple[str, ...] | None
    column: str
    join: str

    @property
    def pinned(self) -> bool:
        """Whether the revision is a commit, whose content never changes."""
        return bool(self.revision and COMMIT.fullmatch(self.revision))


def hub_text(wanted: HubData, max_chars: int | None, licence: str | None, watch: Watch = unwatched) -> Text:
    """The text of a data set: from this machine where a pinned revision was fetched before, else from the Hub.

    No code of the repository is run: `datasets` reads data files alone. With `max_chars` the data set is streamed, and no
    more of it is read than needed. Without a network whatever lies in a cache is taken.
    Raises ValueError, in one line and soon, where the text cannot be had.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", wanted.name, flags=re.ASCII):
        raise ValueError(f"data.hub.name={wanted.name} is no data set of the Hub: it has the form OWNER/NAME")
    if wanted.pinned and (kept := _kept(wanted, max_chars)):
        return replace(kept, licence=licence or kept.licence)
    unreachable = why_unreachable() or why_silent(f"/api/datasets/{wanted.name}")
    if unreachable and (kept := _kept(wanted, max_chars) or _kept_of_any_commit(wanted, max_chars)):
        return replace(kept, licence=licence or kept.licence)
    if unreachable and not _client_has(wanted):
        _give_up(wanted, unreachable)
    watch(f"fetching {wanted.name}", 0, None)
    with _client(offline=unreachable is not None):
        text = _fetch(wanted, max_chars, unreachable, watch)
    return replace(text, licence=licence or text.licence)


def _kept(wanted: HubData, max_chars: int | None) -> Text | None:
    """The text as it was fetched before, or None."""
    try:
        return _open(kept_at(_place(wanted, max_chars)))
    except (OSError, ValueError, KeyError):
        return None


def _kept_of_any_commit(wanted: HubData, max_chars: int | None) -> Text | None:
    """What was fetched last for a revision that is a branch, a tag or nothing."""
    if wanted.pinned:
        return None
    try:
        commit = _pointer(wanted, max_chars).read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    return _kept(replace(wanted, revision=commit), max_chars)


def _pointer(wanted: HubData, max_chars: int | None) -> Path:
    """The file that says which commit a revision stood for when the Hub was asked last."""
    return place_of("commits", {**asdict(wanted), "max_chars": max_chars})


def _point(wanted: HubData, max_chars: int | None, commit: str) -> None:
    """Remember it, if the cache can be written."""
    with contextlib.suppress(OSError):
        file = _pointer(wanted, max_chars)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        scratch.write_text(commit, encoding="ascii")
        scratch.replace(file)


def _place(wanted: HubData, max_chars: int | None) -> Path:
    return place_of("texts", {**asdict(wanted), "max_chars": max_chars})


def _open(folder: Path) -> Text:
    """A kept text. Its files stay open for as long as somebody may read them, so that the folder may be moved."""
    check_seal(folder)
    about = json.loads((folder / "text.json").read_text(encoding="utf-8"))
    streams = [(folder / f"{i}.txt").open(encoding="utf-8", newline="") for i in range(about["parts"])]

    def reader(stream: Any) -> Callable[[], Iterator[str]]:
        def read() -> Iterator[str]:
            stream.seek(0)
            while piece := stream.read(PIECE):
                yield piece

        weakref.finalize(read, stream.close)
        return read

    return Text(about["name"], tuple(map(reader, streams)), about["licence"], about["revision"])


@contextmanager
def _client(*, offline: bool) -> Iterator[None]:
    """The Hub's client with our patience: no retries for minutes, and no network at all where none was found.

    It says nothing itself: what went wrong comes as an exception.
    """
    import datasets
    import datasets.config
    import huggingface_hub.constants
    import huggingface_hub.hf_file_system as streams
    import huggingface_hub.utils.logging

    settings: dict[tuple[Any, str], Any] = {
        (datasets.config, "STREAMING_READ_MAX_RETRIES"): 1,  # `http_backoff` repeats every request already
        (datasets.config, "STREAMING_READ_RETRY_INTERVAL"): 0,
        (datasets.config, "HF_HUB_OFFLINE"): offline or datasets.config.HF_HUB_OFFLINE,
        (huggingface_hub.constants, "HF_HUB_OFFLINE"): offline or huggingface_hub.constants.HF_HUB_OFFLINE,
    }
    if backoff := getattr(streams, "http_backoff", None):
        settings[streams, "http_backoff"] = functools.partial(backoff, max_retries=RETRIES)
    before = {(module, name): getattr(module, name) for module, name in settings}
    loggers = {module: module.get_verbosity() for module in (datasets.logging, huggingface_hub.logging)}
    shown = datasets.utils.is_progress_bar_enabled()
    for (module, name), value in settings.items():
        setattr(module, name, value)
    for module in loggers:
        module.set_verbosity(logging.CRITICAL)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        for (module, name), value in before.items():
            setattr(module, name, value)
        for module, verbosity in loggers.items():
            module.set_verbosity(verbosity)
        if shown:
            datasets.enable_progress_bars()


def _fetch(wanted: HubData, max_chars: int | None, unreachable: str | None, watch: Watch) -> Text:
    """Open the data set and keep its text."""
    import datasets
    import datasets.exceptions

    try:
        builder = datasets.load_dataset_builder(f"hf://datasets/{wanted.name}", wanted.config, revision=wanted.revision)
        if unreachable and wanted.pinned and builder.hash != wanted.revision:
            raise FileNotFoundError(f"the cache holds revision {builder.hash} alone")
        streamed = max_chars is not None and not unreachable
        if not streamed:
            builder.download_and_prepare()
        return _keep(wanted, max_chars, builder, streamed, watch)
    except ValueError as error:
        raise ValueError(f"data.hub.name={wanted.name}: {_in_words(error)}") from error
    except MemoryError:
        raise
    except Exception as error:  # the client has many kinds, and those of whatever HTTP library it uses
        if trouble := disk_trouble(error):  # of this machine: neither the Hub nor the request is at fault
            raise trouble from error
        _give_up(wanted, unreachable, error)


def _keep(wanted: HubData, max_chars: int | None, builder: Any, streamed: bool, watch: Watch) -> Text:
    """Write the chosen splits as plain text, and say where they are from."""
    commit = builder.hash if COMMIT.fullmatch(str(builder.hash)) else wanted.revision
    if commit and not wanted.pinned:
        _point(wanted, max_chars, commit)
    if kept := _kept(replace(wanted, revision=commit), max_chars):
        return kept
    splits = _splits(wanted, list(builder.info.splits or _split_names(builder)))
    limits = limits_of_parts(max_chars, len(splits)) if max_chars else [None] * len(splits)

    def write(folder: Path) -> None:
        for i, (split, limit) in enumerate(zip(splits, limits, strict=True)):
            table = (builder.as_streaming_dataset if streamed else builder.as_dataset)(split=split)
            pieces = _pieces(table, wanted)
            done = 0
            with (folder / f"{i}.txt").open("w", encoding="utf-8", newline="") as stream:
                for piece in pieces if limit is None else first_characters(pieces, limit):
                    stream.write(piece)
                    done += len(piece)
                    watch(f"fetching {wanted.name} {split}", done, limit)
        name = wanted.name if wanted.config is None else f"{wanted.name}/{wanted.config}"
        about = {
            "name": name,
            "parts": len(splits),
            "licence": _licence(wanted, commit),
            "revision": commit,
        }
        (folder / "text.json").write_text(json.dumps(about, indent=2), encoding="utf-8")

    return written(_place(replace(wanted, revision=commit), max_chars), write, _open)


def _split_names(builder: Any) -> list[str]:
    """The splits of a data set whose card does not list them."""
    files = getattr(builder.config, "data_files", None)
    return [str(name) for name in files] if files else []


def _splits(wanted: HubData, there: list[str]) -> list[str]:
    """The splits that make up the text. Raises ValueError for one that is not there."""
    if wanted.splits is None:
        training = next((s for s in ("train", "training") if s in there), there[0] if there else "train")
        return [training, *[s for s in VALIDATION if s in there and s != training][:1]]
    for split in wanted.splits:
        if there and split not in there:
            raise ValueError(f"no split '{split}'; there are {', '.join(there)}: choose with data.hub.splits=[...]")
    return list(wanted.splits)


def _pieces(table: Any, wanted: HubData) -> Iterator[str]:
    """The text of one split: its rows, joined."""
    from mha_ablate.data.plain_files import batches

    features = table.features or {}
    if features and wanted.column not in features:
        raise ValueError(
            f"no column '{wanted.column}'; there are {', '.join(features)}: choose with data.hub.column=..."
        )
    first = True
    for rows in batches(table, wanted.column, size=ROWS):
        for row in rows:
            if not isinstance(row, str):
                raise ValueError(f"column '{wanted.column}' holds no text: choose another with data.hub.column=...")
            whole = row if first else wanted.join + row
            first = False
            yield from (whole[start : start + PIECE] for start in range(0, len(whole), PIECE))


def _licence(wanted: HubData, commit: str | None) -> str | None:
    """What the data set's card says, if there is a card and it says anything."""
    from huggingface_hub import DatasetCard, hf_hub_download

    try:
        card = hf_hub_download(wanted.name, "README.md", repo_type="dataset", revision=commit)
        found: Any = DatasetCard.load(card).data.to_dict().get("license")
        return (", ".join(map(str, found)) if isinstance(found, list) else str(found)) if found else None
    except Exception:  # whatever is wrong with a card is no reason to refuse the text
        return None


def _in_words(error: BaseException | None) -> str:
    """One line, in the words of our settings."""
    line = " ".join(str(error).split())
    configs = re.search(r"(?:Available|available configs): \[(.*?)\]", line)
    if configs:
        return f"choose one of its configurations with data.hub.config=...: {configs[1].replace(chr(39), '')}"
    return line[:300]


def _client_has(wanted: HubData) -> bool:
    """Whether `datasets` may have kept something of this owner: a look that needs no import of it."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    kept = Path(os.environ.get("HF_DATASETS_CACHE") or Path(home, "datasets")).expanduser()
    return any(kept.glob(f"{wanted.name.partition('/')[0]}___*"))


def _give_up(wanted: HubData, unreachable: str | None, error: Exception | None = None) -> NoReturn:
    """One line: what was wanted, why it cannot be had, what to do instead."""
    if unreachable:
        raise ValueError(
            f"data.hub.name={wanted.name} is in no cache here, and the Hub cannot be reached ({unreachable}): where there is a "
            "network, `mha-ablate data prepare` fetches it once; or use data=python_docs, or data=text data.path=FILE"
        ) from error
    raise ValueError(f"data.hub.name={wanted.name} on {endpoint()}: {_in_words(error)}") from error
