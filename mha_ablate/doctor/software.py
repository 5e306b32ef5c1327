"""mha_ablate itself, Python, and the packages that it declares. The ranges are those of the package's own metadata."""

from __future__ import annotations

import importlib
import platform
import shlex
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import TYPE_CHECKING

import mha_ablate
from mha_ablate.config.paths import configs_dir
from mha_ablate.doctor.fact import Answer, in_words
from mha_ablate.errors import RequestError
from mha_ablate.run.provenance import git_state

if TYPE_CHECKING:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

OWN = "mha-ablate"
REINSTALL = "install mha-ablate again"


def own_version() -> Answer:
    """The version that runs, which must be the one whose metadata is read."""
    try:
        declared = version(OWN)
    except PackageNotFoundError:
        return Answer(mha_ablate.__version__, "note", "not installed, so what it needs is not known here")
    if declared != mha_ablate.__version__:
        return Answer(mha_ablate.__version__, "note", f"the installed metadata is that of {declared}: {REINSTALL}")
    return Answer(mha_ablate.__version__)


def own_place() -> dict[str, Answer]:
    """Whether a checkout or a wheel runs, and where its configs are."""
    package = Path(mha_ablate.__file__).resolve().parent
    try:
        configs = configs_dir()
    except RequestError as error:
        return {"runs from": Answer(str(package)), "configs": Answer("missing", "problem", str(error), REINSTALL)}
    if configs.parent == package:
        return {"runs from": Answer(str(package), why="an installed wheel"), "configs": Answer(str(configs))}
    git = git_state()
    commit = f" at {git['commit'][:8]}{', changed since' if git['dirty'] else ''}" if git else ""
    return {"runs from": Answer(str(package.parent), why=f"a checkout{commit}"), "configs": Answer(str(configs))}


def python() -> Answer:
    """Python's version, against what the metadata asks for."""
    here = platform.python_version()
    try:
        wanted = metadata(OWN)["Requires-Python"]
    except PackageNotFoundError:
        return Answer(here)
    from packaging.specifiers import SpecifierSet

    supported = SpecifierSet(wanted)
    if supported.contains(here, prereleases=True):
        return Answer(here, why=f"within {_readable(supported)}")
    why = f"outside {_readable(supported)}"
    return Answer(here, "problem", why, f"install mha-ablate under a Python {_readable(supported)}")


def system() -> Answer:
    """The operating system."""
    return Answer(platform.platform())


def import_error(module: str) -> str | None:
    """None where a module can be imported, else the reason."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a library that does not load raises OSError, a broken package anything
        return in_words(error)
    return None


def packages(torch_error: str | None) -> dict[str, Answer]:
    """Every declared dependency: its version against the declared range, and whether torch, which may not load, does."""
    if trouble := import_error("packaging"):
        return {"packaging": Answer("missing", "problem", trouble, "python -m pip install packaging")}
    needed = sorted(_needed(""), key=lambda requirement: requirement.name != "torch")  # what matters most comes first
    found = {requirement.name: _against(requirement) for requirement in needed}
    mend = f"python -m pip install {' '.join(_pip(r) for r in needed if found[r.name].state == 'problem')}"
    for requirement in needed:
        name, answer = requirement.name, found[requirement.name]
        if answer.state == "problem":
            found[name] = answer._replace(fix=mend)
        elif name == "torch" and torch_error:
            again = f"python -m pip install --force-reinstall {_pip(requirement)}"
            found[name] = Answer(answer.value, "problem", f"cannot be imported: {torch_error}", again)
    return found


def extras() -> dict[str, Answer]:
    """Every extra that the metadata declares, and whether what it asks for is installed."""
    found = {}
    for extra in metadata(OWN).get_all("Provides-Extra") or []:
        needed = _needed(extra)
        lacking = [r.name for r in needed if _against(r).state == "problem"]
        if lacking:
            why = f"without {', '.join(lacking)}; python -m pip install '{OWN}[{extra}]' where you want it"
            found[extra] = Answer("not installed", "note", why)
        else:
            found[extra] = Answer("installed", why=", ".join(r.name for r in needed))
    return found


def _needed(extra: str) -> list[Requirement]:
    """What the metadata asks for on this system: always (extra ""), or for one extra alone."""
    from packaging.requirements import Requirement

    requirements = [Requirement(line) for line in metadata(OWN).get_all("Requires-Dist") or []]

    def applies(requirement: Requirement, to: str) -> bool:
        return requirement.marker is None or requirement.marker.evaluate({"extra": to})

    return [r for r in requirements if applies(r, extra) and (not extra or not applies(r, ""))]


def _against(requirement: Requirement) -> Answer:
    """The installed version of a requirement, within its range or not."""
    wanted = _readable(requirement.specifier) or "any version"
    try:
        here = version(requirement.name)
    except PackageNotFoundError:
        return Answer("missing", "problem", f"{wanted} is needed")
    if here and requirement.specifier.contains(here, prereleases=True):
        return Answer(here, why=f"within {wanted}")
    return Answer(here or "not known", "problem", f"outside {wanted}")


def _readable(specifiers: SpecifierSet) -> str:
    """`<3.14,>=3.11` as `>=3.11, <3.14`: lower bounds first."""
    return ", ".join(sorted((str(s) for s in specifiers), reverse=True))


def _pip(requirement: Requirement) -> str:
    """A requirement as a word for pip on a command line."""
    return shlex.quote(requirement.name + _readable(requirement.specifier).replace(" ", ""))
