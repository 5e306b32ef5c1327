"""The house rules that an import or a literal could break, read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mha_ablate
from mha_ablate.config.catalog import choice_names, meaning_of
from mha_ablate.config.compose import configs_dir

PACKAGE = Path(mha_ablate.__file__).parent
NAME = PACKAGE.name
FILES = sorted(PACKAGE.rglob("*.py"))

LEVEL = {
    "__main__": 10,
    "notebook": 9,
    "cli": 8,
    "conduct": 7,
    "report": 6,
    "doctor": 6,
    "study": 5,
    "build": 4,
    "corpora": 4,
    "training": 3,
    "surgery": 3,
    **dict.fromkeys(("model", "data", "run", "cost", "stats"), 2),
    "config": 1,
    **dict.fromkeys(("errors", "start_rule"), 0),
    "formula": -1,
    "__init__": 0,  # the version; the Python interface that it hands out is imported when it is asked for
}
TAKE_PLAIN_ARGUMENTS = ("model", "data", "training", "cost", "stats", "run", "surgery")


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def room_of(file: Path) -> str:
    """The first step below the package: a folder, or a module of its own."""
    return file.relative_to(PACKAGE).with_suffix("").parts[0]


def exists(module: list[str]) -> bool:
    path = PACKAGE.parent.joinpath(*module)
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported(tree: ast.AST, file: Path) -> Iterator[tuple[int, list[str]]]:
    """(line, dotted path) of every import of this package, also inside functions and under TYPE_CHECKING."""
    here = [NAME, *file.relative_to(PACKAGE).with_suffix("").parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = here[: -node.level] if node.level else []
            module = [*start, *(node.module or "").split(".")] if node.module else start
            found = []
            for alias in node.names:  # `from package import room` imports the room
                whole = [*module, alias.name]
                found.append(whole if module and module[0] == NAME and exists(whole) else module)
        else:
            continue
        for path in found:
            if path and path[0] == NAME:
                yield node.lineno, path


def edges() -> list[tuple[str, str, str]]:
    """(importing room, imported room, where) for every import between modules of the package."""
    found = []
    for file in FILES:
        for line, path in imported(parsed(file), file):
            room = path[1] if len(path) > 1 else "__init__"
            found.append((room_of(file), room, f"{file.relative_to(PACKAGE)}:{line}"))
    return found


def test_every_room_has_a_level() -> None:
    assert {room_of(file) for file in FILES} <= LEVEL.keys()


def test_the_reader_of_imports_sees_all_of_them() -> None:
    source = """
import mha_ablate.cli.main
from mha_ablate import errors
from mha_ablate.run.folder import RunFolder
from . import block
from ..data import corpus
from ..train.loop import train
import torch, mha_ablate.study.plan as p
def f():
    from mha_ablate.config import schema
if TYPE_CHECKING:
    import mha_ablate.report
"""
    file = PACKAGE / "model" / "gpt.py"
    seen = [".".join(path[1:]) for _, path in imported(ast.parse(source), file)]
    assert sorted(seen) == sorted(
        [
            "cli.main",
            "errors",
            "run.folder",
            "model.block",
            "data.corpus",
            "train.loop",
            "study.plan",
            "config.schema",
            "report",
        ]
    )
    assert len(edges()) > 60


def test_imports_go_down_only() -> None:
    rooms = [edge for edge in edges() if edge[0] not in (edge[1], "__init__")]
    up = [f"{where}: {a} imports {b}" for a, b, where in rooms if LEVEL[b] >= LEVEL[a]]
    assert up == []


@pytest.mark.parametrize("room", TAKE_PLAIN_ARGUMENTS)
def test_a_room_that_takes_plain_arguments_never_sees_the_config(room: str) -> None:
    seen = [where for a, b, where in edges() if a == room and b in ("config", "build")]
    assert seen == []


def test_the_five_lowest_rooms_do_not_know_each_other() -> None:
    lowest = {room for room, level in LEVEL.items() if level == 2}
    assert [(a, b, where) for a, b, where in edges() if a != b and {a, b} <= lowest] == []


def test_training_knows_the_model_and_the_data_alone() -> None:
    assert {b for a, b, _ in edges() if a == "training"} - {"training", "errors"} == {"model", "data"}


@pytest.mark.parametrize("below", ["config", "errors", "stats"])
def test_a_light_room_imports_no_torch(below: str) -> None:
    heavy = []
    for file in FILES:
        if room_of(file) != below:
            continue
        for node in ast.walk(parsed(file)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            heavy += [f"{file}:{n}" for n in names if n.split(".")[0] == "torch"]
    assert heavy == []


# ---- no variant is known by name


def target_of(name: str) -> list[str]:
    """Dotted path of a variant's class, from its YAML."""
    text = (configs_dir() / "fc_out" / f"{name}.yaml").read_text(encoding="utf-8")
    return text.partition("_target_:")[2].split()[0].split(".")


