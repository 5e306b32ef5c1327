"""From run folders written by hand to the report: numbers, words, tables, page and figures."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib.text import Text
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mha_ablate.errors import RequestError
from mha_ablate.report import write as write_module
from mha_ablate.report.assemble import assemble
from mha_ablate.report.figures import figures
from mha_ablate.report.page import page
from mha_ablate.report.plots import as_png, as_svg
from mha_ablate.report.tables import COLUMNS, bits_line, bits_text, delta_text, markdown, rows, si, wide
from mha_ablate.report.write import write_report
from mha_ablate.study.collect import collect

TEXT = {
    "name": "t.txt",
    "sha256": "ab" * 32,
    "characters": 1000,
    "split": "blocks",
    "train_tokens": 900,
    "val_tokens": 100,
    "vocab_size": 50,
    "tokenizer": "char",
    "tokenizer_sha256": "cd" * 32,
}
PARAMS = {"dense": (1000, 400, 100), "none": (900, 300, 0)}  # in all, of attention, of fc_out
T95 = {2: 12.706205, 3: 4.302653, 4: 3.182446, 8: 2.364624}  # t(0.975, n - 1)


class Folder:
    """A study folder, written file by file as a study would leave it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        arm: str,
        seed: int,
        loss: float | None,
        *,
        state: str = "ok",
        below: str = "",
        curve: dict[int, float] | None = None,
        lr: float = 0.004,
        **about: Any,
    ) -> Path:
        """One run that ended at `loss`; with None it never got to a result."""
        folder = self.path / below / (arm if arm.isalnum() else "odd") / f"seed={seed}"
        folder.mkdir(parents=True)
        params, attention, fc_out = PARAMS.get(arm, (950, 350, 50))
        run = {
            "state": state,
            "error": None,
            "arm": arm,
            "seed": seed,
            "overrides": [f"fc_out={arm}", f"seed={seed}"],
            "choices": {"fc_out": arm},
            "config_hash": f"{arm}-{seed}",
            "arm_hash": f"{arm}-hash",
            "owner": {"host": "elsewhere", "pid": 1},
            "started": 1000.0,
            "text": TEXT,
            "cost": {
                "params": params,
                "params_attention": attention,
                "params_fc_out": fc_out,
                "flops_per_token": 2.0 * params,
                "peak_memory_mb": 7.5,
            },
            "provenance": {
                "mha_ablate": "0.1",
                "git": {"commit": "f" * 40, "dirty": False},
                "python": "3.12.0",
                "versions": {"torch": "2.11"},
                "device": "cpu",
                "device_name": "A <CPU>",
                "precision": "fp32",
                "threads": 1,
            },
        }
        if loss is not None:
            run["ended"] = 1060.0
            run["result"] = {"step": 20, "val_loss": loss, "step_ms": 10.0 + seed, "tokens_per_s": 500.0, "gflop": 60.0}
        (folder / "run.json").write_text(json.dumps({**run, **about}), encoding="utf-8")
        config = {
            "model": {"n_heads": 4, "d_model": 8},
            "optim": {"lr": lr},
            "trainer": {"steps": 20, "batch_size": 2},
            "data": {"split": "blocks"},
        }
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if curve is None:
            curve = {} if loss is None else {0: 4.0, 10: 3.0, 20: loss}
        lines = [
            {"step": step, "tokens": 16 * step, "gflop": 3.0 * step, "wall_time": 1000.0 + step, "train_s": step / 10}
            | ({"loss/val": value} if step % 20 == 0 or step == 10 else {})
            for step, value in curve.items()
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return folder

    def arm(self, arm: str, losses: list[float], **changed: Any) -> Folder:
        """An arm that ended well at seeds 0, 1, ..."""
        for seed, loss in enumerate(losses):
            self.run(arm, seed, loss, **changed)
        return self

    def plan(self, arms: list[str], seeds: list[int], **changed: Any) -> Folder:
        """The plan of a study with `dense` as its baseline."""
        plan = {
            "hash": "0123456789abcdef",
            "written": 999.0,
            "earlier": [],
            "study": "mine",
            "baseline": "dense",
            "margin": 0.01,
            "seeds": seeds,
            "arms": {arm: [f"fc_out={arm}"] for arm in arms},
            "cells": {f"{arm}/seed={seed}": "" for arm in arms for seed in seeds},
            "text_sha256": TEXT["sha256"],
        }
        (self.path / "plan.json").write_text(json.dumps({**plan, **changed}))
        return self

    def report(self, **asked: Any) -> dict[str, Any]:
        """What the report says, without its files; as JSON would keep it."""
        return json.loads(json.dumps(assemble(collect(self.path), **asked), allow_nan=False))


@pytest.fixture
def study(tmp_path: Path) -> Folder:
    """An empty study folder."""
    return Folder(tmp_path / "study")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without PNG files, which take longest."""
    monkeypatch.setattr(write_module, "as_png", lambda figure: b"")


def arm_of(report: dict[str, Any], name: str) -> dict[str, Any]:
    [found] = [arm for arm in report["arms"] if arm["arm"] == name]
    return found


BASE = [2.0, 2.1, 2.2]
COSTS = [2.10, 2.22, 2.34]  # +0.10 +0.12 +0.14
HELPS = [1.90, 1.98, 2.06]  # -0.10 -0.12 -0.14
EQUIVALENT = [2.001, 2.099, 2.2]
UNDECIDED = [2.1, 2.0, 2.2]


def two_arms(study: Folder, losses: list[float], arm: str = "none") -> Folder:
    seeds = list(range(len(BASE)))
    return study.arm("dense", BASE).arm(arm, losses).plan(["dense", arm], seeds)


# --- numbers


def test_the_report_holds_what_was_measured(study: Folder) -> None:
    report = two_arms(study, COSTS).report()
    assert (report["study"], report["baseline"], report["margin"]) == ("mine", "dense", 0.01)
    assert "nats per token" in report["metric"]
    assert [arm["arm"] for arm in report["arms"]] == ["dense", "none"]
    dense, none = report["arms"]
    assert (dense["verdict"], dense["delta"], dense["n"]) == ("baseline", None, 3)
    assert dense["overrides"] == ["fc_out=dense"]
    assert dense["val_loss"] == {
        "mean": pytest.approx(2.1),
        "sd": pytest.approx(0.1),
        "values": {"0": 2.0, "1": 2.1, "2": 2.2},
    }
    assert (none["verdict"], none["n"]) == ("costs", 3)
    assert none["val_loss"]["values"] == {"0": 2.10, "1": 2.22, "2": 2.34}
    assert none["delta"]["mean"] == pytest.approx(0.12)
    half = T95[3] * 0.02 / math.sqrt(3)
    assert none["delta"]["ci95"] == pytest.approx([0.12 - half, 0.12 + half], abs=1e-6)
    assert none["delta"]["values"] == pytest.approx({"0": 0.10, "1": 0.12, "2": 0.14})
    assert report["provenance"]["device_name"] == "A <CPU>"


def test_costs_come_from_the_runs_where_nothing_was_measured_apart(study: Folder) -> None:
    none = arm_of(two_arms(study, COSTS).report(), "none")
    timed = none["cost"].pop("timed")
    assert "during the runs" in timed
    assert none["cost"] == {
        "params": 900,
        "params_attention": 300,
        "params_fc_out": 0,
        "flops_per_token": 1800.0,
        "step_ms": 11.0,  # the median of 10, 11 and 12
        "tokens_per_s": 500.0,
        "peak_memory_mb": 7.5,
    }


def test_costs_measured_apart_come_first(study: Folder) -> None:
    two_arms(study, COSTS)
    costs = {
        arm: {
            "params": 5,
            "params_attention": 4,
            "params_fc_out": 3,
            "flops_per_token": 2.5,
            "step_ms": 1.5,
            "tokens_per_s": 9.0,
            "peak_memory_mb": 0.5,
        }
        for arm in ("dense", "none")
    }
    (study.path / "cost.json").write_text(json.dumps({"arms": {arm: f"{arm}-hash" for arm in costs}, "costs": costs}))
    cost = arm_of(study.report(), "none")["cost"]
    assert "interleaved" in cost.pop("timed")
    assert cost == costs["none"]
    (study.path / "cost.json").write_text(
        json.dumps({"arms": {"dense": "dense-hash", "none": "older"}, "costs": costs})
    )
    cost = arm_of(study.report(), "none")["cost"]
    assert cost["params"] == 900, "what was measured on another configuration is not believed"
    assert cost["step_ms"] is None, "and times of two kinds do not stand in one column"


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [(COSTS, "costs"), (HELPS, "helps"), (EQUIVALENT, "equivalent"), (UNDECIDED, "undecided")],
)
def test_verdicts(study: Folder, losses: list[float], verdict: str) -> None:
    none = arm_of(two_arms(study, losses).report(), "none")
    assert (none["verdict"], none["look"]) == (verdict, True)
    assert none["verdict_reason"]


def test_margin_and_baseline_can_be_asked_for(study: Folder) -> None:
    two_arms(study, COSTS)
    assert arm_of(study.report(margin=0.5), "none")["verdict"] == "equivalent"
    turned = study.report(baseline="none")
    assert [arm["arm"] for arm in turned["arms"]] == ["none", "dense"]
    assert arm_of(turned, "dense")["delta"]["mean"] == pytest.approx(-0.12)
    assert arm_of(turned, "dense")["verdict"] == "helps"


def test_a_baseline_that_was_not_run_is_refused_with_a_hint(study: Folder) -> None:
    with pytest.raises(RequestError, match="did you mean 'dense'") as caught:
        two_arms(study, COSTS).report(baseline="dens")
    assert len(str(caught.value).splitlines()) == 1


def test_one_seed_gives_a_delta_without_interval(study: Folder) -> None:
    report = study.arm("dense", [2.0]).arm("none", [2.5]).plan(["dense", "none"], [0]).report()
    none = arm_of(report, "none")
    assert (none["verdict"], none["n"]) == ("undecided", 1)
    assert (none["delta"]["mean"], none["delta"]["ci95"]) == (0.5, None)
    assert none["val_loss"]["sd"] is None
    assert "one seed gives no interval" in report["sentence"]
    assert "over 1 paired seed " in report["sentence"].replace(",", " ")


def test_arms_stand_in_the_order_of_the_plan(study: Folder) -> None:
    for arm in ("alpha", "dense", "none", "zeta"):
        study.arm(arm, BASE)
    study.plan(["dense", "zeta", "none"], [0, 1, 2])
    assert [arm["arm"] for arm in study.report()["arms"]] == ["dense", "zeta", "none", "alpha"]


# --- what did not end well


def test_a_diverged_run_is_shown_and_not_averaged(study: Folder) -> None:
    study.arm("dense", BASE).plan(["dense", "none"], [0, 1, 2])
    study.run("none", 0, 2.1)
    study.run("none", 1, 2.3)
    study.run("none", 2, 99.0, state="diverged", error="the loss was not finite at step 7")
    report = study.report()
    none = arm_of(report, "none")
    assert (none["verdict"], none["n"]) == ("undecided", 2)
    assert "1 of 3 seeds of none diverged" in none["verdict_reason"]
    assert none["states"] == {"0": "ok", "1": "ok", "2": "diverged"}
    assert none["errors"] == {"2": "the loss was not finite at step 7"}
    assert none["val_loss"]["values"] == {"0": 2.1, "1": 2.3, "2": None}
    assert none["val_loss"]["mean"] == pytest.approx(2.2)
    assert "1 run(s) diverged: none/seed=2" in report["notes"]


@pytest.mark.parametrize(("state", "word"), [("failed", "failed"), ("running", "unfinished")])
def test_failed_and_unfinished_runs_are_shown_and_not_averaged(study: Folder, state: str, word: str) -> None:
    study.arm("dense", BASE).plan(["dense", "none"], [0, 1, 2])
    study.run("none", 0, 2.5)
    study.run("none", 1, 2.6)
    study.run("none", 2, None, state=state, curve={0: 4.0, 10: 3.0})
    report = study.report()
    none = arm_of(report, "none")
    assert (none["verdict"], none["n"]) == ("undecided", 2)
    assert f"1 of 3 seeds of none {word}" in none["verdict_reason"]
    assert none["val_loss"]["mean"] == pytest.approx(2.55)
    assert f"1 run(s) {word}: none/seed=2" in report["notes"]


def test_a_planned_seed_without_a_run_is_missing(study: Folder) -> None:
    study.arm("dense", BASE).arm("none", COSTS[:2]).plan(["dense", "none"], [0, 1, 2])
    none = arm_of(study.report(), "none")
    assert (none["verdict"], none["n"]) == ("undecided", 2)
    assert "1 of 3 seeds of none missing" in none["verdict_reason"]


def test_without_a_plan_a_seed_of_the_baseline_alone_is_missing_too(study: Folder) -> None:
    none = arm_of(study.arm("dense", BASE).arm("none", COSTS[:2]).report(), "none")
    assert none["verdict"] == "undecided"
    assert "missing" in none["verdict_reason"]


def test_a_baseline_that_is_incomplete_leaves_every_arm_undecided(study: Folder) -> None:
    study.arm("dense", BASE[:2]).arm("none", COSTS).plan(["dense", "none"], [0, 1, 2])
    none = arm_of(study.report(), "none")
    assert none["verdict"] == "undecided"
    assert "1 of 3 seeds of dense missing" in none["verdict_reason"]


def test_an_arm_without_a_pair_has_no_delta(study: Folder) -> None:
    study.arm("dense", BASE).plan(["dense", "none"], [0, 1, 2])
    study.run("none", 0, None, state="failed", error="boom")
    report = study.report()
    none = arm_of(report, "none")
    assert (none["delta"], none["verdict"], none["val_loss"]["mean"]) == (None, "undecided", None)
    assert "cannot be compared" in report["sentence"]


def test_the_sentence_does_not_claim_more_pairs_than_there_are(study: Folder) -> None:
    study.arm("dense", BASE).arm("none", COSTS[:2]).plan(["dense", "none"], [0, 1, 2])
    assert "3 paired seeds" not in study.report()["sentence"]


def test_a_plan_that_was_changed_is_noted(study: Folder) -> None:
    report = two_arms(study, COSTS).plan(["dense", "none"], [0, 1, 2], earlier=["aa", "bb"]).report()
    assert any("changed 2 time" in note for note in report["notes"])
    assert report["plan_hash"] == "0123456789abcdef"


def test_unequal_precision_and_steps_are_noted(study: Folder) -> None:
    study.arm("dense", BASE)
    about = json.loads((study.path / "dense" / "seed=0" / "run.json").read_text())
    study.arm("none", COSTS, provenance={**about["provenance"], "precision": "bf16"})
    config = study.path / "none" / "seed=0" / "config.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"steps": 40}}))
    notes = "\n".join(study.report()["notes"])
    assert "precision: bf16; fp32" in notes
    assert "trainer.steps: 20, 40" in notes


def longer(study: Folder, arm: str, words: list[str]) -> Folder:
    """An arm whose runs took twice the baseline's steps."""
    study.arm(arm, COSTS, overrides=words)
    for config in (study.path / arm).rglob("config.yaml"):
        config.write_text(config.read_text().replace("steps: 20", "steps: 40"))
    return study


def test_an_arm_that_trained_longer_is_no_fair_pair(study: Folder) -> None:
    longer(study, "none", ["fc_out=none"]).arm("dense", BASE).arm("other", COSTS)
    for report in (study.report(), study.plan(["dense", "none", "other"], [0, 1, 2]).report()):
        none = arm_of(report, "none")
        assert (none["verdict"], none["delta"]["p_holm"]) == ("undecided", None)
        assert none["verdict_reason"] == "trainer.steps is 40 of none and 20 of dense"
        assert none["verdict_reason"] in report["sentence"]
        other = arm_of(report, "other")
        assert (other["verdict"], other["delta"]["p_holm"]) == ("costs", pytest.approx(2 * other["delta"]["p_t"]))


@pytest.mark.parametrize("word", ["trainer.steps=40", "trainer=long"])
def test_an_arm_that_is_planned_to_train_longer_is_judged(study: Folder, word: str) -> None:
    report = longer(study, "none", []).arm("dense", BASE).plan(["dense", "none"], [0, 1, 2]).report()
    assert arm_of(report, "none")["verdict"] == "undecided"
    planned = json.loads((study.path / "plan.json").read_text())
    planned["arms"]["none"].append(word)
    (study.path / "plan.json").write_text(json.dumps(planned))
    report = study.report()
    assert arm_of(report, "none")["verdict"] == "costs"
    assert "runs differ in trainer.steps: 20, 40" in report["notes"]


def test_runs_without_a_plan_that_differ_in_nothing_but_steps_are_judged(study: Folder) -> None:
    study.arm("dense", BASE, overrides=["fc_out=dense", "seed=0"])
    report = longer(study, "longer", ["fc_out=dense", "trainer.steps=40"]).report(baseline="dense")
    assert arm_of(report, "longer")["verdict"] == "costs"


def test_another_context_is_noted(study: Folder) -> None:
    study.arm("dense", BASE).arm("none", COSTS)
    for file, context in (("dense/seed=0", 32), ("none/seed=0", 64)):
        config = study.path / file / "config.yaml"
        config.write_text(yaml.safe_dump({"model": {"context": context}, "trainer": {"steps": 20}}))
    assert "runs differ in model.context: 32, 64" in study.report()["notes"]


POWER = {"effect": 0.05, "power": 0.8, "alpha": 0.05, "contrasts": {"none": {}}}


def test_a_margin_or_baseline_of_the_reader_is_not_the_plans(study: Folder) -> None:
    two_arms(study, COSTS).plan(["dense", "none"], [0, 1, 2], power=POWER)
    kept = study.report(baseline="dense", margin=0.01)
    assert kept["kind"] == "confirmatory"
    assert not any("asked for with the report" in note for note in kept["notes"])
    for asked, said in (({"margin": 0.5}, "margin is ±0.5 nats"), ({"baseline": "none"}, "baseline is none")):
        report = study.report(**asked)
        assert report["kind"] == "changed"
        assert [said in note for note in report["notes"] if "asked for with the report" in note] == [True]


def test_planned_arms_that_have_not_run_count_among_the_contrasts(study: Folder) -> None:
    two_arms(study, COSTS)
    alone = arm_of(study.report(), "none")["delta"]["p_holm"]
    report = study.plan(["dense", "none", "late", "later"], [0, 1, 2]).report()
    assert arm_of(report, "none")["delta"]["p_holm"] == pytest.approx(3 * alone)


# --- which runs


@pytest.mark.parametrize("key", ["sha256", "tokenizer_sha256", "split"])
def test_runs_on_different_text_are_refused_in_one_line(study: Folder, key: str) -> None:
    study.arm("dense", BASE).arm("none", COSTS, text={**TEXT, key: "ef" * 32})
    with pytest.raises(RequestError, match="different text") as caught:
        study.report()
    assert len(str(caught.value).splitlines()) == 1
    assert "dense/seed=0" in str(caught.value)
    assert "none/seed=0" in str(caught.value)


def test_the_same_text_under_another_name_is_the_same(study: Folder) -> None:
    study.arm("dense", BASE).arm("none", COSTS, text={**TEXT, "name": "copy.txt"})
    assert arm_of(study.report(), "none")["verdict"] == "costs"


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("a file")])
def test_a_folder_without_runs_is_refused_in_one_line(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "nothing")
    with pytest.raises(RequestError, match="folder") as caught:
        write_report(tmp_path / "nothing")
    assert str(tmp_path / "nothing") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "nothing" / "report").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "ok"}', '{"state": "odd", "arm": "a", "seed": 0}'])
