"""Models side by side: a stack against its lanes one by one, a recorded step, the loop over lanes, groups of cells."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from mha_ablate.build import fc_out_maker
from mha_ablate.config.paths import configs_dir
from mha_ablate.data.batches import TrainBatches
from mha_ablate.model.fc_out.base import FcOut, Place
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.fc_out.none import NoProjection
from mha_ablate.model.fc_out.per_head import PerHead
from mha_ablate.model.gpt import GPT
from mha_ablate.run.folder import RunFolder
from mha_ablate.study import execute
from mha_ablate.study.cell import Cell
from mha_ablate.study.execute import groups, lanes_in
from mha_ablate.training.evaluate import validation_loss, validation_losses
from mha_ablate.training.graph import Function, Graphed, Outputs
from mha_ablate.training.loop import Line, Outcome, train
from mha_ablate.training.optimizer import FlatAdamW
from mha_ablate.training.stack import StackedStep
from mha_ablate.training.step import TrainingStep
from tests.unit.small import fc_outs, gpt, ids_of
from tests.unit.test_seam import EvenLayersOnly, shared_by_all

CPU = torch.device("cpu")
TOKENS = np.random.default_rng(0).integers(0, 11, 400).astype(np.uint16)
VARIANTS = {
    file.stem: fc_out_maker(yaml.safe_load(file.read_text(encoding="utf-8")))
    for file in sorted((configs_dir() / "fc_out").glob("*.yaml"))
}
MAKERS: dict[str, Callable[[Place], FcOut]] = {
    **VARIANTS,
    "shared_by_all": shared_by_all,
    "even_layers_only": EvenLayersOnly,
}
Measured = list[tuple[Tensor, Tensor]]


def batches(lane: int, model: GPT) -> TrainBatches:
    return TrainBatches(TOKENS, batch_size=4, context=model.context, data_seed=lane, device=CPU)


def optimizer(models: GPT | Sequence[GPT], dtype: torch.dtype) -> FlatAdamW:
    # A gradient that is zero but for rounding moves nothing under such an eps, so that sums may be taken in any order.
    return FlatAdamW(models, dtype=dtype, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-5)


def stack(models: list[GPT], *, dtype: torch.dtype = torch.float32, clip: float = 1.0, **more: Any) -> StackedStep:
    feeds = [batches(lane, model) for lane, model in enumerate(models)]
    return StackedStep(models, optimizer(models, dtype), feeds, grad_clip=clip, device=CPU, **more)


def lanes(n: int = 3, make: Callable[[Place], FcOut] = VARIANTS["dense"], **changes: Any) -> list[GPT]:
    return [gpt(make, init_seed=lane, **changes) for lane in range(n)]


def one_by_one(models: list[GPT], steps: int, dtype: torch.dtype, clip: float) -> Measured:
    """The lanes as ordinary runs: losses and norms of each step, `[S]`."""
    takes = [
        TrainingStep(m, optimizer(m, dtype), batches(lane, m), grad_clip=clip, dropout_seed=lane)
        for lane, m in enumerate(models)
    ]
    seen = [[take(step, 1e-2 / (1 + step)) for take in takes] for step in range(steps)]
    for take in takes:
        take.optimizer.release()
    return [tuple(map(torch.stack, zip(*each, strict=True))) for each in seen]  # pyright: ignore[reportReturnType]


def together(models: list[GPT], steps: int, dtype: torch.dtype, clip: float, **more: Any) -> Measured:
    take = stack(models, dtype=dtype, clip=clip, **more)
    seen = [take(step, 1e-2 / (1 + step)) for step in range(steps)]
    take.optimizer.release()
    return seen


def weights(models: list[GPT]) -> list[Tensor]:
    return [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in models]


# ---- a stack is its lanes


def slack(model: GPT) -> float:
    """Rounding passes a loud branch louder: measured up to 1.3 times what these three show, the loud `none` among them."""
    first = fc_outs(model)[0]
    measured = isinstance(first, (Dense, NoProjection, PerHead))
    return 1.0 if measured or first.start_gain <= first.place.dense_gain else 2.0


def check_equal(
    make: Callable[[Place], FcOut], *, dtype: torch.dtype, clip: float, rtol: float, atol: float, **changes: Any
) -> None:
    ours, theirs = lanes(make=make, **changes), lanes(make=make, **changes)
    start = weights(ours)
    rtol, atol = rtol * slack(ours[0]), atol * slack(ours[0])
    found, expected = together(ours, 4, dtype, clip), one_by_one(theirs, 4, dtype, clip)
    for (losses, norms), (losses_apart, norms_apart) in zip(found, expected, strict=True):
        assert losses.shape == norms.shape == (3,)
        torch.testing.assert_close(losses, losses_apart, rtol=rtol, atol=0)
        torch.testing.assert_close(norms, norms_apart, rtol=10 * rtol, atol=0)
    for mine, other, before in zip(weights(ours), weights(theirs), start, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=atol)
        assert (mine - before).abs().max() > 100 * atol or dtype == torch.bfloat16


@pytest.mark.parametrize("clip", [0.0, 0.05, 1e3], ids=["never_clips", "clips", "hardly_clips"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("qkv", ["fused", "split"])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())
def test_a_stack_trains_as_its_lanes_would_by_themselves(
    make: Callable[[Place], FcOut], qkv: str, tied: bool, clip: float
) -> None:
    check_equal(make, qkv=qkv, tied_embedding=tied, clip=clip, dtype=torch.float32, rtol=2e-6, atol=5e-6)


@pytest.mark.parametrize(
    "changes",
    [
        {"explicit_attention": False},
        {"positions": "rope", "norm_kind": "rmsnorm", "block": "post", "explicit_attention": False},
        {"positions": "sinusoidal", "bias": True},
    ],
    ids=["fused_attention", "rope_rmsnorm_post", "sinusoidal_bias"],
)
@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_stack_knows_every_kind_of_model(make: Callable[[Place], FcOut], changes: dict[str, Any]) -> None:
    check_equal(make, clip=1.0, dtype=torch.float32, rtol=2e-6, atol=5e-6, **changes)


@pytest.mark.parametrize("make", VARIANTS.values(), ids=VARIANTS.keys())
def test_a_stack_in_bf16_stays_near_its_lanes(make: Callable[[Place], FcOut]) -> None:
    check_equal(make, clip=1.0, dtype=torch.bfloat16, rtol=1e-3, atol=1e-2)


def test_a_stack_of_one_is_a_stack() -> None:
    [(losses, norms)] = together(lanes(1), 1, torch.float32, 1.0)
    [(alone, norm_alone)] = one_by_one(lanes(1), 1, torch.float32, 1.0)
    torch.testing.assert_close(losses, alone, rtol=1e-6, atol=0)
    torch.testing.assert_close(norms, norm_alone, rtol=1e-5, atol=0)


def test_frozen_parameters_stay_each_lanes_own() -> None:
    models = lanes()
    for model in models:
        for name, p in model.named_parameters():
            p.requires_grad_("fc_out" not in name)
    before = [{n: p.detach().clone() for n, p in m.named_parameters() if not p.requires_grad} for m in models]
    apart = lanes()
    for model in apart:
        for name, p in model.named_parameters():
            p.requires_grad_("fc_out" not in name)
    found, expected = together(models, 2, torch.float32, 1.0), one_by_one(apart, 2, torch.float32, 1.0)
    torch.testing.assert_close(found[1][0], expected[1][0], rtol=1e-5, atol=0)
    for model, kept in zip(models, before, strict=True):
        assert kept
        assert all(torch.equal(p, kept[n]) for n, p in model.named_parameters() if n in kept)


@given(st.lists(st.sampled_from([math.nan, math.inf]), min_size=1, max_size=3), st.integers(0, 2))
def test_a_lane_that_is_not_finite_leaves_the_others_as_they_are(bad: list[float], lane: int) -> None:
    sound, sick = lanes(), lanes()
    with torch.no_grad():
        for row, value in enumerate(bad):
            sick[lane].tokens.weight[row] = value
    expected, found = together(sound, 3, torch.float32, 0.05), together(sick, 3, torch.float32, 0.05)
    assert not found[-1][0][lane].isfinite()
    others = [i for i in range(3) if i != lane]
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a[0][others], b[0][others])
        assert torch.equal(a[1][others], b[1][others])
    assert all(torch.equal(weights(sound)[i], weights(sick)[i]) for i in others)


def test_dropout_is_not_stacked() -> None:
    with pytest.raises(ValueError, match="cannot be stacked"):
        stack(lanes(dropout=0.1))


@pytest.mark.parametrize("whole", [True, False])
def test_validation_of_a_stack_is_that_of_its_lanes(whole: bool) -> None:
    take = stack(lanes())
    take(0, 1e-2)
    found = validation_losses(take, TOKENS, whole=whole)
    expected = [validation_loss(model, TOKENS, device=CPU, whole=whole) for model in take.models]
    assert found == pytest.approx(expected, rel=1e-6)
    assert len(set(found)) == 3


def test_a_stack_does_not_import_the_compiler() -> None:
    code = (
        "import sys; from tests.unit import test_stack as t\n"
        "t.together(t.lanes(), 1, t.torch.float32, 1.0); assert 'torch._dynamo' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# ---- a recorded step


def after_warming_up(times: int, kept: list[Function] | None = None) -> Callable[[Function], Function]:
    """A recorder that runs the function so often and then `replays` it into the same outputs, as a graph does."""

    def record(function: Function) -> Function:
        outputs = [function() for _ in range(times)][-1]

        def replay() -> Outputs:
            for old, new in zip(outputs, function(), strict=True):
                old.copy_(new)
            return outputs

        if kept is not None:
            kept.append(replay)
        return replay

    return record


class Tape(TorchDispatchMode):
    """Remembers every operation with the tensors that it met, and nothing of the Python around it, as a graph does."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def replay(self) -> None:
        """The same operations on whatever lies in the same tensors now."""
        with torch.no_grad():
            for func, args, kwargs, out in self.operations:
                again = tree_flatten(func(*args, **kwargs))[0]
                for old, new in zip(tree_flatten(out)[0], again, strict=True):
                    if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


