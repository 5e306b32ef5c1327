"""Training: the optimizer against torch's, the schedule, the loop, dropout's own stream, validation."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mha_ablate.data.batches import TrainBatches, validation_windows
from mha_ablate.data.tokenizers import Tokens
from mha_ablate.model.fc_out.dense import Dense
from mha_ablate.model.fc_out.none import NoProjection
from mha_ablate.model.gpt import GPT
from mha_ablate.training import evaluate
from mha_ablate.training.evaluate import validation_loss
from mha_ablate.training.loop import Line, Outcome, train
from mha_ablate.training.optimizer import FlatAdamW
from mha_ablate.training.schedule import learning_rate
from mha_ablate.training.step import TrainingStep
from tests.unit.small import adamw, gpt, ids_of

CPU = torch.device("cpu")


# ---- optimizer


class Parts(nn.Module):
    """Two matrices, a cube, two vectors and a scalar, in mixed order."""

    def __init__(self) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        for i, shape in enumerate([(4,), (3, 5), (), (2, 3, 4), (6,), (5, 2)]):
            self.register_parameter(f"p{i}", nn.Parameter(torch.randn(shape, generator=stream)))


def give_gradients(model: nn.Module, step: int, size: float) -> None:
    """The same random gradients for any copy of `model`, through autograd."""
    stream = torch.Generator().manual_seed(100 + step)
    total = torch.zeros(())
    for p in model.parameters():
        total = total + (p * (size * torch.randn(p.shape, generator=stream)).to(p.dtype)).sum().float()
    total.backward()


@pytest.mark.parametrize("clip", [0.0, 0.5, 1e3], ids=["never_clips", "clips", "hardly_clips"])
def test_twenty_steps_are_those_of_torchs_adamw(clip: float) -> None:
    ours, theirs = Parts(), Parts()
    flat = FlatAdamW(ours, dtype=torch.float32, weight_decay=0.3, betas=(0.9, 0.95))
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() >= 2], "weight_decay": 0.3},
        {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1.0, betas=(0.9, 0.95), eps=1e-8)
    for step in range(20):
        lr, size = 0.01 * (1 + step % 3), 10.0 ** (step % 4 - 2)  # gradients on both sides of the clip
        for model in (ours, theirs):
            give_gradients(model, step, size)
        for group in reference.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip or math.inf)
        reference.step()
        reference.zero_grad()
        torch.testing.assert_close(flat.step(lr, clip), norm, rtol=1e-5, atol=0)
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_training_a_model_is_the_same_with_torchs_adamw() -> None:
    ours, theirs = gpt(), gpt()
    flat = adamw(ours)
    groups = [
        {"params": [p for p in theirs.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in theirs.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for step in range(20):
        ids, targets = ids_of(ours, seed=step), ids_of(ours, seed=100 + step)
        ours.loss(ids, targets).backward()
        theirs.loss(ids, targets).backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
        flat.step(1e-3, 1.0)
    for (name, a), (_, b) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_decay_shrinks_matrices_alone(dtype: torch.dtype) -> None:
    model = Parts()
    before = copy.deepcopy(model)
    flat = FlatAdamW(model, dtype=dtype, weight_decay=0.5, betas=(0.9, 0.99))
    flat.step(0.1, 1.0)  # without gradients, decay is all that moves
    flat.release()
    for p, old in zip(model.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(p, old * (0.95 if p.dim() >= 2 else 1.0), rtol=1e-6, atol=0)


def test_gradients_start_at_zero_again_after_every_step() -> None:
    model = Parts()
    flat = adamw(model)
    give_gradients(model, 0, 1.0)
    assert flat.grad.abs().max() > 0
    flat.step(1e-3, 1.0)
    assert (flat.grad == 0).all()
    assert all(p.grad is not None and (p.grad == 0).all() for p in model.parameters())


def test_the_gradients_of_several_backward_passes_add_up() -> None:
    one, two = Parts(), Parts()
    flats = adamw(one), adamw(two)
    give_gradients(one, 0, 2.0)
    for _ in range(2):
        give_gradients(two, 0, 1.0)
    torch.testing.assert_close(flats[0].grad, flats[1].grad)


@pytest.mark.parametrize(
    "model", [nn.Linear(3, 2, bias=False), nn.LayerNorm(3)], ids=["matrices_alone", "vectors_alone"]
)
def test_a_model_with_one_kind_of_parameter_is_no_special_case(model: nn.Module) -> None:
    flat = adamw(model)
    before = flat.master.clone()
    give_gradients(model, 0, 1.0)
    flat.step(0.1, 1.0)
    assert (flat.master != before).all()


def test_optimizing_in_bf16_computes_in_bf16_and_keeps_fp32_masters() -> None:
    model = gpt()
    start = torch.cat([p.detach().flatten() for p in model.parameters()])
    flat = adamw(model, torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert {t.dtype for t in (flat.master, flat.mean, flat.square)} == {torch.float32}
    assert torch.equal(flat.master.sort().values, start.sort().values)  # not rounded, only reordered
    assert model(ids_of(model)).dtype == torch.bfloat16
    assert model.loss(ids_of(model), ids_of(model)).dtype == torch.float32


def test_updates_too_small_for_bf16_add_up_in_the_master() -> None:
    model = nn.Linear(4, 4, bias=False)
    nn.init.ones_(model.weight)
    flat = FlatAdamW(model, dtype=torch.bfloat16, weight_decay=0.0, betas=(0.9, 0.99))
    for step in range(30):  # each moves every weight by lr; bf16 below 1 is spaced by 0.0039
        model.weight.sum().backward()
        flat.step(1e-4, 0.0)
        torch.testing.assert_close(flat.master, torch.full((16,), 1 - 1e-4 * (step + 1)), rtol=0, atol=1e-6)
        assert torch.equal(model.weight.detach().flatten(), flat.master.to(torch.bfloat16))
    assert (model.weight < 1).all()
    first = FlatAdamW(nn.Linear(4, 4, bias=False), dtype=torch.bfloat16, weight_decay=0.0, betas=(0.9, 0.99))
    assert first.working.data_ptr() != first.master.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_release_gives_the_fp32_masters_back(dtype: torch.dtype) -> None:
    model = gpt()
    flat = adamw(model, dtype)
    model.loss(ids_of(model), ids_of(model, seed=1)).backward()
    flat.step(1e-2, 1.0)
    rounded = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat.release()
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32
        assert p.grad is None
        assert torch.equal(p.detach().to(dtype), rounded[name])
    released = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.equal(released.sort().values, flat.master.sort().values)
    assert model(ids_of(model)).dtype == torch.float32


def frozen_model() -> GPT:
    model = gpt()
    for name, p in model.named_parameters():
        p.requires_grad_("fc_out" not in name)
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_frozen_parameter_computes_along_and_never_moves(dtype: torch.dtype) -> None:
    model = frozen_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    flat = adamw(model, dtype)
    for _ in range(2):
        model.loss(ids_of(model), ids_of(model, seed=1)).backward()
        flat.step(1e-2, 1.0)
    for name, p in model.named_parameters():
        moved = not torch.equal(p.detach(), before[name].to(dtype))
        assert moved == ("fc_out" not in name), name


def test_release_gives_a_frozen_parameter_back_as_it_was() -> None:
    model = frozen_model()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    flat = adamw(model, torch.bfloat16)
    flat.step(1e-2, 1.0)
    flat.release()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    for name, p in model.named_parameters():
        assert name not in before or torch.equal(p.detach(), before[name])
    assert model(ids_of(model)).isfinite().all()


# ---- schedule


def test_the_rate_at_points_worked_out_by_hand() -> None:
    rate = partial(learning_rate, steps=110, peak=1.0, final=0.2, warmup=10)
    assert rate(0) == pytest.approx(1 / 11)
    assert rate(9) == pytest.approx(10 / 11)
    assert rate(10) == pytest.approx(1.0)  # the cosine begins at the peak
    assert rate(35) == pytest.approx(0.2 + 0.8 * (1 + math.sqrt(0.5)) / 2)  # a quarter
    assert rate(60) == pytest.approx(0.6)  # half way down
    assert rate(110) == pytest.approx(0.2)
    assert rate(200) == pytest.approx(0.2)


def test_without_warm_up_the_first_rate_is_the_peak() -> None:
    assert learning_rate(0, steps=10, peak=3.0, final=0.0, warmup=0) == pytest.approx(3.0)


def test_a_warm_up_as_long_as_the_run_or_longer_never_comes_down() -> None:
    for warmup in (10, 25):
        rates = [learning_rate(s, steps=10, peak=1.0, final=0.1, warmup=warmup) for s in range(10)]
        assert rates == sorted(rates)
        assert rates[-1] == pytest.approx(10 / (warmup + 1))


@settings(deadline=None, derandomize=True, database=None)
@given(
    steps=st.integers(1, 200),
    warmup=st.integers(0, 250),
    peak=st.floats(1e-6, 10.0),
    share=st.floats(0.0, 1.0),
)
def test_the_rate_climbs_to_the_peak_and_then_falls_to_its_end(
    steps: int, warmup: int, peak: float, share: float
) -> None:
    final, slack = peak * share, 1e-12 * peak
    rates = [learning_rate(s, steps=steps, peak=peak, final=final, warmup=warmup) for s in range(steps + 1)]
    rising, falling = rates[:warmup], rates[warmup:]
    assert all(0 < r < peak for r in rising)
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert all(final - slack <= r <= peak + slack for r in falling)
    assert all(a >= b - slack for a, b in itertools.pairwise(falling))
    if falling and warmup < steps:
        assert falling[0] == pytest.approx(peak)
        assert falling[-1] == pytest.approx(final)


# ---- step


class Fixed:
    """The same windows every step."""

    def __init__(self, ids: Tensor) -> None:
        self.ids, self.batch_size, self.device = ids, len(ids), CPU

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self.ids, (self.ids + 1) % 11


def stepped(rows: int, at_once: int | None, dtype: torch.dtype = torch.float32, **changes: Any) -> tuple[Tensor, ...]:
    """Loss, norm and weights after two steps."""
    model = gpt(**changes)
    optimizer = adamw(model, dtype)
    step = TrainingStep(
        model, optimizer, Fixed(ids_of(model, rows=rows)), grad_clip=1.0, dropout_seed=0, tokens_at_once=at_once
    )
    step(0, 1e-2)
    return *step(1, 1e-2), optimizer.master


@given(st.integers(1, 7), st.integers(1, 70))
def test_micro_batches_make_the_update_of_the_whole_batch(rows: int, at_once: int) -> None:
    whole, parts = stepped(rows, None), stepped(rows, at_once)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-6)


def test_micro_batches_are_summed_in_fp32() -> None:
    """Windows of equal gradient: bf16 would lose the later ones against the sum of the earlier ones."""
    model = gpt()
    optimizer = adamw(model, torch.bfloat16)
    one_row = ids_of(model, rows=1)
    step = TrainingStep(
        model, optimizer, Fixed(one_row.expand(300, -1)), grad_clip=0.0, dropout_seed=0, tokens_at_once=8
    )
    _, many = step(0, 0.0)
    _, once = TrainingStep(model, optimizer, Fixed(one_row), grad_clip=0.0, dropout_seed=0, tokens_at_once=None)(1, 0.0)
    # 1/300 of the loss is no power of two: each part is rounded, their sum is not.
    assert many.item() == pytest.approx(once.item(), rel=0.02)


def test_a_batch_that_fits_is_not_cut() -> None:
    assert all(torch.equal(a, b) for a, b in zip(stepped(4, None), stepped(4, 32), strict=True))
    seen: list[int] = []
    model = gpt()

    def loss(ids: Tensor, targets: Tensor) -> Tensor:
        seen.append(len(ids))
        return model.loss(ids, targets)

    for at_once in (32, 31, 8, 1):
        step = TrainingStep(
            model,
            adamw(model, torch.float32),
            Fixed(ids_of(model, rows=4)),
            grad_clip=1.0,
            dropout_seed=0,
            tokens_at_once=at_once,
            loss=loss,
        )
        step(0, 1e-3)
    assert seen == [4, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1]


# ---- loop


def periodic_tokens(n: int = 400, period: int = 8) -> Tokens:
    return np.arange(n, dtype=np.uint16) % period


def random_tokens(n: int = 400, vocab: int = 11) -> Tokens:
    return np.random.default_rng(0).integers(0, vocab, n).astype(np.uint16)


class Run:
    """One call of `train` on a small model, and what it wrote."""

    def __init__(
        self,
        model: GPT,
        *,
        tokens: Tokens | None = None,
        validate: Callable[[], float] = lambda: 1.0,
        dtype: torch.dtype = torch.float32,
        lr: float = 1e-3,
        dropout_seed: int = 0,
        **settings: Any,
    ) -> None:
        self.model, self.lines, self.asked = model, [], []
        self.optimizer = adamw(model, dtype)
        cadence: dict[str, Any] = {"steps": 6, "eval_every": 3, "log_every": 2} | settings
        grad_clip = cadence.pop("grad_clip", 1.0)
        tokens = random_tokens() if tokens is None else tokens
        batches = TrainBatches(tokens, batch_size=4, context=model.context, data_seed=0, device=CPU)

        def rate(step: int) -> float:
            self.asked.append(step)
            return lr

        [self.outcome] = train(
            TrainingStep(model, self.optimizer, batches, grad_clip=grad_clip, dropout_seed=dropout_seed),
            validate=lambda whole: [validate()],
            rate=rate,
            write=lambda lane, step, line: self.lines.append((step, line)),
            **cadence,
        )

    outcome: Outcome
    lines: list[tuple[int, Line]]
    asked: list[int]

    def steps_with(self, key: str) -> list[int]:
        return [step for step, line in self.lines if key in line]

    def values(self, key: str) -> list[float]:
        return [line[key] for _, line in self.lines if key in line]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_run_repeated_is_the_same_to_the_last_bit(dtype: torch.dtype) -> None:
    one = Run(gpt(dropout=0.2), dtype=dtype)
    torch.manual_seed(99)
    two = Run(gpt(dropout=0.2), dtype=dtype)
    assert torch.equal(one.optimizer.master, two.optimizer.master)
    for key in ("loss/train", "optim/grad_norm", "optim/lr"):
        assert one.values(key) == two.values(key)
        assert len(one.values(key)) == 3
    start = adamw(gpt(dropout=0.2), dtype)
    assert not torch.equal(one.optimizer.master, start.master)


@pytest.mark.parametrize(
    ("steps", "eval_every", "expected"),
    [(7, 3, [3, 6, 7]), (6, 3, [3, 6]), (5, 100, [5]), (3, 1, [1, 2, 3]), (1, 1, [1])],
)
def test_validation_comes_at_multiples_of_eval_every_and_at_the_last_step(
    steps: int, eval_every: int, expected: list[int]
) -> None:
    run = Run(gpt(), steps=steps, eval_every=eval_every)
    assert run.steps_with("loss/val") == expected
    assert run.outcome == Outcome("ok", steps, 1.0)
    assert sorted(set(run.asked)) == list(range(steps))


@pytest.mark.parametrize(("steps", "log_every", "expected"), [(7, 3, [3, 6, 7]), (6, 2, [2, 4, 6]), (3, 50, [3])])
def test_the_training_loss_is_written_every_log_every_steps_and_at_the_last(
    steps: int, log_every: int, expected: list[int]
) -> None:
    run = Run(gpt(), steps=steps, log_every=log_every)
    assert run.steps_with("loss/train") == expected
    line = next(line for _, line in run.lines if "loss/train" in line)
    assert line.keys() == {"loss/train", "optim/lr", "optim/grad_norm", "perf/step_ms", "perf/tokens_per_s", "train_s"}


def test_the_training_loss_is_the_mean_since_the_last_line() -> None:
    every, third = (Run(gpt(), steps=7, log_every=n).values("loss/train") for n in (1, 3))
    assert len(every) == 7
    expected = [sum(every[:3]) / 3, sum(every[3:6]) / 3, every[6]]
    assert third == pytest.approx(expected, rel=1e-6)


def test_the_outcome_carries_the_last_validation_loss() -> None:
    losses = iter([3.0, 2.0, 1.5])
    run = Run(gpt(), steps=7, eval_every=3, validate=lambda: next(losses))
    assert run.outcome == Outcome("ok", 7, 1.5)
    assert run.values("loss/val") == [3.0, 2.0, 1.5]


def test_validation_sees_the_weights_of_that_step_and_changes_nothing_about_training() -> None:
    seen: list[Tensor] = []
    model = gpt(dropout=0.2)

    def look() -> float:
        seen.append(model.tokens.weight.detach().clone())
        torch.rand(7)  # validation may use up randomness; training must not notice
        return 1.0

    watched = Run(model, eval_every=1, validate=look)
    plain = Run(gpt(dropout=0.2), eval_every=100)
    assert torch.equal(watched.optimizer.master, plain.optimizer.master)
    assert len({w.sum().item() for w in seen}) == 6
    assert torch.equal(seen[-1], model.tokens.weight)


def test_the_model_trains_in_training_mode() -> None:
    model = gpt().eval()
    Run(model, steps=1)
    assert model.training


def test_a_training_loss_that_is_not_finite_ends_the_run_as_diverged() -> None:
    model = gpt()
    with torch.no_grad():
        model.tokens.weight[3] = math.nan
    run = Run(model, steps=6, log_every=2, eval_every=100)
    assert (run.outcome.state, run.outcome.step) == ("diverged", 2)
    assert run.steps_with("loss/train") == [2]
    assert math.isnan(run.outcome.val_loss)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_validation_loss_that_is_not_finite_ends_the_run_as_diverged(bad: float) -> None:
    losses = iter([2.0, bad, 1.0])
    run = Run(gpt(), steps=6, eval_every=2, validate=lambda: next(losses))
    assert (run.outcome.state, run.outcome.step) == ("diverged", 4)
    assert run.values("loss/val")[0] == 2.0
    assert run.steps_with("loss/val") == [2, 4]
    assert max(run.asked) == 3


def test_a_rate_that_is_far_too_high_diverges_and_says_so() -> None:
    model = gpt(block="post")
    run = Run(model, lr=1e30, steps=20, log_every=1, eval_every=100)
    assert run.outcome.state == "diverged"
    assert math.isnan(run.outcome.val_loss)
    assert run.outcome.step < 20


@pytest.mark.parametrize("make", [Dense, NoProjection])
def test_a_text_that_repeats_is_learnt(make: Any) -> None:
    tokens = periodic_tokens()
    model = gpt(make, vocab_size=8)
    first = validation_loss(model, tokens[:100], device=CPU)
    assert first == pytest.approx(math.log(8), abs=0.1)
    run = Run(
        model,
        tokens=tokens,
        validate=lambda: validation_loss(model, tokens[:100], device=CPU),
        steps=60,
        lr=1e-2,
        eval_every=60,
    )
    assert run.outcome.val_loss < 0.2 * math.log(8)


# ---- dropout's own stream


def masks_of(monkeypatch: pytest.MonkeyPatch, model: GPT, **settings: Any) -> list[Tensor]:
    """Which entries dropout let through, for each call, in order."""
    kept: list[Tensor] = []
    plain = torch.nn.functional.dropout

    def spy(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        mask = plain(torch.ones_like(x), p, training)
        kept.append(mask.detach() != 0)
        return x * mask

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.functional, "dropout", spy)
        Run(model, **settings)
    return kept


CALLS = 1 + 2 * 3  # the embedding; per layer attention weights and two branches


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_two_arms_drop_the_same_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    dense = masks_of(monkeypatch, gpt(Dense, dropout=0.3), steps=3)
    torch.manual_seed(2)
    none = masks_of(monkeypatch, gpt(NoProjection, dropout=0.3, d_ff=40), steps=3, eval_every=1)
    assert len(dense) == 3 * CALLS
    assert equal(dense, none)


def test_what_is_dropped_depends_on_seed_and_step_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    one = masks_of(monkeypatch, gpt(dropout=0.3), steps=3, dropout_seed=1)
    longer = masks_of(monkeypatch, gpt(dropout=0.3, init_seed=5), steps=4, dropout_seed=1, tokens=periodic_tokens())
    other = masks_of(monkeypatch, gpt(dropout=0.3), steps=3, dropout_seed=2)
    assert equal(one, longer[: 3 * CALLS])
    steps = [one[i : i + CALLS] for i in range(0, len(one), CALLS)]
    assert not any(equal(a, b) for i, a in enumerate(steps) for b in steps[:i])
    assert not any(equal(a, other[i * CALLS : (i + 1) * CALLS]) for i, a in enumerate(steps))


# ---- validation


def naive_validation_loss(model: GPT, tokens: Tokens) -> float:
    """Window by window, token by token."""
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, model.context):
        window = [int(t) for t in tokens[start : start + model.context + 1]]
        with torch.no_grad():
            logits = model(torch.tensor([window[:-1]]))[0].double()
        for position, target in enumerate(window[1:]):
            total -= torch.log_softmax(logits[position], dim=0)[target].item()
            count += 1
    assert count == len(tokens) - 1
    return total / count


@pytest.mark.parametrize("n", [9, 10, 41, 44, 48])
def test_validation_loss_is_that_of_a_naive_loop_over_all_windows(n: int) -> None:
    model = gpt().eval()
    with torch.no_grad():
        model.tokens.weight.mul_(50)  # so that windows differ
    tokens = random_tokens(n)
    assert validation_loss(model, tokens, device=CPU) == pytest.approx(naive_validation_loss(model, tokens), rel=1e-6)


def test_validation_loss_does_not_depend_on_batching(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = gpt(), random_tokens(100)
    with torch.no_grad():
        model.tokens.weight.mul_(50)
    found = []
    for tokens_per_batch in (1, 8, 24, 4096):
        batched = partial(validation_windows, tokens_per_batch=tokens_per_batch)
        monkeypatch.setattr(evaluate, "validation_windows", batched)
        found.append(validation_loss(model, tokens, device=CPU))
    assert found == pytest.approx([found[0]] * 4, rel=1e-6)


def test_validation_switches_dropout_off_and_the_models_mode_back() -> None:
    model, tokens = gpt(dropout=0.5), random_tokens(50)
    expected = naive_validation_loss(gpt().eval(), tokens)
    for training in (True, False):
        model.train(training)
        assert validation_loss(model, tokens, device=CPU) == pytest.approx(expected, rel=1e-6)
        assert model.training == training


def test_validation_builds_no_graph_and_leaves_gradients_alone() -> None:
    model = gpt()
    optimizer = adamw(model)
    model.loss(ids_of(model), ids_of(model, seed=1)).backward()
    before = optimizer.grad.clone()
    validation_loss(model, random_tokens(50), device=CPU)
    assert torch.equal(optimizer.grad, before)
    assert before.abs().max() > 0