def test_a_run_json_that_is_none_is_passed_over(study: Folder, content: str) -> None:
    two_arms(study, COSTS)
    (study.path / "other").mkdir()
    (study.path / "other" / "run.json").write_text(content)
    assert [arm["arm"] for arm in study.report()["arms"]] == ["dense", "none"]


def test_runs_of_train_are_compared_without_a_plan(tmp_path: Path) -> None:
    study = Folder(tmp_path / "train").arm("aaa", COSTS).arm("dense", BASE).arm("none", COSTS)
    report = study.report()
    assert (report["study"], report["baseline"], report["margin"]) == ("train", "dense", 0.01)
    assert report["plan_hash"] is None
    assert arm_of(report, "none")["overrides"] == ["fc_out=none"]
    assert arm_of(report, "none")["verdict"] == "costs"


def test_runs_of_other_code_are_noted(study: Folder) -> None:
    study.arm("dense", BASE)
    sources = [json.loads(file.read_text())["provenance"] for file in study.path.rglob("run.json")]
    other = {**sources[0], "git": {"commit": "e" * 40, "dirty": True}, "versions": {"torch": "2.12", "mine": "1"}}
    study.run("none", 0, 2.5, provenance=other)
    notes = study.report()["notes"]
    assert "runs differ in the version of torch: 2.11, 2.12" in notes
    assert f"runs were made by different commits of the code: {'e' * 10} with changes, {'f' * 10}" in notes
    assert not [note for note in notes if "mine" in note]  # which only an arm of its own needs