def own_file(name: str) -> Path:
    return PACKAGE.joinpath(*target_of(name)[1:-1]).with_suffix(".py")


def docstrings(tree: ast.AST) -> set[ast.AST]:
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, owners)]
    return {body[0].value for body in bodies if body and isinstance(body[0], ast.Expr)}


def names_compared(tree: ast.AST, names: set[str]) -> list[tuple[int, str]]:
    """String literals outside docstrings that are, or assign fc_out, one of `names`."""
    spoken = docstrings(tree)
    literals = [
        n for n in ast.walk(tree) if isinstance(n, ast.Constant) and isinstance(n.value, str) and n not in spoken
    ]
    return [(n.lineno, str(n.value)) for n in literals if str(n.value).removeprefix("fc_out=") in names]


@pytest.mark.parametrize("name", choice_names("fc_out"))
def test_no_variant_is_named_in_code_outside_its_own_file(name: str) -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {literal!r}"
        for file in FILES
        if file != own_file(name)
        for line, literal in names_compared(parsed(file), {name})
    ]
    assert found == []


def test_the_reader_of_names_sees_literals_and_passes_over_docstrings() -> None:
    tree = ast.parse(
        '"""none"""\ndef f(x):\n    """dense"""\n    return x == "none" or {"dense": 1} or f"{x}" or "nonesuch"\n'
    )
    assert [literal for _, literal in names_compared(tree, {"none", "dense"})] == ["none", "dense"]


@pytest.mark.parametrize("name", choice_names("fc_out"))
def test_a_variant_stands_in_a_file_of_its_own_that_no_other_imports(name: str) -> None:
    target = target_of(name)
    assert target[:3] == [NAME, "model", "fc_out"]
    assert own_file(name).is_file()
    assert meaning_of(configs_dir() / "fc_out" / f"{name}.yaml")
    owners = [other for other in choice_names("fc_out") if own_file(other) == own_file(name)]
    assert owners == [name]
    importers = [
        f"{file.relative_to(PACKAGE)}:{line}"
        for file in FILES
        for line, path in imported(parsed(file), file)
        if path[: len(target) - 1] == target[:-1]
    ]
    assert importers == []


# ---- only the command line speaks and exits


def speaks_or_exits(tree: ast.AST) -> list[tuple[int, str]]:
    """Calls of print, exit, quit and sys.exit, and SystemExit raised; `os._exit` is a process's own business."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            spelled = ast.unparse(node.func)
            if spelled in ("print", "exit", "quit", "sys.exit", "builtins.print", "SystemExit"):
                found.append((node.lineno, spelled))
        elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name) and node.exc.id == "SystemExit":
            found.append((node.lineno, "SystemExit"))
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            found += [(node.lineno, "sys.exit") for alias in node.names if alias.name == "exit"]
    return found


def test_nothing_outside_the_command_line_prints_or_exits() -> None:
    found = [
        f"{file.relative_to(PACKAGE)}:{line}: {what}"
        for file in FILES
        if room_of(file) != "cli"
        for line, what in speaks_or_exits(parsed(file))
    ]
    assert found == []


def test_the_reader_of_calls_sees_them() -> None:
    source = (
        "import sys\nfrom sys import exit\ndef f():\n    print(1)\n    sys.exit(2)\n    raise SystemExit\nos._exit(0)\n"
    )
    assert [what for _, what in sorted(speaks_or_exits(ast.parse(source)))] == [
        "sys.exit",
        "print",
        "sys.exit",
        "SystemExit",
    ]
