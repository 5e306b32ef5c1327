"""Which tokens a step sees, and that validation sees each once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mha_ablate.data.batches import TOKENS_OF_A_SAMPLE, TrainBatches, sample_stride, validation_windows

CPU = torch.device("cpu")


def batches(length: int = 500, **changed: Any) -> TrainBatches:
    """Batches over tokens that say where they stand."""
    settings: dict[str, Any] = {"batch_size": 8, "context": 5, "data_seed": 3, "device": CPU} | changed
    return TrainBatches(np.arange(length, dtype=np.uint16), **settings)


def ids(made: TrainBatches, step: int) -> list[list[int]]:
    return made.batch(step)[0].tolist()


def test_a_batch_is_the_same_in_every_instance_and_order() -> None:
    forwards = {step: ids(batches(), step) for step in range(20)}
    made = batches()
    order = list(range(20))
    random.Random(0).shuffle(order)
    assert {step: ids(made, step) for step in order} == forwards
    assert ids(made, 7) == ids(made, 7)


def test_a_batch_owes_nothing_to_the_global_generators() -> None:
    expected = ids(batches(), 4)

    def draws(between: Callable[[], object]) -> tuple[float, float, float]:
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
        between()
        return float(torch.rand(())), float(np.random.random()), random.random()

    def look() -> None:
        assert ids(batches(), 4) == expected

    assert draws(look) == draws(lambda: None), "nor do they to it"


def test_another_step_or_seed_gives_another_batch() -> None:
    seen = [tuple(map(tuple, ids(batches(data_seed=seed), step))) for seed in range(5) for step in range(5)]
    assert len(set(seen)) == 25


def test_seed_and_step_do_not_stand_for_each_other() -> None:
    assert ids(batches(data_seed=1), 2) != ids(batches(data_seed=2), 1)
    assert ids(batches(data_seed=1), 1) != ids(batches(data_seed=2), 0)


@pytest.mark.parametrize("seed", [0, 2**31 - 1])
def test_the_largest_seed_and_a_late_step_are_fine(seed: int) -> None:
    assert ids(batches(data_seed=seed), 10**9) == ids(batches(data_seed=seed), 10**9)


def test_targets_are_the_ids_one_further_on() -> None:
    x, y = batches(batch_size=4, context=6).batch(0)
    assert x.shape == y.shape == (4, 6)
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(y, x + 1)
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert torch.equal(x - x[:, :1], torch.arange(6).expand(4, 6)), "a window is of neighbours"


def test_every_start_is_reached_and_none_beyond() -> None:
    made = batches(length=12, batch_size=64, context=3)
    starts = {row[0] for step in range(10) for row in ids(made, step)}
    assert starts == set(range(9))


def test_a_text_of_one_window_is_enough() -> None:
    x, y = batches(length=6, batch_size=3, context=5).batch(0)
    assert x.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert y.tolist() == [[1, 2, 3, 4, 5]] * 3


def test_starts_are_spread_evenly() -> None:
    made = batches(length=104, batch_size=1000, context=4)
    counts = np.bincount([row[0] for step in range(10) for row in ids(made, step)], minlength=100)
    assert len(counts) == 100
    assert counts.min() > 50
    assert counts.max() < 150


@given(st.integers(2, 300), st.integers(1, 40), st.integers(1, 200))
def test_validation_covers_every_token_but_the_first_once(length: int, context: int, tokens_per_batch: int) -> None:
    tokens = np.arange(length, dtype=np.uint16)
    pieces = list(validation_windows(tokens, context=context, device=CPU, tokens_per_batch=tokens_per_batch))
    targets = torch.cat([y.flatten() for _, y in pieces])
    assert targets.tolist() == list(range(1, length))
    for x, y in pieces:
        assert x.shape == y.shape
        assert x.dtype == y.dtype == torch.int64
        assert torch.equal(y, x + 1)
        assert torch.equal(x - x[:, :1], torch.arange(x.shape[1]).expand(x.shape)), "a window is of neighbours"
    full, rest = divmod(length - 1, context)
    widths = [x.shape[1] for x, _ in pieces for _ in range(x.shape[0])]
    assert widths == [context] * full + [rest] * (rest > 0)
    assert all(x.shape[0] <= max(1, tokens_per_batch // context) for x, _ in pieces)


def test_validation_by_example() -> None:
    tokens = np.arange(10, 21, dtype=np.uint8)
    pieces = [
        (x.tolist(), y.tolist()) for x, y in validation_windows(tokens, context=4, device=CPU, tokens_per_batch=4)
    ]
    assert pieces == [
        ([[10, 11, 12, 13]], [[11, 12, 13, 14]]),
        ([[14, 15, 16, 17]], [[15, 16, 17, 18]]),
        ([[18, 19]], [[19, 20]]),
    ]


def test_validation_batches_are_large_by_default() -> None:
    shapes = [tuple(x.shape) for x, _ in validation_windows(np.zeros(20_000, np.uint8), context=64, device=CPU)]
    assert shapes == [(64, 64)] * 4 + [(56, 64), (1, 31)]


@given(st.integers(2, 60_000), st.integers(1, 300))
def test_a_sample_is_every_so_many_windows_of_the_split(length: int, context: int) -> None:
    tokens = np.arange(length, dtype=np.uint32)
    stride = sample_stride(tokens, context)
    whole = list(validation_windows(tokens, context=context, device=CPU))
    pieces = list(validation_windows(tokens, context=context, device=CPU, stride=stride))
    if stride == 1:
        assert [x.tolist() for x, _ in pieces] == [x.tolist() for x, _ in whole]
        return
    every = [window for x, _ in whole for window in x.tolist() if len(window) == context]
    assert [window for x, _ in pieces for window in x.tolist()] == every[::stride]
    assert all(torch.equal(y, x + 1) for x, y in pieces)
    size = sum(y.numel() for _, y in pieces)
    assert TOKENS_OF_A_SAMPLE - context < size <= 2 * TOKENS_OF_A_SAMPLE + context


def test_a_long_split_is_looked_at_in_part_and_a_short_one_whole() -> None:
    assert sample_stride(np.zeros(100_000, np.uint8), 64) == 24
    assert sample_stride(np.zeros(4097, np.uint8), 64) == 1
    assert sample_stride(np.zeros(10, np.uint8), 64) == 1