def taped(function: Function) -> Function:
    """A recorder whose replay knows no Python: a rate, a step or a branch that was baked in would stay as it was."""
    with Tape() as tape:
        outputs = function()

    def replay() -> Outputs:
        tape.replay()
        return outputs

    return replay


def test_a_recorded_step_depends_on_nothing_that_python_holds() -> None:
    plain, recorded = lanes(), lanes()
    expected = together(plain, 5, torch.float32, 0.05)
    found = together(recorded, 5, torch.float32, 0.05, record=taped)
    for a, b in zip(expected, found, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_recorded_step_is_the_step_to_the_last_bit(dtype: torch.dtype) -> None:
    plain, recorded = lanes(), lanes()
    made: list[Function] = []
    expected = together(plain, 5, dtype, 0.05)
    found = together(recorded, 5, dtype, 0.05, record=after_warming_up(3, made))
    assert len(made) == 1
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a[0], b[0])  # also those of earlier steps: no output is written over
        assert torch.equal(a[1], b[1])
    assert all(map(torch.equal, weights(plain), weights(recorded)))


def test_whatever_a_step_reads_and_changes_stays_where_it_is() -> None:
    take = stack(lanes(), dtype=torch.bfloat16)
    buffers = [take.windows_SBT, take.rate, *take.optimizer.state, *take.leaves]
    places = [b.data_ptr() for b in buffers]
    for step in range(3):
        take(step, 1e-2)
    assert [b.data_ptr() for b in buffers] == places
    assert all(a is b for a, b in zip(buffers, [take.windows_SBT, take.rate, *take.optimizer.state], strict=False))
    for lane, model in enumerate(take.models):  # and the models see the same memory
        assert model.tokens.weight.data_ptr() in [leaf[lane].data_ptr() for leaf in take.leaves]


