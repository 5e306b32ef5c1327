"""What makes steps quick without changing them: the allocator of workers, and torch.compile where it can work."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import sysconfig
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from mha_ablate import build
from mha_ablate.config.compose import compose
from mha_ablate.data.batches import SameBatch
from mha_ablate.errors import RequestError
from mha_ablate.study import execute, timing
from mha_ablate.training import allocator, compiled
from tests.unit.small import adamw, gpt, ids_of

TINY = ("model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.context=8", "trainer.device=cpu")
IDS = torch.arange(32).reshape(4, 8) % 20

# ---- allocator


def installed(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        folder.joinpath(name).touch()


def test_tcmalloc_is_preferred_and_what_the_user_has_chosen_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    installed(tmp_path / "lib", "libjemalloc.so.2", "libtcmalloc_minimal.so.4")
    assert allocator.environment({}) == {"LD_PRELOAD": str(tmp_path / "lib" / "libtcmalloc_minimal.so.4")}
    assert allocator.environment({"LD_PRELOAD": ""}) == {}
    assert allocator.environment({"LD_PRELOAD": "/my/own.so"}) == {}


def test_where_none_is_installed_nothing_is_preloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(allocator, "FOLDERS", ())
    monkeypatch.setattr(Path, "glob", lambda *_: iter(()))
    monkeypatch.setenv("CONDA_PREFIX", str(tmp_path))
    assert allocator.environment({}) == {}
    monkeypatch.setattr(sys, "platform", "darwin")
    installed(tmp_path / "lib", "libtcmalloc_minimal.so.4")
    assert allocator.library() is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="page faults are read from the kernel")
def test_kept_pages_are_not_faulted_in_again() -> None:
    """Ten large blocks one after the other: without it, every one of them is mapped anew."""
    script = """
import resource, sys, numpy
from mha_ablate.training.allocator import keep_pages
if sys.argv[1] == "keep": keep_pages()
numpy.ones(40 * 2**17)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10): numpy.ones(40 * 2**17)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    plain = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", script, how], env=plain, text=True))
        for how in ("keep", "not")
    }
    if faults["not"] < 1000:
        pytest.skip("this C library keeps its pages anyway")
    assert faults["keep"] < faults["not"] / 5


# ---- torch.compile


def resolved(*overrides: str) -> Any:
    return build.resolved(compose(["trainer.device=cpu", *overrides]).config).trainer.compile


def test_auto_compiles_long_runs_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "why_not", lambda: None)
    assert resolved("trainer.steps=10000") is True
    assert resolved("trainer.steps=9999") is False
    assert resolved("trainer.steps=10000", "trainer.compile=false") is False
    assert resolved("trainer.steps=1", "trainer.compile=true") is True


def test_without_a_compiler_everything_runs_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compiled.why_not() == "there is no no-such-compiler"
    assert resolved("trainer.steps=10000") is False
    with pytest.raises(
        RequestError, match=r"trainer.compile=true: there is no no-such-compiler; .*trainer.compile=auto"
    ):
        resolved("trainer.compile=true")


def test_a_compiler_that_does_not_work_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no licence >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    assert compiled.why_not() == f"{broken} does not compile (no licence)"
    assert resolved("trainer.steps=10000") is False


@pytest.mark.skipif(compiled.why_not() is not None, reason=f"torch.compile cannot work here: {compiled.why_not()}")
def test_a_compiled_loss_is_the_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    eager, quick = gpt(n_layers=1), gpt(n_layers=1)
    for model in (eager, quick):
        adamw(model, torch.float32)  # parameters are then views of one buffer, as in training
    ids = ids_of(eager)
    loss = compiled.compiled_loss(quick, tmp_path)
    expected, found = eager.loss(ids, ids), loss(ids, ids)
    expected.backward()
    found.backward()
    torch.testing.assert_close(found, expected)
    for one, other in zip(quick.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)
    assert any(tmp_path.rglob("*")), "what was compiled is kept in the folder it was given"
    compiled.forget()


# ---- what a study times


def test_older_c_libraries_that_take_less_are_asked_for_less(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    class Library:
        """Takes thresholds of half a heap at most."""

        @staticmethod
        def mallopt(which: int, value: int) -> int:
            asked.append((which, value))
            return int(which != allocator.M_MMAP_THRESHOLD or value <= 32 << 20)

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: Library)
    assert allocator.keep_pages() is True
    assert asked == [(-3, 1 << 30), (-3, 32 << 20), (-1, 1 << 30)]
    monkeypatch.setattr(Library, "mallopt", staticmethod(lambda which, value: asked.append((which, value)) or 0))
    asked.clear()
    assert allocator.keep_pages() is False
    assert all(which == allocator.M_MMAP_THRESHOLD for which, _ in asked), "the other would freeze this one"


