"""What pip gets: the wheel and the sdist hold what they should, and an installed wheel works without the checkout."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import distributions, packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from tests.conftest import SMALL

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ("3.11", "3.12", "3.13")


def done(*argv: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    """Standard output of a command that must succeed."""
    result = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, f"{argv}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def wheel_of(source: Path, folder: Path) -> Path:
    """The wheel that pip builds by the project's own backend, which the environment of the tests already has."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done(*pip, "--wheel-dir", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def sources() -> dict[str, bytes]:
    """Where the wheel should have each file of the package and of the configurations, and what is in it."""
    found = {}
    for top, below in (("mha_ablate", ""), ("configs", "mha_ablate/")):
        for file in (ROOT / top).rglob("*"):
            if file.is_file() and "__pycache__" not in file.parts:
                found[f"{below}{file.relative_to(ROOT).as_posix()}"] = file.read_bytes()
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel_of(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    (text,) = [data for name, data in contents(wheel).items() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(text.decode())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bin` of a fresh environment with the wheel alone in it; what it depends on is borrowed from the tests' own."""
    venv = tmp_path_factory.mktemp("fresh") / "venv"
    done(sys.executable, "-m", "venv", "--without-pip", venv, cwd=venv.parent)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        venv / "bin/python",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    done(*pip, wheel, cwd=venv.parent)
    (own,) = venv.glob("lib/python*/site-packages")
    # Lines of a .pth come after the environment's own folder, and a .pth in a folder named there is not read: the
    # checkout that the tests' environment points at stays out of sight.
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (own / "borrowed.pth").write_text("\n".join(borrowed) + "\n", encoding="utf-8")
    return venv / "bin"


@pytest.fixture
def outside(tmp_path: Path) -> dict[str, str]:
    """Environment variables of a user who has never seen the checkout."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "MHA_ABLATE_CACHE": str(tmp_path.parent / f"{tmp_path.name}-cache"), "OMP_NUM_THREADS": "1"}


def test_the_wheel_holds_the_package_the_configurations_and_nothing_else(wheel: Path) -> None:
    held = contents(wheel)
    about = f"mha_ablate-{version('mha-ablate')}.dist-info"
    rest = {f"{about}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE")}
    assert held.keys() == sources().keys() | rest
    assert {name: held[name] for name in sources()} == sources()
    assert held[f"{about}/licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()
    record = {row[0] for row in csv.reader(io.StringIO(held[f"{about}/RECORD"].decode()))}
    assert record == held.keys()


def test_what_the_wheel_must_hold_is_seen_in_the_sources() -> None:
    assert {"mha_ablate/configs/config.yaml", "mha_ablate/configs/fc_out/none.yaml"} <= sources().keys()
    assert {
        "mha_ablate/py.typed",
        "mha_ablate/cli/main.py",
    } <= sources().keys()  # py.typed: "Typing :: Typed" is claimed
    yamls = {name for name in sources() if name.endswith(".yaml")}
    assert len(yamls) == len(list((ROOT / "configs").rglob("*.yaml")))


def test_the_metadata_says_what_pyproject_says(metadata: Message, wheel: Path) -> None:
    assert metadata["Name"] == "mha-ablate"
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == set(PROJECT["optional-dependencies"])
    plain = [r for r in map(Requirement, metadata.get_all("Requires-Dist", [])) if r.marker is None]
    assert set(plain) == set(map(Requirement, PROJECT["dependencies"]))
    entry = next(data.decode() for name, data in contents(wheel).items() if name.endswith("entry_points.txt"))
    assert "mha-ablate = mha_ablate.cli.main:main" in entry.splitlines()
    assert "fc_out" in str(metadata.get_payload())  # the README


def test_the_metadata_names_the_pythons_that_setup_takes(metadata: Message) -> None:
    taken = SpecifierSet(metadata["Requires-Python"])
    assert [f"3.{n}" for n in range(8, 20) if f"3.{n}.5" in taken] == list(PYTHONS)
    classified = [c.rpartition(" :: ")[2] for c in metadata.get_all("Classifier", []) if ":: Python :: 3" in c]
    assert classified == list(PYTHONS)
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "scripts/setup").read_text(encoding="utf-8")


def test_the_sdist_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build = "import sys; from hatchling.build import build_sdist; build_sdist(sys.argv[1])"
    done(sys.executable, "-c", build, tmp_path, cwd=ROOT)
    (sdist,) = tmp_path.glob("*.tar.gz")
    (tmp_path / "wheel").mkdir()
    assert contents(wheel_of(sdist, tmp_path / "wheel")) == contents(wheel)


def test_an_installed_wheel_runs_in_an_empty_folder(installed: Path, outside: dict[str, str], tmp_path: Path) -> None:
    command = installed / "mha-ablate"
    where = "import mha_ablate, mha_ablate.config.paths as p; print(mha_ablate.__file__, p.configs_dir())"
    found = done(installed / "python", "-c", where, cwd=tmp_path, env=outside).split()
    assert all(Path(path).is_relative_to(installed.parent) for path in found), found
    listed = json.loads(done(command, "list", "--json", cwd=tmp_path, env=outside))
    assert {group: set(listed[group]) for group in listed} == {
        folder.name: {file.stem for file in folder.glob("*.yaml")}
        for folder in (ROOT / "configs").iterdir()
        if folder.is_dir()
    }
    rest = [s for s in SMALL if not s.startswith("trainer.steps")]
    run = json.loads(done(command, "train", *rest, "trainer.steps=2", "--json", cwd=tmp_path, env=outside))
    assert (run["state"], run["result"]["step"]) == ("ok", 2)

    arms = ["study.arms=[dense,none]", "study.seeds=1", "--workers", "1"]
    report = json.loads(done(command, "compare", *SMALL, *arms, "--json", cwd=tmp_path, env=outside))
    assert {arm["arm"]: set(arm["states"].values()) for arm in report["arms"]} == {"dense": {"ok"}, "none": {"ok"}}
    assert (tmp_path / "outputs/fc_out/report/report.html").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["outputs"]


# ---- requirements


def declared() -> dict[str, list[str]]:
    return {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}


@pytest.mark.parametrize("extra", declared())
def test_requirements_parse_and_are_met_here(extra: str) -> None:
    needed = [Requirement(line) for line in declared()[extra]]
    assert needed
    assert len({canonicalize_name(r.name) for r in needed}) == len(needed)
    here = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    for requirement in needed:
        if requirement.name == PROJECT["name"]:  # extras of its own
            assert requirement.extras <= PROJECT["optional-dependencies"].keys()
            continue
        assert requirement.specifier, f"{requirement} has no lower bound"
        if extra == "ray" and canonicalize_name(requirement.name) not in here:
            pytest.skip("Ray is not installed here: it is large")
        assert requirement.specifier.contains(here.get(canonicalize_name(requirement.name), "0")), requirement


def imports() -> set[str]:
    """The first word of every absolute import in the package, also inside functions."""
    found = set()
    for file in (ROOT / "mha_ablate").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def test_whatever_the_package_imports_is_a_declared_dependency() -> None:
    foreign = imports() - set(sys.stdlib_module_names) - {"mha_ablate"}
    assert {"torch", "hydra", "typer"} <= foreign
    optional = PROJECT["optional-dependencies"]["slurm"]  # imported where it is there
    names = {canonicalize_name(Requirement(line).name) for line in (*PROJECT["dependencies"], *optional)}
    owners = packages_distributions()
    assert {m for m in foreign if not names & {canonicalize_name(o) for o in owners.get(m, [])}} == set()


def test_pip_finds_no_conflict_among_what_is_installed_here() -> None:
    assert "No broken requirements" in done(sys.executable, "-m", "pip", "check", cwd=ROOT)
