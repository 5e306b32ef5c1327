"""What can be chosen: every group, its choices, and one line of meaning for each. Needs neither torch nor Hydra."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from mha_ablate.config.paths import configs_dir
from mha_ablate.errors import RequestError, nearest


class Choice(NamedTuple):
    """One YAML file of a group: its name and the one line that says what it is."""

    name: str
    meaning: str


def groups() -> list[str]:
    """The groups, in the order in which `config.yaml` introduces them."""
    text = (configs_dir() / "config.yaml").read_text(encoding="utf-8")
    return re.findall(r"^  - (\w+): \w+", text, flags=re.MULTILINE)


def choices(group: str) -> list[Choice]:
    """The choices of a group, sorted by name. Raises RequestError for a group that is not there."""
    if group not in groups():
        raise RequestError(f"no group '{group}'{nearest(group, groups())}; groups are {', '.join(groups())}")
    return [Choice(file.stem, meaning_of(file)) for file in sorted((configs_dir() / group).glob("*.yaml"))]


def choice_names(group: str) -> list[str]:
    """The names alone, without opening a file."""
    return sorted(file.stem for file in (configs_dir() / group).glob("*.yaml"))


def meaning_of(file: Path) -> str:
    """First line of the docstring of the file's `_target_`, or else the file's first comment line."""
    text = file.read_text(encoding="utf-8")
    target = re.search(r"^_target_: *([\w.]+)", text, flags=re.MULTILINE)
    if target:
        return first_docstring_line(target[1])
    comments = [line[1:].strip() for line in text.splitlines() if line.startswith("#")]
    return next((c for c in comments if c and not c.startswith("@")), "")


def first_docstring_line(target: str) -> str:
    """First line of a class's docstring, read from source, so that no heavy module is imported."""
    import ast

    module, _, class_name = target.rpartition(".")
    package = Path(__file__).resolve().parent.parent
    file = package.joinpath(*module.split(".")[1:]).with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    raise RequestError(f"{target} names no class in {file}: the file of this choice is wrong")
