"""What can be chosen: every group, its choices, and one line of meaning for each. Needs neither torch nor Hydra."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from mha_ablate.config.paths import configs_dir
from mha_ablate.config.registered import GROUP, file_of, registered
from mha_ablate.errors import RequestError, nearest

FIELDS = ("Parameters", "Frozen", "FLOPs", "Elementwise", "Class", "Source")
LETTERS = (
    "C d_model, H n_heads, D head_dim, L n_layers; parameters a layer. "
    "Class N: per head as expressive as no projection at all; D: as the full one; both where values are learned."
)


class Choice(NamedTuple):
    """One YAML file of a group: its name, the one line that says what it is, and the facts of its class's docstring.

    `own` is the file where it is a user's own, None where it comes with this package.
    """

    name: str
    meaning: str
    facts: dict[str, str]
    own: Path | None = None


def groups() -> list[str]:
    """The groups, in the order in which `config.yaml` introduces them."""
    return list(_defaults())


def default_choice(group: str) -> str:
    """The choice of a group that `config.yaml` begins with."""
    return _defaults()[group]


def _defaults() -> dict[str, str]:
    text = (configs_dir() / "config.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^  - (\w+): (\w+)", text, flags=re.MULTILINE))


def choices(group: str, config_dir: Path | None = None) -> list[Choice]:
    """The choices of a group, sorted by name; with those of a user's folder. Raises RequestError for a group that is not there."""
    if group not in groups():
        raise RequestError(f"no group '{group}'{nearest(group, groups())}; groups are {', '.join(groups())}")
    ours, own = (sorted((d / group).glob("*.yaml")) if d else [] for d in (configs_dir(), config_dir))
    found = [Choice(f.stem, meaning_of(f), facts_of(f), f if f in own else None) for f in (*ours, *own)]
    return sorted(found, key=lambda choice: choice.name)


def choice_names(group: str) -> list[str]:
    """The names alone, without opening a file."""
    return sorted(file.stem for file in (configs_dir() / group).glob("*.yaml"))


def meaning_of(file: Path) -> str:
    """First line of the docstring of the file's `_target_`, or else the file's first comment line."""
    if first := docstring_of(file).partition("\n")[0]:
        return first
    comments = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    return next((c for c in comments if c and not c.startswith("@")), "")


def facts_of(file: Path) -> dict[str, str]:
    """The fields of that docstring: `{"Parameters": "C H D", "Parameters [per=head]": "...", ...}`, as far as it has them."""
    facts: dict[str, str] = {}
    field = None
    for line in docstring_of(file).splitlines():
        if found := re.match(rf"((?:{'|'.join(FIELDS)})(?: \[[^\]]+\])?):(.*)", line):
            field = found[1]
            facts[field] = found[2].strip()
        elif not line.strip():
            field = None
        elif field:
            facts[field] += f" {line.strip()}"
    return facts


def docstring_of(file: Path) -> str:
    """The docstring of the class that the file's `_target_` names, read from source, so that nothing is imported.

    Empty where there is no `_target_` or no source. Raises RequestError for a class that cannot be a variant's.
    """
    found = re.search(r"^_target_: *['\"]?([\w.]+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if not found:
        return ""
    target = found[1]
    module, _, class_name = target.rpartition(".")
    ours = module.split(".")[0] == __name__.split(".")[0]
    if not ours and target not in registered():
        raise RequestError(
            f"{file}: no installed package registers {target} in the entry point group {GROUP}: install the package that does, "
            "or correct the name"
        )
    package = Path(__file__).resolve().parent.parent
    source = package.joinpath(*module.split(".")[1:]).with_suffix(".py") if ours else file_of(module)
    text = _docstring(source, class_name) if source and source.is_file() else None
    if text is None and ours:
        raise RequestError(f"{file}: {target} names no class of {module}: the file of this choice is wrong")
    return text or ""


def _docstring(source: Path, class_name: str) -> str | None:
    """The docstring of a class at the top of a file; None where there is no such class."""
    import ast

    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            return ast.get_docstring(node) or ""
    return None