def test_a_sweep_over_more_than_the_projection_says_so(tmp_path: Path) -> None:
    sweep = Folder(tmp_path / "sweep")
    for arm in ("dense", "none"):
        for heads in (2, 4):
            words = [f"fc_out={arm}", f"model.n_heads={heads}", "seed=0", "name=sweep", "trainer.steps=20"]
            name = f"{arm}{heads}"
            sweep.run(name, 0, 2.0, overrides=words)
    report = sweep.report(baseline="dense2")
    assert arm_of(report, "none4")["overrides"] == ["fc_out=none", "model.n_heads=4", "trainer.steps=20"]
    [note] = [note for note in report["notes"] if note.startswith("arms differ in")]
    assert note.startswith("arms differ in model.n_heads too, and every delta is to dense2 (model.n_heads=2)")


def test_a_removal_is_told_against_the_whole_projection_alone(study: Folder) -> None:
    study.arm("dense", BASE).arm("none", COSTS).arm("other", BASE)
    assert "removing fc_out (none)" in study.report(baseline="dense")["sentence"]
    assert "removing" not in study.report(baseline="other")["sentence"]


def test_two_configurations_under_one_name_are_kept_apart(study: Folder) -> None:
    study.arm("dense", BASE)
    study.run("none", 0, 2.5, below="a", arm_hash="1111111111")
    study.run("none", 1, 3.5, below="b", arm_hash="2222222222")
    report = study.report()
    assert [arm["arm"] for arm in report["arms"]] == ["dense", "none 111111", "none 222222"]
    assert [arm["val_loss"]["values"] for arm in report["arms"][1:]] == [{"0": 2.5}, {"1": 3.5}]