def test_warming_up_leaves_nothing_behind() -> None:
    take = stack(lanes(), record=after_warming_up(3))
    before = [t.clone() for t in take.optimizer.state]
    graphed = cast(Graphed, take.update)
    graphed._recorded()
    assert all(map(torch.equal, take.optimizer.state, before))


# ---- the loop over lanes


@dataclass
class Script:
    """A step that says what it was told to: losses by lane and step."""

    losses: list[list[float]]
    device = CPU
    tokens = 32

    def __post_init__(self) -> None:
        self.models = lanes(len(self.losses), n_layers=1)

    def __call__(self, step: int, rate: float) -> tuple[Tensor, Tensor]:
        return torch.tensor([lane[step] for lane in self.losses]), torch.arange(len(self.losses)) + 0.5


def told(script: Script, val: list[list[float]], cadence: tuple[int, int]) -> tuple[list[Outcome], list[Any]]:
    lines: list[tuple[int, int, Line]] = []
    looks = iter(range(100))

    def validate(whole: bool) -> list[float]:
        look = next(looks)
        return [lane[look] for lane in val]

    outcomes = train(
        script,
        validate=validate,
        rate=lambda step: 0.1 * step,
        write=lambda lane, step, line: lines.append((lane, step, line)),
        steps=6,
        eval_every=cadence[0],
        log_every=cadence[1],
    )
    return outcomes, lines


