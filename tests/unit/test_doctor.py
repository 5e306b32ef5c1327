"""What `doctor` finds, and what it makes of it: states, reasons, what to do."""

from __future__ import annotations

import os
import platform
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from mha_ablate.cli.doctor import _style, lay_out
from mha_ablate.doctor import defaults, examine, machine, places, software
from mha_ablate.doctor.fact import Answer, Fact, size
from mha_ablate.training import compiled, hardware
from tests.conftest import Cli

GIB = 1024**3


@pytest.fixture
def declare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the metadata of mha-ablate say something else: `declare("numpy>=99", python=">=3.99")`."""

    def write(*lines: str, python: str = ">=3.11,<3.99") -> None:
        folder = tmp_path / "site" / "mha_ablate-9.9.dist-info"
        folder.mkdir(parents=True)
        head = ["Metadata-Version: 2.4", "Name: mha-ablate", "Version: 9.9", f"Requires-Python: {python}"]
        folder.joinpath("METADATA").write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")
        monkeypatch.syspath_prepend(folder.parent)

    return write


@pytest.fixture
def without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def needs(*requirements: str) -> list[str]:
    return [f"Requires-Dist: {requirement}" for requirement in requirements]


# ---- software


def test_every_declared_dependency_is_named_torch_first() -> None:
    from importlib.metadata import requires

    found = software.packages(None)
    declared = [line for line in requires("mha-ablate") or [] if "extra ==" not in line]
    assert len(found) == len(declared)
    assert next(iter(found)) == "torch"
    assert {answer.state for answer in found.values()} == {"ok"}
    assert found["torch"].why == "within >=2.11, <2.14"


def test_a_missing_and_an_outdated_dependency_are_problems_with_one_command(declare: Any) -> None:
    declare(*needs("numpy<999,>=99", "no_such_package_here>=1", "pyyaml>=1"))
    found = software.packages(None)
    assert found["numpy"][1:3] == ("problem", "outside >=99, <999")
    assert found["no_such_package_here"][:3] == ("missing", "problem", ">=1 is needed")
    assert found["pyyaml"].state == "ok"
    command = "python -m pip install 'numpy>=99,<999' 'no_such_package_here>=1'"
    assert found["numpy"].fix == found["no_such_package_here"].fix == command


def test_a_requirement_of_another_system_is_not_asked_for(declare: Any) -> None:
    declare(*needs("no_such_package_here>=1; sys_platform == 'no such system'", "numpy"))
    assert list(software.packages(None)) == ["numpy"]


def test_a_torch_that_is_there_but_does_not_load_is_a_problem() -> None:
    torch_fact = software.packages("OSError: libgomp.so.1 is missing")["torch"]
    assert torch_fact.state == "problem"
    assert "libgomp.so.1" in torch_fact.why
    assert "'torch>=2.11,<2.14'" in torch_fact.fix


def test_without_packaging_nothing_can_be_compared_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging", None)
    assert software.packages(None)["packaging"].state == "problem"


@pytest.mark.parametrize(("wanted", "state"), [(">=3.11,<3.99", "ok"), (">=3.98,<3.99", "problem")])
def test_python_is_held_against_the_metadata(wanted: str, state: str, declare: Any) -> None:
    declare(python=wanted)
    found = software.python()
    assert (found.value, found.state) == (platform.python_version(), state)
    assert wanted.replace(",", ", ") in found.why
    assert ("3.98" in found.fix) == (state == "problem")


def test_extras_are_read_from_the_metadata(declare: Any) -> None:
    extras = ["Provides-Extra: here", "Provides-Extra: away", "Provides-Extra: empty"]
    asked = needs("numpy>=1", "scipy>=1; extra == 'here'", "no_such>=1; extra == 'away'")
    declare(*extras, *asked)
    found = software.extras()
    assert list(found) == ["here", "away", "empty"]
    assert found["here"] == Answer("installed", why="scipy")
    assert found["away"].state == "note"
    assert "no_such" in found["away"].why
    assert "mha-ablate[away]" in found["away"].why


def test_metadata_of_another_version_is_noted(declare: Any) -> None:
    assert software.own_version().state == "ok"
    declare()
    assert software.own_version().state == "note"
    assert "9.9" in software.own_version().why


def test_missing_configs_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    from mha_ablate.errors import RequestError

    def none() -> Path:
        raise RequestError("no configs/config.yaml")

    assert software.own_place()["configs"].state == "ok"
    monkeypatch.setattr(software, "configs_dir", none)
    assert software.own_place()["configs"][:2] == ("missing", "problem")


# ---- machine


def put(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        file = folder / name.replace("__", "/").replace("_max", ".max").replace("_current", ".current")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return folder


def test_memory_counts_a_containers_limit(tmp_path: Path) -> None:
    kib = GIB // 1024
    proc = put(tmp_path / "proc", meminfo=f"MemTotal: {16 * kib} kB\nMemFree: 1 kB\nMemAvailable: {12 * kib} kB\n")
    free = put(tmp_path / "free", memory_max="max\n", memory_current="1\n")
    bound = put(tmp_path / "bound", memory_max=f"{4 * GIB}\n", memory_current=f"{3 * GIB}\n")
    assert machine.memory(proc, free).value == "16.0 GiB, 12.0 GiB of it available"
    assert machine.memory(proc, tmp_path / "no cgroup").value == "16.0 GiB, 12.0 GiB of it available"
    assert machine.memory(proc, bound).value == "4.0 GiB, 1.0 GiB of it available"
    assert "16.0 GiB" in machine.memory(proc, bound).why


@pytest.mark.parametrize(
    ("preload", "mapped", "value", "state"),
    [
        ("", "/lib/libc.so.6", " malloc", "ok"),
        ("/opt/libtcmalloc.so.4", "/opt/libtcmalloc.so.4", "tcmalloc", "ok"),
        ("", "/opt/libjemalloc.so.2", "jemalloc", "ok"),
        ("/opt/libmimalloc.so", "/lib/libc.so.6", " malloc", "note"),
        ("", "/home/tcmalloc/lib/libc.so.6", " malloc", "ok"),
    ],
)
def test_the_allocator_is_the_one_that_was_loaded(
    preload: str, mapped: str, value: str, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", preload)
    proc = put(tmp_path, self__maps=f"7f00-7f01 r-xp 0 00:00 1  {mapped}\n7f02-7f03 rw-p 0 00:00 0\n")
    found = machine.allocator(proc)
    assert found.state == state
    assert found.value.endswith(value)


def test_elsewhere_the_allocator_is_the_systems(tmp_path: Path) -> None:
    assert machine.allocator(tmp_path) == Answer("the system's")


def program(folder: Path, name: str, says: str) -> None:
    folder.mkdir(exist_ok=True)
    folder.joinpath(name).write_text(f"#!/bin/sh\necho '{says}'\n", encoding="utf-8")
    folder.joinpath(name).chmod(0o755)


def test_the_compiler_is_the_one_that_torch_compile_would_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(compiled.sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("CXX", raising=False)
    assert machine.compiler()[:2] == ("none found", "note")
    assert "there is no g++" in machine.compiler().why
    program(tmp_path / "bin", "clang++", "clang 17")
    assert machine.compiler()[:2] == ("clang 17", "note")
    assert "CXX=clang++" in machine.compiler().why
    monkeypatch.setenv("CXX", "clang++")
    assert "Python.h" in machine.compiler().why
    tmp_path.joinpath("Python.h").touch()
    found = machine.compiler()
    assert (found.value, found.state) == ("clang 17", "ok")
    assert "10,000 steps" in found.why


def nvidia(folder: Path) -> Path:
    line = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n"
    return put(folder, driver__nvidia__version=line)


@pytest.mark.parametrize(
    ("built_for", "hidden", "warning", "why"),
    [
        (None, None, None, "built without CUDA"),
        ("12.8", "", None, "CUDA_VISIBLE_DEVICES hides it"),
        ("12.8", None, "the driver is too old", "the driver is too old"),
        ("12.8", None, None, "built for CUDA 12.8, finds none"),
    ],
)
def test_no_gpu_comes_with_the_reason_and_is_noted_where_there_is_a_driver(
    built_for: str | None,
    hidden: str | None,
    warning: str | None,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unavailable() -> bool:
        if warning:
            warnings.warn(warning, stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", unavailable)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    found = machine.gpu(tmp_path / "no driver")
    assert found.state == "ok"
    assert why in found.why
    found = machine.gpu(nvidia(tmp_path))
    assert found.state == "note"
    assert "550.54.15" in found.why


@pytest.fixture
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that sees one GPU."""
    from types import SimpleNamespace

    answers = {
        "is_available": True,
        "get_device_capability": (9, 0),
        "current_device": 0,
        "device_count": 2,
        "get_device_properties": SimpleNamespace(total_memory=80 * GIB),
        "is_bf16_supported": True,
        "get_device_name": "Some GPU",
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(torch.version, "cuda", "12.8")


@pytest.mark.usefixtures("a_gpu")
def test_a_gpu_is_described_and_taken(tmp_path: Path) -> None:
    found = machine.gpu(nvidia(tmp_path))
    assert found.value == "Some GPU"
    assert found.why == "80.0 GiB, capability 9.0, bf16, CUDA 12.8, driver 550.54.15, the first of 2"
    chosen = defaults.defaults()
    assert chosen["device"].value == "cuda"
    assert chosen["precision"] == Answer("bf16", why="the GPU multiplies it (capability 9.0)")
    assert chosen["compare"].value == "1 worker of 1 thread"


# ---- defaults


@pytest.mark.parametrize(
    ("speedup", "flags", "precision", "words"),
    [
        (2.2, {"avx512_bf16"}, "bf16", ["2.2 times", "(avx512_bf16)"]),
        (6.0, {"amx_tile"}, "bf16", ["6.0 times", "(amx_tile)"]),
        (0.3, set(), "fp32", ["0.3 times", "neither avx512_bf16 nor amx_tile"]),
        (1.1, {"avx512_bf16"}, "fp32", ["1.1 times"]),
    ],
)
def test_precision_is_tried_out_and_its_reason_is_what_was_found(
    speedup: float, flags: set[str], precision: str, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MHA_ABLATE_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (hardware, defaults):
        monkeypatch.setattr(module, "bf16_speedup", lambda: speedup)
    for flag, probe in hardware.BF16_PROBES.items():
        monkeypatch.setattr(torch.cpu, probe, lambda flag=flag: flag in flags, raising=False)
    found = defaults.defaults()["precision"]
    assert found.value == precision == hardware.resolve("cpu", "auto", 1).precision
    assert all(word in found.why for word in words)
    assert all(flag in machine.instructions().value for flag in flags)


def test_that_bf16_was_once_faster_is_remembered_and_that_it_was_not_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    speedup = 1.0
    monkeypatch.setattr(hardware, "bf16_speedup", lambda: speedup)
    assert not hardware.multiplies_bf16("cpu", tmp_path)
    speedup = 2.0
    assert hardware.multiplies_bf16("cpu", tmp_path)
    speedup = 1.0
    assert hardware.multiplies_bf16("cpu", tmp_path)
    assert not hardware.multiplies_bf16("cpu")
    monkeypatch.setattr(hardware, "name_of", lambda _: "another processor")
    assert not hardware.multiplies_bf16("cpu", tmp_path)
    file = tmp_path / "file"
    file.touch()
    speedup = 2.0
    assert hardware.multiplies_bf16("cpu", file / "below")  # cannot be written: no condition


def test_the_trial_of_bf16_finds_what_torch_takes_longer_for(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    seconds = {torch.float32: 3.0, torch.bfloat16: 2.0}
    now = 0.0

    def multiply(a: torch.Tensor, _: torch.Tensor) -> None:
        nonlocal now
        now += seconds[a.dtype]

    monkeypatch.setattr(torch, "mm", multiply)
    monkeypatch.setattr(hardware.time, "perf_counter", lambda: now)
    assert hardware.bf16_speedup.__wrapped__() == pytest.approx(1.5)
    assert torch.get_num_threads() == threads


def test_a_precision_that_was_asked_for_is_not_explained_by_the_processor() -> None:
    assert "trainer.precision=fp32" in defaults.why_precision(hardware.Hardware("cpu", "fp32", 1), "fp32")


def test_workers_are_one_per_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("mha_ablate.study.execute.cpu_count", lambda: 7)
    found = defaults.defaults()
    assert found["compare"].value == "7 workers of 1 thread"
    assert found["train"].value == "1 thread"


def test_a_compare_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hydra", None)
    found = defaults.defaults()["compare"]
    assert found.state == "problem"
    assert "hydra" in found.why


def test_fewer_cores_than_the_machine_has_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert machine.cores().value == "2 of 8"
    assert "limit" in machine.cores().why


# ---- places


@pytest.fixture
def unwritable(tmp_path: Path) -> Path:
    """A folder that cannot be made, whoever asks: a file is in the way."""
    tmp_path.joinpath("file").touch()
    return tmp_path / "file" / "folder"


def test_a_cache_that_cannot_be_written_is_a_note(unwritable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHA_ABLATE_CACHE", str(unwritable))
    found = places.cache()
    assert (found.value, found.state) == (str(unwritable), "note")
    assert "file is not a folder" in found.why


def test_a_cache_says_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MHA_ABLATE_CACHE", str(tmp_path / "cache"))
    assert places.cache().why.startswith("not there yet, ")
    put(tmp_path / "cache" / "tokens", a="x" * 1024, b="x" * 1024)
    assert places.cache().why.startswith("2.0 KiB used, ")
    assert places.cache().state == "ok"


def test_outputs_that_cannot_be_written_are_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert places.outputs()[:2] == (str(tmp_path / "outputs"), "ok")
    assert list(tmp_path.iterdir()) == []
    tmp_path.joinpath("outputs").touch()
    found = places.outputs()
    assert (found.state, found.why) == ("problem", "it is not a folder")
    assert "outputs=FOLDER" in found.fix


def test_a_folder_without_permission_is_unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(os, "access", lambda path, mode: asked.append((path, mode)))
    assert places.why_unwritable(tmp_path / "a" / "b") == f"{tmp_path} cannot be written to"
    assert asked == [(tmp_path, os.W_OK | os.X_OK)]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HF_HOME": "/a/b"}, "/a/b"),
        ({"HF_HOME": "$XDG_CACHE_HOME/c", "XDG_CACHE_HOME": "/x"}, "/x/c"),
        ({"HF_HOME": "~/hf"}, "/home/someone/hf"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface"),
        ({}, "/home/someone/.cache/huggingface"),
    ],
)
def test_the_hugging_face_cache_is_where_its_libraries_look(
    variables: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": "/home/someone", **variables}.items():
        monkeypatch.setenv(name, value)
    assert places.hugging_face().value == folder


def test_a_hub_that_is_out_of_reach_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = places.hub()
    assert found.state == "note"
    assert "HF_HUB_OFFLINE is set" in found.why
    assert "data=python_docs" in found.why


def test_a_hub_that_answers_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        found = places.hub()
    assert found.state == "ok"
    assert found.value == os.environ["HF_ENDPOINT"]
    assert found.why.startswith("connected in ")


# ---- all of it


@pytest.mark.usefixtures("without_hub")
def test_a_question_that_fails_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Answer:
        raise OSError("no such thing")

    everything = {(f.group, f.key) for f in examine.examine()}
    monkeypatch.setattr(machine, "memory", fails)
    facts = examine.examine()
    assert {(f.group, f.key) for f in facts} == everything
    memory = next(f for f in facts if f.key == "memory")
    assert (memory.state, memory.why) == ("note", "OSError: no such thing")


@pytest.mark.usefixtures("without_hub")
def test_every_problem_says_what_to_do_and_nothing_else_does(declare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    declare(*needs("no_such_package_here"), python=">=3.98")
    monkeypatch.setattr(software, "import_error", lambda module: "gone" if module == "torch" else None)
    facts = examine.examine()
    assert {f.key for f in facts if f.fix} == {f.key for f in facts if f.state == "problem"}
    assert {f.key for f in facts if f.state == "problem"} == {"Python", "no_such_package_here"}
    assert {f.key for f in facts if f.why == "torch cannot be imported"} == {"instructions", "GPU", "precision"}
    last = examine.advice(facts)
    assert last.startswith("2 problems")
    assert all(f.fix in last for f in facts)


def fact(key: str, value: str, state: Any = "ok", why: str = "") -> Fact:
    return Fact("a group", key, value, state, why, "")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_lines_fit_and_align(width: int) -> None:
    facts = [fact("short", "1"), fact("a longer name", "word " * 40, "note", "/a/very/long/path" * 9)]
    lines = lay_out(facts, "at last " * 20, width=width, colour=False)
    assert all(len(line) <= width for line in lines)
    column = lines[1].index("1")
    assert column == lines[2].index("word")
    assert lines[3][:column].strip() == ""
    assert lines[3][column] != " "


def test_nothing_wraps_without_a_width_and_colour_adds_nothing_but_colour() -> None:
    import re

    facts = [fact("one", "word " * 99 + "end"), fact("two", "2", "problem", "because")]
    plain = lay_out(facts, "last", width=None, colour=False)
    assert len(plain) == 5
    assert plain[2].endswith("2: because")
    tinted = lay_out(facts, "last", width=None, colour=True)
    assert tinted != plain
    assert [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in tinted] == plain


def test_colour_and_width_are_those_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm", "COLUMNS": "300", "NO_COLOR": ""}.items():
        monkeypatch.setenv(name, value)
    assert _style() == {"width": None, "colour": False}
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert _style() == {"width": 120, "colour": True}
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    assert _style() == {"width": 80, "colour": False}


@pytest.mark.parametrize(("count", "words"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5000 * GIB, "4.9 TiB")])
def test_sizes(count: float, words: str) -> None:
    assert size(count) == words


@pytest.mark.usefixtures("without_hub")
def test_a_problem_is_exit_code_1_and_the_last_line_says_what_to_do(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("doctor").code == 0
    tmp_path.joinpath("outputs").touch()
    said = cli("doctor")
    assert (said.code, said.err) == (1, "")
    assert "outputs=FOLDER" in said.out.splitlines()[-1]
    said = cli("doctor", "--json")
    assert (said.code, said.err, said.json["ok"]) == (1, "", False)