def test_one_configuration_run_twice_at_a_seed_is_kept_apart_by_folder(tmp_path: Path) -> None:
    outputs = Folder(tmp_path / "outputs")
    for name, shift in (("one", 0.0), ("two", 0.1)):
        for arm, losses in (("dense", BASE), ("none", COSTS)):
            outputs.arm(arm, [loss + shift for loss in losses], below=name)
    report = outputs.report()
    assert {arm["arm"] for arm in report["arms"]} == {"one/dense", "one/none", "two/dense", "two/none"}
    assert arm_of(report, "two/none")["val_loss"]["values"]["0"] == pytest.approx(2.2)


# --- the sentence


@pytest.mark.parametrize(
    ("losses", "clause"),
    [
        (COSTS, r"removing fc_out \(none\) costs 0\.1200 nats per token against dense .*\+0\.0703 to \+0\.1697"),
        (HELPS, r"removing fc_out \(none\) gains 0\.1200 nats per token on dense .*-0\.1697 to -0\.0703"),
        (EQUIVALENT, r"removing fc_out \(none\) is equivalent to dense \(90% interval .* within ±0\.01\)"),
        (UNDECIDED, r"undecided whether removing fc_out \(none\) .*against dense .*-0\.2484 to \+0\.2484"),
    ],
)
def test_the_sentence_says_each_verdict(study: Folder, losses: list[float], clause: str) -> None:
    sentence = two_arms(study, losses).report()["sentence"]
    assert re.search(clause, sentence)
    assert sentence.startswith("At learning rate 0.004 after 20 steps over 3 paired seeds, ")
    assert "a look, not a result" in sentence
    assert len(sentence.splitlines()) == 1


