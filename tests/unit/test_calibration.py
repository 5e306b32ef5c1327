"""The simulation behind docs/statistics.md: its rule is the one that decides, and its samples are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest

from mha_ablate.stats import sample
from mha_ablate.stats.paired import paired
from mha_ablate.stats.verdict import decide
from scripts.calibration import simulate
from scripts.calibration.rule import WORDS, holm, words


@pytest.mark.parametrize("n", [2, 3, 5, 8])
@pytest.mark.parametrize("margin", [0.0, 0.4, 2.0])
def test_the_rule_on_many_studies_is_the_rule_on_each(n: int, margin: float) -> None:
    rng = np.random.default_rng(n)
    d_SAN = rng.normal(rng.choice([0.0, 0.5, -2.0], (60, 4, 1)), 0.5, (60, 4, n))
    d_SAN[0, :2] = d_SAN[0, 2:]  # equal p values
    d_SAN[1, 0], d_SAN[1, 1], d_SAN[1, 2] = 0.0, 0.3, -3.0  # no spread
    found = words(d_SAN, margin)
    baseline = dict.fromkeys(range(n), 0.0)
    for study, row in zip(d_SAN, found, strict=True):
        contrasts = {str(arm): paired(dict(enumerate(d.tolist())), baseline) for arm, d in enumerate(study)}
        decided = decide(contrasts, margin=margin, incomplete={})
        assert [verdict.word for verdict in decided.values()] == row.tolist()
    if n == 5 and margin == 0.4:
        assert set(found.ravel().tolist()) == set(WORDS)


def test_holm_of_rows_is_holm_of_each() -> None:
    p_SA = np.random.default_rng(0).uniform(0.0, 0.4, (200, 5)).round(2)
    for row, adjusted in zip(p_SA, holm(p_SA), strict=True):
        one = sample.holm({str(arm): p for arm, p in enumerate(row)})
        assert [one[str(arm)] for arm in range(5)] == pytest.approx(adjusted.tolist())


@pytest.mark.parametrize("shape", simulate.SHAPES, ids=lambda shape: shape.name)
def test_differences_are_as_they_are_said_to_be(shape: simulate.Shape) -> None:
    drawn = shape.draw(np.random.default_rng(0), (400_000,))
    assert drawn.mean() == pytest.approx(0.0, abs=0.01)
    assert drawn.std() == pytest.approx(1.0, abs=0.05)
    assert (drawn > 0).mean() == pytest.approx(shape.above, abs=0.005)
    d_SAN = simulate.studies(shape, 8, 40_000)
    assert d_SAN.std() == pytest.approx(1.0, abs=0.05)
    assert np.corrcoef(d_SAN[:, 0].ravel(), d_SAN[:, 3].ravel())[0, 1] == pytest.approx(0.5, abs=0.03)


def test_normal_differences_get_what_is_promised() -> None:
    normal = simulate.SHAPES[0]
    alone = simulate.one_contrast(normal, 8, 4000, 500)
    assert alone["t"] == pytest.approx(0.05, abs=0.012)
    assert alone["t95"] == pytest.approx(1 - alone["t"])
    assert alone["t90"] == pytest.approx(0.90, abs=0.017)
    assert alone["upper"] == pytest.approx(0.80, abs=0.022)
    assert alone["worse"] >= 0.95
    assert alone["sign flip"] <= 0.06
    assert alone["bca95"] < 0.93, "it falls short with so few seeds, and the simulation can tell"
    study = simulate.decisions(normal, 8, 4000)
    assert study["family"] <= 0.06
    assert study["beside"] <= 0.06
    assert study["at +margin"] == pytest.approx(0.05, abs=0.012)
    effect = simulate.known_effect(normal, 8, 4000)
    assert effect["t, costs"] == pytest.approx(effect["promised"], abs=0.022)
    assert effect["t, helps"] == pytest.approx(effect["promised"], abs=0.022)


def test_the_upper_limit_of_a_pilot_keeps_its_promise() -> None:
    found = simulate.planned(3, 1.0, 1000)
    assert found["enough"] == 10
    assert found["upper"] >= 0.77
    assert found["s"] < 0.5, "and its s alone does not"
