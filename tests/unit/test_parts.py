"""Studies of several parts: which arms and seeds each has, and what a grid of learning rates says."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mha_ablate.config.compose import compose
from mha_ablate.config.schema import StudyConfig, TuneConfig
from mha_ablate.errors import RequestError, RunFailed
from mha_ablate.study.collect import collect
from mha_ablate.study.parts import (
    Part,
    Tuning,
    at_best,
    check_tuning,
    on_grid,
    points_of,
    rates_to_begin_with,
    tuning_of,
)
from tests.synthetic import write_study

TUNE = TuneConfig([1e-3, 3e-3, 9e-3], [100, 101], 2, shared=True)


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    return compose(["study=lr_fair"]).config.study


def test_points_lie_below_the_study_and_stages_below_points() -> None:
    heads = compose(["study=heads"]).config.study
    assert [part.below for part in points_of(heads)] == ["n_heads=1", "n_heads=2", "n_heads=4", "n_heads=8"]
    assert Part("n_heads=2", (), "grid").below == "n_heads=2/grid"
    assert points_of(replace(heads, points=None)) == [Part()]
    assert Part().below == ""


@pytest.mark.parametrize("name", ["grid", "shared", "tuned"])
def test_a_point_is_not_named_like_a_stage(study: StudyConfig, name: str) -> None:
    with pytest.raises(ValueError, match=f"study.points: {name} is the name of a folder that tuning makes"):
        replace(study, points={name: ["model.n_heads=2"]})


def test_points_are_overrides_or_names_with_theirs() -> None:
    words = compose(["study=widths"]).config.study.point_words
    assert words["d_model=64"] == ["model.d_model=64", "model.n_heads=2"]
    listed = compose(["study.points=[data=tiny_shakespeare, +model.n_heads=2]"]).config.study.point_words
    assert listed == {"data=tiny_shakespeare": ["data=tiny_shakespeare"], "n_heads=2": ["+model.n_heads=2"]}
    named = compose(["study.points={old: [init=gpt2, model.tied_embedding=true], now: []}"]).config.study.point_words
    assert named == {"old": ["init=gpt2", "model.tied_embedding=true"], "now": []}
    mixed = compose(["study.points={zero: [init=zero_out, 'study.arms=[dense,none]'], now: [init=gpt2]}"]).config.study
    assert mixed.point_words == {"zero": ["init=zero_out", "study.arms=[dense,none]"], "now": ["init=gpt2"]}


def test_a_grid_has_every_arm_at_every_rate_on_the_tuning_seeds(study: StudyConfig) -> None:
    grid = on_grid(study, [1e-3, 3e-3], 2e-3)
    assert list(grid.arms)[:3] == ["dense_lr0.001", "dense_lr0.003", "none_lr0.001"]
    assert grid.arms["none_scaled_lr0.003"] == [*study.arms["none_scaled"], "optim.lr=0.003"]
    assert (grid.seed_list, grid.baseline) == ([100, 101], "dense_lr0.003")
    assert (grid.waterfall, grid.copies) == ({}, {})


def test_a_matched_arm_is_matched_at_its_own_rate(study: StudyConfig) -> None:
    arms = {**study.arms, "wide": ["fc_out=none", "match=params", "match_to=per_head"]}
    grid = on_grid(replace(study, arms=arms, pick=["dense", "per_head", "wide"]), [1e-3], 1e-3)
    assert grid.arms["wide_lr0.001"][-2:] == ["match_to=per_head_lr0.001", "optim.lr=0.001"]


def test_tuned_arms_keep_their_names(study: StudyConfig) -> None:
    tuned = at_best(study, {"none": 6e-3})
    assert tuned.arms["none"] == [*study.arms["none"], "optim.lr=0.006"]
    assert tuned.arms["dense"] == study.arms["dense"]
    assert tuned.waterfall == study.waterfall


def test_tuning_seeds_are_no_test_seeds_and_arms_leave_the_rate_alone(study: StudyConfig) -> None:
    check_tuning(study)
    with pytest.raises(RequestError, match=r"study\.tune\.seeds has 3"):
        check_tuning(replace(study, tune=replace(TUNE, seeds=[3])))
    with pytest.raises(RequestError, match=r"arm none sets optim\.lr"):
        check_tuning(replace(study, arms={**study.arms, "none": ["fc_out=none", "optim.lr=1e-3"]}))
    with pytest.raises(RequestError, match=r"arm none sets optim\.lr"):
        check_tuning(replace(study, arms={**study.arms, "none": ["fc_out=none", "++optim.lr=1e-3"]}))


def test_a_setting_that_tuning_would_replace_is_no_point_and_no_factor(study: StudyConfig) -> None:
    check_tuning(replace(study, points=["optim.beta1=0.8"]))
    with pytest.raises(RequestError, match=r"study\.points: fast sets optim\.lr, .* the point would change nothing"):
        check_tuning(replace(study, points={"fast": ["model.n_heads=2", "optim.lr=1e-2"]}))
    factors = {"heads": ["model.n_heads=1", "model.n_heads=2"], "rate": ["optim.lr=1e-3", "optim.lr=1e-2"]}
    with pytest.raises(
        RequestError, match=r"study\.factors\.rate sets .* give study\.factors=\[heads\], or study\.tune"
    ):
        check_tuning(replace(study, points=None, factors=factors))
    check_tuning(replace(study, points=None, factors=factors, tune=None))


@pytest.mark.parametrize(
    ("rates", "seeds", "widen", "said"),
    [
        ([1e-3, 2e-3], [1], 1, "three rates"),
        ([1e-3, 2e-3, 0.0], [1], 1, "above 0"),
        ([1e-3, 3e-3, 2e-3], [1], 1, "go up"),
        ([1e-3, 2e-3, 3e-3], [], 1, "distinct seeds"),
        ([1e-3, 2e-3, 3e-3], [1, 1], 1, "distinct seeds"),
        ([1e-3, 2e-3, 3e-3], [1], -1, "widen"),
    ],
)
def test_a_bad_grid_is_refused(rates: list[float], seeds: list[int], widen: int, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        TuneConfig(rates, seeds, widen, shared=True)


def test_the_best_rate_the_widest_stable_one_and_the_sensitivity() -> None:
    found = Tuning({"a": {1e-3: 2.3, 3e-3: 2.0, 9e-3: 2.05}, "b": {1e-3: 2.2, 3e-3: 2.1, 9e-3: math.inf}})
    assert found.best == {"a": 3e-3, "b": 3e-3}
    assert found.at_edge == []
    assert found.widest_stable == {"a": 9e-3, "b": 3e-3}
    # a: (0.3 + 0 + 0.05) / 3; b: (0.1 + 0 + at most 1) / 3
    assert found.sensitivity == pytest.approx({"a": 0.35 / 3, "b": 1.1 / 3})


def test_an_arm_is_at_the_edge_of_its_own_rates() -> None:
    found = Tuning({"a": {1e-3: 2.3, 3e-3: 2.0}, "b": {1e-3: 2.2, 3e-3: 2.0, 9e-3: 2.1}})
    assert found.at_edge == ["a"]


def test_arms_of_an_earlier_request_do_not_widen_the_grid() -> None:
    found = Tuning({"a": {1e-3: 2.3, 3e-3: 2.0, 9e-3: 2.1}, "gone": {1e-3: 2.0, 3e-3: 2.1, 9e-3: 2.2}})
    assert found.wider(TUNE) != found.rates
    assert found.only(["a"]).wider(TUNE) == found.rates


def test_an_arm_that_diverges_everywhere_has_no_best_rate() -> None:
    with pytest.raises(RunFailed, match="diverged at every rate"):
        _ = Tuning({"a": {1e-3: math.inf, 3e-3: math.inf}}).best


def test_a_grid_is_widened_by_its_ratio_for_all_arms_and_not_for_ever() -> None:
    low = Tuning({"a": {1e-3: 2.0, 3e-3: 2.1, 9e-3: 2.2}, "b": {1e-3: 2.2, 3e-3: 2.1, 9e-3: 2.0}})
    assert low.at_edge == ["a", "b"]
    assert low.wider(TUNE) == pytest.approx([1e-3 / 3, 1e-3, 3e-3, 9e-3, 27e-3], rel=1e-3)
    assert low.wider(replace(TUNE, widen=0)) == low.rates
    widened = Tuning({"a": {3e-4: 2.0, 1e-3: 2.1, 3e-3: 2.2, 9e-3: 2.3}})
    assert widened.wider(replace(TUNE, widen=1)) == widened.rates
    assert len(widened.wider(TUNE)) == 5


@given(st.lists(st.floats(1.0, 5.0), min_size=5, max_size=5), st.integers(0, 3))
def test_widening_ends_and_keeps_what_there_is(losses: list[float], widen: int) -> None:
    tune = TuneConfig([1e-3, 2e-3, 4e-3, 8e-3, 16e-3], [1], widen, shared=True)
    curve = dict(zip(tune.rates, losses, strict=True))
    for _ in range(2 * widen + 1):
        rates = Tuning({"a": curve}).wider(tune)
        assert set(curve) <= set(rates)
        added = set(rates) - set(curve)
        curve |= {rate: min(curve.values()) - 1e-3 for rate in added}
        if not added:
            break
    assert Tuning({"a": curve}).wider(tune) == sorted(curve)


def grid_folder(path: Path, losses: dict[str, dict[float, list[float | None]]]) -> Path:
    """A grid as training would have left it."""
    arms = [f"{arm}_lr{rate:g}" for arm, curve in losses.items() for rate in curve]
    write_study(path, arms=arms, seeds=2, evaluations=1)
    for arm, curve in losses.items():
        for rate, values in curve.items():
            for seed, value in enumerate(values):
                folder = path / f"{arm}_lr{rate:g}" / f"seed={seed}"
                run = json.loads((folder / "run.json").read_text())
                run |= {"arm": f"{arm}_lr{rate:g}", "arm_hash": f"{arm}{rate}"}
                run["state"] = "diverged" if value is None else "ok"
                run["result"]["val_loss"] = value
                (folder / "run.json").write_text(json.dumps(run))
                config = (folder / "config.yaml").read_text().replace("lr: 0.003", f"lr: {rate}")
                (folder / "config.yaml").write_text(config)
    return path


def test_a_tuning_is_read_from_runs(tmp_path: Path) -> None:
    path = grid_folder(tmp_path / "grid", {"a": {1e-3: [2.0, 2.2], 3e-3: [2.0, 2.0], 9e-3: [2.1, None]}})
    found = tuning_of(collect(path))
    assert found.losses == {"a": {1e-3: pytest.approx(2.1), 3e-3: pytest.approx(2.0), 9e-3: math.inf}}
    assert (found.best, found.seeds) == ({"a": 3e-3}, [0, 1])
    assert rates_to_begin_with(TuneConfig([1e-3, 3e-3, 6e-3], [0, 1], 2, shared=True), collect(path), ["a"]) == [
        1e-3,
        3e-3,
        6e-3,
        9e-3,
    ]
    assert rates_to_begin_with(TuneConfig([1e-3, 3e-3, 6e-3], [0, 1], 2, shared=True), collect(path), ["other"]) == [
        1e-3,
        3e-3,
        6e-3,
    ]


def test_seeds_of_an_earlier_request_are_not_asked_of_other_arms(tmp_path: Path) -> None:
    path = grid_folder(tmp_path / "grid", {"gone": {1e-3: [2.0, 2.2]}, "a": {1e-3: [2.0, 2.2], 3e-3: [1.0, 2.0]}})
    plan = json.loads((path / "plan.json").read_text())
    cells = {name: "" for name in plan["cells"] if name.startswith("gone") or name.endswith("=1")}
    (path / "plan.json").write_text(json.dumps(plan | {"cells": cells}))
    for rate in ("0.001", "0.003"):
        (path / f"a_lr{rate}/seed=0/run.json").unlink()
    assert tuning_of(collect(path)).only(["a"]).losses == {"a": {1e-3: 2.2, 3e-3: 2.0}}
    (path / "a_lr0.003/seed=1/run.json").unlink()
    assert tuning_of(collect(path)).only(["a"]).losses == {"a": {1e-3: 2.2}}


def test_a_rate_with_an_unfinished_seed_does_not_count(tmp_path: Path) -> None:
    path = grid_folder(tmp_path / "grid", {"a": {1e-3: [1.0, 1.0], 3e-3: [2.0, 2.0], 9e-3: [2.1, 2.1]}})
    (path / "a_lr0.001/seed=1/run.json").unlink()
    assert tuning_of(collect(path)).best == {"a": 3e-3}


def test_an_arm_whose_cells_all_failed_is_not_tuned(tmp_path: Path) -> None:
    rates: dict[float, list[float | None]] = {1e-3: [1.0, 1.0], 3e-3: [2.0, 2.0]}
    path = grid_folder(tmp_path / "grid", {"a": rates, "b": dict(rates)})
    for file in path.glob("b_lr*/seed=0/run.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"state": "failed", "error": "boom", "result": None}))
    found = tuning_of(collect(path))
    assert found.untuned(["a", "b", "c"]) == ["b", "c"]
    assert found.untuned(["a"]) == []