def test_the_sentence_says_what_leaves_a_clear_difference_undecided(study: Folder) -> None:
    study.arm("dense", BASE).arm("none", COSTS).plan(["dense", "none"], [0, 1, 2, 3])
    sentence = study.report()["sentence"]
    assert "1 of 4 seeds of none missing" in sentence
    assert "Holm" not in sentence


def test_the_sentence_counts_no_pairs_where_there_are_none(study: Folder) -> None:
    study.arm("dense", BASE)
    for seed, loss in enumerate(COSTS, start=10):
        study.run("none", seed, loss)
    report = study.report()
    assert arm_of(report, "none")["n"] == 0
    assert "paired seed" not in report["sentence"]
    assert "cannot be compared with dense: " in report["sentence"]
    assert "a look" not in report["sentence"]


def test_an_arm_that_removes_nothing_is_called_by_its_name(study: Folder) -> None:
    sentence = two_arms(study, COSTS, "half").report()["sentence"]
    assert "removing" not in sentence
    assert "half costs 0.1200 nats per token against dense" in sentence


def test_only_one_arm_is_called_the_removal(study: Folder) -> None:
    cost = {"params": 900, "params_attention": 300, "params_fc_out": 0, "flops_per_token": 1.0}
    study.arm("dense", BASE).arm("none", COSTS).arm("other", COSTS, cost=cost)
    sentence = study.plan(["dense", "none", "other"], [0, 1, 2]).report()["sentence"]
    assert sentence.count("removing fc_out") == 1
    assert "(none)" in sentence


def test_with_eight_seeds_it_is_no_look(study: Folder) -> None:
    base = [2.0 + i / 10 for i in range(8)]
    study.arm("dense", base).arm("none", [b + 0.1 + i / 1000 for i, b in enumerate(base)])
    report = study.report()
    assert "a look" not in report["sentence"]
    assert arm_of(report, "none")["look"] is False


def test_arms_at_rates_of_their_own_are_said_to_be_so(study: Folder) -> None:
    study.arm("dense", BASE).arm("none", COSTS, lr=0.002)
    assert study.report()["sentence"].startswith("At each arm's own learning rate after 20 steps")


def test_a_single_arm_is_no_comparison(study: Folder) -> None:
    report = study.arm("dense", BASE).report()
    assert "Only dense was run" in report["sentence"]