MAYBE = st.sampled_from([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, math.nan, math.inf])
SIX = st.lists(MAYBE, min_size=6, max_size=6)


@given(st.lists(st.tuples(SIX, SIX), min_size=1, max_size=4), st.tuples(st.integers(1, 7), st.integers(1, 7)))
def test_lanes_fare_as_they_would_alone(runs: list[tuple[list[float], list[float]]], cadence: tuple[int, int]) -> None:
    losses, val = [loss for loss, _ in runs], [v for _, v in runs]
    outcomes, lines = told(Script(losses), val, cadence)

    def untimed(line: Line, norm: float) -> dict[str, str]:
        own = {k: str(v) for k, v in line.items() if not k.startswith("perf") and k != "train_s"}
        assert line.get("optim/grad_norm", norm) == norm
        return {k: v for k, v in own.items() if k != "optim/grad_norm"}

    for lane in range(len(runs)):
        [outcome], alone = told(Script([losses[lane]]), [val[lane]], cadence)
        assert str(outcomes[lane]) == str(outcome)
        mine = [(step, untimed(line, lane + 0.5)) for which, step, line in lines if which == lane]
        assert mine == [(step, untimed(line, 0.5)) for _, step, line in alone]


def test_a_lane_that_diverged_is_done_and_the_others_go_on() -> None:
    outcomes, lines = told(Script([[1.0] * 6, [1.0, math.nan, *[1.0] * 4]]), [[2.0] * 6, [2.0] * 6], (3, 2))
    assert [(o.state, o.step) for o in outcomes] == [("ok", 6), ("diverged", 2)]
    assert [step for lane, step, _ in lines if lane == 1] == [2]
    assert [step for lane, step, _ in lines if lane == 0] == [2, 3, 4, 6, 6]


def test_it_ends_when_the_last_lane_has_diverged() -> None:
    script = Script([[math.nan] * 6, [1.0, 1.0, math.inf, 1.0, 1.0, 1.0]])
    outcomes, lines = told(script, [[], []], (7, 1))
    assert [(o.state, o.step) for o in outcomes] == [("diverged", 1), ("diverged", 3)]
    assert [(lane, step) for lane, step, _ in lines] == [(0, 1), (1, 1), (1, 2), (1, 3)]


