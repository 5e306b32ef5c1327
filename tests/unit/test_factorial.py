"""Screening designs: what their matrices promise, computed from the matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mha_ablate.config.factorial import design, full, levels_of, points_of
from mha_ablate.stats.screen import aliases

RUNS = {1: 2, 2: 4, 3: 8, 4: 8, 5: 16, 8: 16, 9: 24, 12: 24, 13: 32, 16: 32, 17: 64, 24: 64}


@pytest.mark.parametrize("k", range(1, 25))
def test_main_effects_are_balanced_and_mixed_with_no_pair(k: int) -> None:
    x = design(k).astype(int)
    runs = len(x)
    assert x.shape == (RUNS.get(k, runs), k)
    assert set(x.ravel().tolist()) == {-1, 1}
    assert not x.sum(axis=0).any(), "every column is balanced"
    assert np.array_equal(x.T @ x, runs * np.eye(k)), "columns are orthogonal"
    for a, b in itertools.combinations(range(k), 2):
        assert not (x.T @ (x[:, a] * x[:, b])).any(), "no factor is correlated with a pair"


@pytest.mark.parametrize("k", [9, 10, 11, 12])
def test_pairs_of_the_24_runs_are_never_the_same(k: int) -> None:
    assert aliases(levels_of([str(i) for i in range(k)])).between == pytest.approx(1 / 3)


def test_every_4_of_12_factors_show_all_combinations() -> None:
    x = design(12)
    for four in itertools.combinations(range(12), 4):
        assert len({tuple(row) for row in x[:, four].tolist()}) == 16


def test_five_factors_have_resolution_5_in_16_runs() -> None:
    found = aliases(levels_of(list("abcde")))
    assert (found.resolution, len(found.classes)) == ("V", 10)


def test_a_full_design_has_every_combination_once() -> None:
    assert full(2).tolist() == [[-1, -1], [1, -1], [-1, 1], [1, 1]]
    assert len({tuple(row) for row in full(5).tolist()}) == 32
    assert full(1).tolist() == [[-1], [1]]


def test_points_are_named_and_carry_the_words_of_their_levels() -> None:
    factors = {"width": (["d=64"], ["d=128", "heads=8"]), "warmup": ([], ["warmup=100"])}
    assert points_of(factors) == {
        "p01": ["d=64"],
        "p02": ["d=128", "heads=8"],
        "p03": ["d=64", "warmup=100"],
        "p04": ["d=128", "heads=8", "warmup=100"],
    }
    assert levels_of(["width", "warmup"])["p02"] == {"width": 1, "warmup": -1}


def test_points_and_levels_agree_and_are_the_same_at_every_call() -> None:
    factors = {f"f{i}": ([f"f{i}=low"], [f"f{i}=high"]) for i in range(12)}
    points = points_of(factors)
    assert list(points) == [f"p{i:02d}" for i in range(1, 25)]
    for point, row in levels_of(list(factors)).items():
        assert points[point] == [f"{name}={'high' if level > 0 else 'low'}" for name, level in row.items()]
    assert points == points_of(factors)


@pytest.mark.parametrize("k", [0, 25])
def test_other_numbers_of_factors_are_refused_in_one_line(k: int) -> None:
    with pytest.raises(ValueError, match=f"takes 1 to 24 factors, not {k}$"):
        design(k)