# --- files


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with its report, written once for the tests that only look."""
    study = Folder(tmp_path_factory.mktemp("w") / "study")
    study.arm("dense", BASE).arm("none", COSTS).arm("half", EQUIVALENT).plan(["dense", "none", "half"], [0, 1, 2])
    write_report(study.path)
    return study.path


def test_a_report_is_seven_files_and_more(written: Path) -> None:
    names = {f.name for f in (written / "report").iterdir()}
    assert {"report.json", "runs.csv", "table.md", "report.html", "answer.svg", "answer.png", "curves.svg"} <= names
    assert not [name for name in names if name.startswith(".")]
    for name in names:
        assert (written / "report" / name).stat().st_size > 100, name
    assert (written / "report" / "answer.png").read_bytes().startswith(b"\x89PNG")


def test_report_json_has_the_promised_keys(written: Path) -> None:
    report = json.loads((written / "report" / "report.json").read_text(encoding="utf-8"))
    assert {"study", "baseline", "metric", "arms", "provenance", "sentence"} <= report.keys()
    for arm in report["arms"]:
        assert {"arm", "n", "overrides", "verdict", "val_loss", "delta", "cost"} <= arm.keys()
        assert arm["val_loss"].keys() == {"mean", "sd", "values"}
        assert {"params", "params_attention", "params_fc_out", "flops_per_token"} <= arm["cost"].keys()
        assert {"step_ms", "tokens_per_s", "peak_memory_mb"} <= arm["cost"].keys()
        assert (arm["delta"] is None) == (arm["verdict"] == "baseline")
        if arm["delta"]:
            assert {"mean", "ci95"} <= arm["delta"].keys()


def test_runs_csv_is_tidy(written: Path) -> None:
    table = list(csv.DictReader(io.StringIO((written / "report" / "runs.csv").read_text())))
    assert len(table) == 3 * 3 * 3, "arms x seeds x evaluations"
    assert list(table[0]) == ["arm", "seed", "state", "step", "tokens", "gflop", "train_s", "val_loss"]
    [last] = [row for row in table if (row["arm"], row["seed"], row["step"]) == ("none", "2", "20")]
    assert {k: last[k] for k in ("state", "tokens", "gflop", "train_s")} == {
        "state": "ok",
        "tokens": "320",
        "gflop": "60.0",
        "train_s": "2.0",
    }
    assert float(last["val_loss"]) == 2.34
    assert len({(row["arm"], row["seed"], row["step"]) for row in table}) == len(table)


def test_table_md_has_a_row_for_each_arm(written: Path) -> None:
    head, rule, *body = (written / "report" / "table.md").read_text(encoding="utf-8").splitlines()
    assert [c.strip() for c in head.strip("|").split("|")] == list(COLUMNS)
    assert rule == "|" + "---|" * len(COLUMNS)
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in body]
    assert cells[0] == ["dense", "2.1000", "-", "1.00k", "2.00k", "11.0", "baseline"]
    assert cells[1] == ["none", "2.2200", "+0.1200 \u00b10.0497", "900", "1.80k", "11.0", "costs (a look)"]
    assert [row[0] for row in cells] == ["dense", "none", "half"]


def test_every_seed_and_the_answer_are_on_the_page(written: Path) -> None:
    page = (written / "report" / "report.html").read_text(encoding="utf-8")
    report = json.loads((written / "report" / "report.json").read_text(encoding="utf-8"))
    assert report["sentence"] in page
    for cells in (("none", "2", "ok", "2.3400", "+0.1400"), ("dense", "0", "ok", "2.0000", "-")):
        assert "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>" in page
    assert page.count("<svg") == 4, "forest, curves and two costs"
    assert "prefers-color-scheme: dark" in page
    assert {
        url for url in re.findall(r"https?://[^\"' <)]+", page) if not url.startswith("http://www.w3.org/")
    } == set()
    assert "<script" not in page
    assert not [word for word in ('src="http', 'href="http', "url(http", "@import") if word in page], "opens offline"
    assert "A &lt;CPU&gt;" in page


def test_events_hold_the_delta_to_the_baseline(written: Path) -> None:
    read = EventAccumulator(str(written / "none" / "seed=2")).Reload()
    deltas = [(e.step, e.value) for e in read.Scalars("cost/delta_val_loss")]
    assert deltas == [(0, 0.0), (10, 0.0), (20, pytest.approx(0.14))]
    assert [e.value for e in read.Scalars("result/val_loss")] == [pytest.approx(2.34)]
    base = EventAccumulator(str(written / "dense" / "seed=2")).Reload()
    assert [e.value for e in base.Scalars("cost/delta_val_loss")] == [0.0, 0.0, 0.0]


def contents(folder: Path) -> dict[str, bytes]:
    return {f.name: f.read_bytes() for f in sorted((folder / "report").iterdir())}


def test_a_report_written_again_is_the_same_byte_for_byte(written: Path) -> None:
    before = contents(written)
    write_report(written)
    assert contents(written) == before


def test_the_report_of_a_copied_folder_differs_in_paths_alone(written: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / written.name
    shutil.copytree(written, copy)
    shutil.rmtree(copy / "report")
    write_report(copy)
    one, other = contents(written), contents(copy)
    assert other.keys() == one.keys()
    for name in one:
        assert other[name].replace(str(copy).encode(), b"HERE") == one[name].replace(str(written).encode(), b"HERE")


def test_a_figure_is_the_same_bytes_each_time(written: Path) -> None:
    from mha_ablate.report.figures import figures

    study = collect(written)
    report = assemble(study)
    one, other = figures(report, study), figures(report, study)
    for name in one:
        svg = as_svg(one[name])
        assert svg == as_svg(other[name])
        assert "<dc:date>" not in svg


@pytest.mark.usefixtures("quick")
def test_a_study_of_every_mishap_has_a_report(study: Folder) -> None:
    study.arm("dense", BASE).plan(["dense", "none", "half"], [0, 1, 2])
    study.run("none", 0, 2.1)
    study.run("none", 1, 2.4, state="diverged", error="the loss was not finite at step 10", curve={0: 4.0})
    study.run("half", 0, None, state="failed", error="RuntimeError: boom")
    running = study.run("half", 1, None, state="running", curve={0: 4.0})
    (running / "events.out.tfevents.1.live").write_bytes(b"")
    write_report(study.path)
    page = (study.path / "report" / "report.html").read_text(encoding="utf-8")
    for cells in (
        ("none", "1", "diverged: the loss was not finite at step 10", "-", "-"),
        ("half", "0", "failed: RuntimeError: boom", "-", "-"),
    ):
        assert "<tr>" + "".join(f"<td>{c}</td>" for c in cells) + "</tr>" in page
    live = [f.name for f in running.glob("events*")]
    assert live == ["events.out.tfevents.1.live"], "a run that is still written to is left alone"


@pytest.mark.usefixtures("quick")
def test_a_study_that_failed_whole_has_a_report(study: Folder) -> None:
    for arm in ("dense", "none"):
        study.run(arm, 0, None, state="failed", error="RuntimeError: boom")
    report = write_report(study.plan(["dense", "none"], [0]).path)
    assert arm_of(report, "none")["errors"] == {"0": "RuntimeError: boom"}


@pytest.mark.usefixtures("quick")
def test_a_single_arm_has_a_report(study: Folder) -> None:
    write_report(study.arm("dense", [2.0]).path)
    assert "Only dense was run" in (study.path / "report" / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Every tag of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]


@pytest.mark.usefixtures("quick")
def test_the_page_escapes_whatever_runs_say(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    study = Folder(tmp_path / "<b>study & co")
    study.arm("dense", BASE).arm(evil, COSTS, overrides=["a=<img src=x onerror=alert(2)>"])
    study.run("dense", 3, None, state="failed", error="<iframe src='x'>\"&</style>")
    text = {**TEXT, "name": "<object>"}
    study.run("dense", 4, 2.0, text=text)
    write_report(study.path)
    page = (study.path / "report" / "report.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(page)
    assert not tags.seen & {"script", "img", "iframe", "object", "b"}
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["cost$^$", "a_b$", "_mine", "\u4e2d\u6587", "100%", "{a}"])
def test_any_name_an_arm_may_have_can_be_drawn(study: Folder, name: str) -> None:
    report = write_report(study.arm("dense", BASE).arm(name, COSTS).path)
    assert arm_of(report, name)["verdict"] == "costs"


@pytest.mark.filterwarnings("error")
def test_long_names_of_a_sweep_leave_room_for_what_is_drawn(study: Folder) -> None:
    for n, batch in enumerate((12, 24)):
        for seed, loss in enumerate(COSTS):
            folder = study.run("none", seed, loss, below=f"b{n}", arm_hash=f"none-{n}")
            wide = {"trainer": {"steps": 20, "batch_size": batch, "eval_every": 5 + n}, "optim": {"weight_decay": n}}
            (folder / "config.yaml").write_text(yaml.safe_dump(wide))
    study.arm("dense", BASE)
    found = collect(study.path)
    assert max(map(len, found.arms)) > 40
    for figure in figures(assemble(found), found).values():
        as_svg(figure)
        as_png(figure)
        for axes in figure.axes:
            room = axes.get_window_extent()
            assert room.width > 0.35 * figure.dpi * 5
            if legend := axes.get_legend():
                box = legend.get_window_extent()
                assert 0 <= box.x0 <= box.x1 <= figure.bbox.width


def test_no_title_is_cut_off(study: Folder) -> None:
    base, arm = "the_whole_of_it_as_it_was_before", "without_any_projection_at_all"
    study.arm(base, BASE, below="a").arm(arm, COSTS, below="b")
    study.plan([base, arm], [0, 1, 2], baseline=base, waterfall={"all of it": [arm, base]})
    found = collect(study.path)
    made = figures(assemble(found), found)
    assert {"answer", "curves", "waterfall"} <= made.keys()
    for figure in made.values():
        figure.draw_without_rendering()
        for axes in figure.axes:
            titles = [text for text in axes.findobj(Text) if text.get_text() == axes.get_title(loc="left")]
            for box in (title.get_window_extent() for title in titles):
                assert 0 <= box.x0 <= box.x1 <= figure.bbox.width, axes.get_title(loc="left")


def test_a_name_with_a_leading_underscore_stands_in_the_legend(study: Folder) -> None:
    from mha_ablate.report.plots import drawn, loss_panel

    study.arm("dense", BASE).arm("_mine", COSTS)
    found = collect(study.path)
    [axes] = drawn([loss_panel(assemble(found), found)], 3.0).axes
    legend = axes.get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()] == ["dense", "_mine"]


# --- formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (7, "7"),
        (999, "999"),
        (1000, "1.00k"),
        (1234, "1.23k"),
        (12_345, "12.3k"),
        (99_949, "99.9k"),
        (99_960, "100k"),
        (808_064, "808k"),
        (999_400, "999k"),
        (999_600, "1.00M"),
        (1_728_512, "1.73M"),
        (123_456_789, "123M"),
        (999_700_000, "1.00G"),
        (2.5e9, "2.50G"),
        (1616.4, "1.62k"),
    ],
)
def test_si(value: float | None, text: str) -> None:
    assert si(value) == text


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        (None, "-"),
        ({"mean": 0.03124, "ci95": None}, "+0.0312"),
        ({"mean": -0.5, "ci95": None}, "-0.5000"),
        ({"mean": 0.0312, "ci95": [0.0252, 0.0372]}, "+0.0312 \u00b10.0060"),
        ({"mean": -0.0312, "ci95": [-0.0372, -0.0252]}, "-0.0312 \u00b10.0060"),
        ({"mean": 0.0, "ci95": [0.0, 0.0]}, "+0.0000 \u00b10.0000"),
    ],
)
def test_delta_text(delta: dict[str, Any] | None, text: str) -> None:
    assert delta_text({"delta": delta}) == text


def test_a_table_shows_what_is_unknown_as_a_dash_and_keeps_its_columns(study: Folder) -> None:
    study.arm("dense", BASE)
    study.run("a|b", 0, None, state="failed", cost={})
    report = study.report(baseline="dense")
    assert rows(report)[1] == ("a|b", "-", "-", "-", "-", "-", "no data")
    assert "| a\\|b |" in markdown(report)


def test_an_arm_outside_the_plan_is_exploratory_and_does_not_weaken_the_planned_ones(study: Folder) -> None:
    study.arm("dense", [2.0, 2.1, 2.2, 2.3]).arm("none", [2.09, 2.22, 2.29, 2.42])
    alone = study.plan(["dense", "none"], [0, 1, 2, 3]).report()
    study.arm("extra", [2.1, 2.3, 2.2, 2.4])
    report = study.report()
    before, after = alone["arms"][1], report["arms"][1]
    assert after["delta"]["p_holm"] == before["delta"]["p_holm"] == before["delta"]["p_t"]
    assert [arm["exploratory"] for arm in report["arms"]] == [False, False, True]
    assert any("exploratory" in note and "extra" in note for note in report["notes"])


# --- bits per byte, where a token is not a byte

BYTES = {**TEXT, "tokenizer": "bpe", "val_characters": 290, "val_bytes": 300}  # of the 100 tokens of validation
FACTOR = 100 / 300 / math.log(2)  # 0.4809


@pytest.fixture
def in_bytes(study: Folder) -> Folder:
    study.arm("dense", BASE, text=BYTES).arm("none", COSTS, text=BYTES)
    return study.plan(["dense", "none"], [0, 1, 2])


def test_bits_per_byte_stand_where_a_token_is_not_a_byte(in_bytes: Folder) -> None:
    report = in_bytes.report()
    assert report["bits_per_byte"] == pytest.approx(FACTOR)
    half = T95[3] * 0.02 / math.sqrt(3)
    dense, none = f"{FACTOR * 2.1:.4f}", f"{FACTOR * 2.22:.4f} ({FACTOR * 0.12:+.4f} ±{FACTOR * half:.4f})"
    assert (dense, none) == ("1.0099", "1.0676 (+0.0577 ±0.0239)")
    head, _, *body = markdown(report).splitlines()
    assert head.split(" | ")[3] == "bits/byte"
    assert [line.strip("| ").split(" | ")[3] for line in body] == [dense, none]
    assert bits_line(report) == f"bits per byte (a nat per token is 0.4809 here): dense {dense}, none {none}"
    assert f"costs 0.1200 nats per token, {FACTOR * 0.12:.4f} bits per byte, against dense" in report["sentence"]
    assert none in page(report, collect(in_bytes.path), "again")


def test_bits_per_byte_of_a_gain_are_a_size_too(study: Folder) -> None:
    study.arm("dense", BASE, text=BYTES).arm("none", HELPS, text=BYTES)
    assert f"gains 0.1200 nats per token, {FACTOR * 0.12:.4f} bits per byte, on dense" in study.report()["sentence"]


@pytest.mark.parametrize("size", [{"val_bytes": 100}, {"val_bytes": None}, {"val_bytes": 0}, {}], ids=str)
def test_bits_per_byte_are_left_out_where_a_token_is_a_byte_or_nobody_knows(
    study: Folder, size: dict[str, Any]
) -> None:
    study.arm("dense", BASE, text={**TEXT, **size}).arm("none", COSTS, text={**TEXT, **size})
    report = study.report()
    assert report["bits_per_byte"] is None
    assert bits_line(report) == ""
    assert wide(report) == (COLUMNS, rows(report))
    assert "bits" not in report["sentence"]
    assert "bits" not in markdown(report)
    assert "bits" not in page(report, collect(study.path), "again")


def test_bits_per_byte_of_what_is_unknown(in_bytes: Folder) -> None:
    assert bits_text({"val_loss": {"mean": None}, "delta": None}, 0.5) == "-"
    assert bits_text({"val_loss": {"mean": 2.0}, "delta": None}, 0.5) == "1.0000"
    assert bits_text({"val_loss": {"mean": 2.0}, "delta": {"mean": -0.2, "ci95": None}}, 0.5) == "1.0000 (-0.1000)"


def test_what_training_never_saw_is_noted(study: Folder) -> None:
    text = {**TEXT, "unseen": {"distinct": 3, "tokens": 7}}
    [note] = [n for n in study.arm("dense", BASE, text=text).report()["notes"] if "never occur" in n]
    assert note.startswith("3 characters of the validation text (7 times, 7.00% of it)")


def test_nothing_is_noted_where_training_saw_it_all(study: Folder) -> None:
    text = {**TEXT, "unseen": {"distinct": 0, "tokens": 0}}
    assert not [n for n in study.arm("dense", BASE, text=text).report()["notes"] if "never occur" in n]
