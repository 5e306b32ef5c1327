"""A user's own YAML files: a folder of groups like `configs/`, added with `--config-dir`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mha_ablate.config.catalog import choice_names, groups
from mha_ablate.errors import RequestError, nearest


def checked(folder: Path, words: Sequence[str] | None = None) -> Path:
    """The folder, absolute, once its files can be used. Raises RequestError, in one line, naming the file that cannot.

    Used are FOLDER/GROUP/NAME.yaml, with names that no choice of this package has; groups may be the user's own, such as
    `experiment`, and Hydra's, such as `hydra/launcher`. With `words`, what is inside matters of those files alone that these
    settings choose: a broken file beside them is no hindrance.
    """
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "is not there"
        raise RequestError(f"--config-dir {folder} {what}: give a folder such as {_example(folder)} lies in")
    below = sorted(f for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))
    for misnamed in below:
        if misnamed.name not in groups() and (hint := nearest(misnamed.name, groups())) and [*misnamed.glob("*.yaml")]:
            raise RequestError(f"--config-dir {folder}: {misnamed} is no group of settings{hint}")
    files = sorted(file for group in below for file in group.rglob("*.yaml"))
    if not files:
        raise RequestError(
            f"--config-dir {folder} holds no choice of any group: a file such as {_example(folder)} is one; groups are "
            f"{', '.join(groups())}"
        )
    for file in files:
        _check_name(file, file.parent.relative_to(folder).as_posix())
    for file in files if words is None else _chosen(files, words):
        _check_content(file)
    return folder.resolve()


def _chosen(files: Sequence[Path], words: Sequence[str]) -> list[Path]:
    """Those whose name stands in the words, or in a file that is chosen."""
    chosen: list[Path] = []
    told = list(words)
    while told:
        text = told.pop()
        for file in files:
            if file not in chosen and re.search(rf"(?<![\w-]){re.escape(file.stem)}(?![\w-])", text):
                chosen.append(file)
                told.append(_text(file))
    return chosen


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def with_place(message: str, words: list[str], folder: Path | None) -> str:
    """The message, after the file and line that it is about where one of the user's own files set the key and no word did."""
    named = re.match(r"(?:unknown key ')?(?P<key>[\w./]+)(?:=(?P<value>[\w.-]+))?", message)
    if folder is None and named is not None and any(word.startswith(f"+{named['key']}=") for word in words):
        return f"{message}; a group of your own comes with --config-dir DIR"
    if folder is None or named is None:
        return message
    key, value = named["key"], named["value"] or ""
    if " no value" in message:
        return _lacking(message, key.partition(".")[0], words, folder)
    if any(word.lstrip("+~").startswith((f"{key}=", f"{key}.")) for word in words):
        return message
    wanted = re.compile(rf"(^|[\s{{,/]){re.escape(re.split('[./]', key)[-1])}\s*:.*{re.escape(value)}")
    for file in _chosen(sorted(folder.rglob("*.yaml")), words):
        for number, line in enumerate(_text(file).splitlines(), start=1):
            if wanted.search(line) and not line.lstrip().startswith("#"):
                return f"{file}, line {number}: {message}"
    return message


def _lacking(message: str, group: str, words: list[str], folder: Path) -> str:
    """The message, after the chosen file of a group that lacks keys."""
    chosen = [word.partition("=")[2] for word in words if word.partition("=")[0].lstrip("+") == group]
    file = folder / group / f"{chosen[-1] if chosen else ''}.yaml"
    return f"{file}: {message}" if file.is_file() else message


def _example(folder: Path) -> Path:
    return folder / groups()[0] / "mine.yaml"


def _check_name(file: Path, group: str) -> None:
    """Raise RequestError for a file that has the name of a choice of this package."""
    if group in groups() and file.stem in choice_names(group):
        raise RequestError(f"{file}: {group}={file.stem} comes with mha_ablate already: give the file another name")


def _check_content(file: Path) -> None:
    """Raise RequestError for a file that is no mapping of settings."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise RequestError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise RequestError(f"{file} holds no settings: each is written `key: value`")