def test_a_real_stack_goes_through_the_loop_as_its_lanes_do() -> None:
    def run(takes: Sequence[Any]) -> tuple[list[Outcome], dict[int, list[tuple[int, Line]]]]:
        outcomes, lines = [], {}
        for take in takes:
            first = len(outcomes)
            outcomes += train(
                take,
                validate=lambda whole, take=take: validation_losses(take, TOKENS, whole=whole),
                rate=lambda step: 1e-2,
                write=lambda lane, step, line, first=first: lines.setdefault(first + lane, []).append((step, line)),
                steps=5,
                eval_every=2,
                log_every=3,
            )
        return outcomes, lines

    apart = [
        TrainingStep(m, optimizer(m, torch.float32), batches(lane, m), grad_clip=1.0, dropout_seed=0)
        for lane, m in enumerate(lanes())
    ]
    (outcomes, lines), (expected, lines_apart) = run([stack(lanes())]), run(apart)
    assert [o.val_loss for o in outcomes] == pytest.approx([o.val_loss for o in expected], rel=1e-5)
    for lane in range(3):
        assert [step for step, _ in lines[lane]] == [step for step, _ in lines_apart[lane]]
        for (_, mine), (_, other) in zip(lines[lane], lines_apart[lane], strict=True):
            assert mine.keys() == other.keys()
            measured = [k for k in mine if k.startswith(("loss", "optim"))]
            assert [mine[k] for k in measured] == pytest.approx([other[k] for k in measured], rel=1e-4)


# ---- the optimizer's rows


def test_each_row_of_the_optimizer_is_an_optimizer() -> None:
    models, apart = lanes(), lanes()
    rows, flats = optimizer(models, torch.float32), [optimizer(m, torch.float32) for m in apart]
    for step in range(3):
        for a, b in zip(models, apart, strict=True):
            for model in (a, b):
                model.loss(ids_of(model, seed=step), ids_of(model, seed=step + 9)).backward()
        norms = rows.step(torch.tensor(1e-2), 0.05)
        apart_norms = [flat.step(1e-2, 0.05) for flat in flats]
        torch.testing.assert_close(norms, torch.stack(apart_norms), rtol=1e-6, atol=0)
    torch.testing.assert_close(rows.master, torch.stack([f.master for f in flats]), rtol=0, atol=1e-6)


# ---- which cells go together


@dataclass
class Named:
    arm: str
    seed: int
    folder: RunFolder = RunFolder(Path("nowhere"))  # noqa: RUF009


CELLS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), unique=True)


@given(CELLS, st.fixed_dictionaries({arm: st.integers(1, 4) for arm in "abc"}))
def test_groups_hold_every_cell_once_arm_by_arm_and_are_as_large_as_they_may(
    drawn: list[tuple[str, int]], most: dict[str, int]
) -> None:
    cells = cast(list[Cell], [Named(*each) for each in drawn])
    made = groups(cells, lambda cell: most[cell.arm])
    assert all(len({cell.arm for cell in group}) == 1 for group in made)
    assert all(1 <= len(group) <= most[group[0].arm] for group in made)
    for arm in "abc":
        of_arm = [cell for cell in cells if cell.arm == arm]
        assert [cell for group in made for cell in group if cell.arm == arm] == of_arm
        assert sum(group[0].arm == arm for group in made) == -(-len(of_arm) // most[arm])
    firsts = [cells.index(group[0]) for group in made]
    assert firsts == sorted(firsts)


def test_cells_that_go_on_are_grouped_with_those_at_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, steps = cast(list[Cell], [Named("a", seed) for seed in range(5)]), iter((7, 0, 7, 3, 0))
    monkeypatch.setattr(execute, "saved_step", lambda _: next(steps))
    assert [[cell.seed for cell in group] for group in groups(cells, lambda _: 4)] == [[0, 2], [1, 4], [3]]


def test_groups_of_one_are_the_cells_in_their_order() -> None:
    cells = cast(list[Cell], [Named(arm, seed) for seed in range(2) for arm in "ab"])
    assert groups(cells, lambda _: 1) == [[cell] for cell in cells]


@pytest.mark.parametrize(
    ("free", "of_a_cell", "expected"),
    [(0, 1e6, 1), (10e9, 1e9, 5), (1e9, 3e9, 1), (80e9, 20e6, 16), (3.9e9, 1e9, 1), (4.1e9, 1e9, 2)],
)
def test_half_of_what_is_free_is_filled(free: float, of_a_cell: float, expected: int) -> None:
    assert lanes_in(free, of_a_cell) == expected