def test_arms_take_turns_and_each_is_warmed_up_first(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[tuple[str, int]] = []

    class Stepper:
        """Takes a tenth of a second for a step of `a`, two for one of `b`."""

        def __init__(self, config: Any, text: Any) -> None:
            self.name, self.take_step = config, SimpleNamespace(tokens=100)
            order.append((self.name, 0))

        def seconds(self, steps: int) -> float:
            order.append((self.name, steps))
            return steps * {"a": 0.1, "b": 0.2}[self.name]

    monkeypatch.setattr(timing, "_Stepper", Stepper)
    heard: list[tuple[int, int]] = []
    configs: Any = {"a": "a", "b": "b"}
    found = timing.measure_steps(configs, lambda done, total: heard.append((done, total)))
    assert order[:3] == [("a", 0), ("b", 0), ("a", 1)]
    assert order[3:5] == order[6:4:-1], "the order is turned round from one round to the next"
    assert sorted(order[3:5]) == [("a", 2), ("b", 2)]
    assert len(order) == 3 + 2 * timing.ROUNDS
    assert heard == [(i + 1, timing.turns(2)) for i in range(timing.turns(2))]
    assert found["b"]["step_ms"] == pytest.approx(200)
    assert found["b"]["tokens_per_s"] == pytest.approx(500)
    assert found["a"]["step_ms_rounds"] == pytest.approx([100] * timing.ROUNDS)


def test_one_worker_is_alone_while_steps_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Worker:
        """Says when it is stopped."""

        def __init__(self, _: Any) -> None:
            self.stopped = False

        def stop(self) -> None:
            self.stopped = True

    monkeypatch.setattr(execute, "Worker", Worker)
    pool = execute.Pool(3)
    pool.start()
    first, *others = pool.workers
    assert pool.keep_one() is first
    assert pool.workers == [first]
    assert [worker.stopped for worker in (first, *others)] == [False, True, True]  # pyright: ignore


@pytest.mark.parametrize(("device", "one"), [("auto", True), ("cuda", True), ("cpu", False)])
def test_workers_are_as_many_as_the_device_that_was_asked_for_has(
    monkeypatch: pytest.MonkeyPatch, device: str, one: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(execute, "cpu_count", lambda: 7)
    assert execute.default_workers(device) == (1 if one else 7)


def test_arms_that_other_kernels_would_train_are_told_apart() -> None:
    def kernels(*overrides: str) -> str:
        return build.kernels_of(build.resolved(compose(["trainer.device=cpu", *overrides]).config))

    assert kernels() == kernels("fc_out=none", "model.n_heads=8")
    assert kernels("model.context=1024") != kernels()
    on_gpu = compose(["trainer.device=cuda"]).config
    assert build.kernels_of(on_gpu) != build.kernels_of(replace(on_gpu, model=replace(on_gpu.model, dropout=0.1)))


def test_models_that_were_trained_side_by_side_are_let_go() -> None:
    from mha_ablate.training.hardware import Hardware
    from tests.unit.test_stack import lanes, stack

    step = stack(lanes())
    alive = weakref.ref(step)
    gc.disable()
    try:
        del step
        Hardware("cpu", "fp32", 1).make_room()
        assert alive() is None
    finally:
        gc.enable()


def test_warming_up_changes_nothing() -> None:
    config = build.resolved(compose([*TINY, "trainer.precision=bf16"]).config)
    losses = []
    for warm in (False, True):
        step = build._step_of(config, build.model_of(config, 20), SameBatch(IDS, IDS), build.hardware_of(config))
        if warm:
            step.warm_up()
        losses.append([step(i, 1e-2)[0].item() for i in range(3)])
    assert losses[0] == losses[1]


def test_what_a_killed_compiler_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    from torch.utils._filelock import FileLock

    (tmp_path / "locks").mkdir()
    (tmp_path / "aa").mkdir()
    whole = Path(sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("LDLIBRARY"))
    real = next(
        (f for f in (whole, Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so") if f.is_file()), None
    )
    assert real is not None
    content = real.read_bytes()
    files = {"whole": content, "empty": b"", "half": content[: len(content) // 2], "holes": bytes(9000), "made": b""}
    for name, data in files.items():
        (tmp_path / "aa" / f"{name}.main.so").write_bytes(data)
    with FileLock(str(tmp_path / "locks" / "made.lock"), timeout=0):
        compiled.remove_torn(tmp_path)
    assert sorted(f.name for f in (tmp_path / "aa").iterdir()) == ["made.main.so", "whole.main.so"]
    compiled.remove_torn(tmp_path)
    assert [f.name for f in (tmp_path / "aa").iterdir()] == ["whole.main.so"]
