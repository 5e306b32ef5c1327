"""The plan of a study: which arms at which seeds, checked whole before the first step, then written and hashed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mha_ablate import build
from mha_ablate.config.compose import Composed, compose, key_of
from mha_ablate.config.schema import RunConfig, StudyConfig
from mha_ablate.corpora import corpus_of, pinned
from mha_ablate.data.corpus import Corpus
from mha_ablate.data.text import Watch, unwatched
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import FINISHED, StudyFolder, write_json
from mha_ablate.study.cell import Cell
from mha_ablate.study.promise import changes, headed

NOT_AN_ARMS = ("seed", "data_seed", "study", "outputs", "name", "data", "tokenizer")


@dataclass(frozen=True)
class Plan:
    """A study that is ready to run."""

    study: StudyConfig
    root: StudyFolder  # of the whole study
    folder: StudyFolder  # of this part of it: the same where it has one part
    arms: dict[str, RunConfig]
    cells: list[Cell]
    corpus: Corpus
    request: list[str]  # the words that it was asked for with

    def to_json(self) -> dict[str, Any]:
        """What is fixed before the first step: arms with the hash of every cell, seeds, baseline, margin, text."""
        return {
            "study": self.study.name,
            "baseline": self.study.baseline,
            "margin": self.study.margin,
            "seeds": self.study.seed_list,
            "arms": {arm: self.study.arms[arm] for arm in self.arms},
            "cells": {cell.name: cell.hash for cell in self.cells},
            "waterfall": self._whole_chain(),
            "copies": {name: pair for name, pair in self.study.copies.items() if set(pair) <= self.arms.keys()},
            "text": self.corpus.identity,
            "stopping_rule": "every arm at every seed for trainer.steps updates; nothing seen on the way ends it earlier",
        }

    def _whole_chain(self) -> dict[str, list[str]]:
        """The waterfall's steps where all of their arms take part: a chain that lacks a link takes nothing apart."""
        chain = self.study.waterfall
        return chain if all(set(pair) <= self.arms.keys() for pair in chain.values()) else {}

    def write(self, power: dict[str, Any] | None = None) -> None:
        """Write plan.json. Arms that an earlier plan of this folder held stay in it, and count as planned contrasts.

        `power` is the reckoning that a plan made ahead of its study rests on: what it is confirmatory by. A plan made ahead
        replaces one of which nothing has run: there was nothing yet that could have been seen.
        """
        before = {} if power and not self.folder.runs() else self.folder.plan() or {}
        plan = headed(self._merged(before), before, request=self.request, power=power)
        if plan is not None:
            write_json(self.folder.plan_file, plan)

    def departures(self) -> list[str]:
        """What this plan would change of one that was made ahead, in words."""
        before = self.folder.plan() or {}
        promised = before.get("promised")
        return [] if promised is None else changes(promised, self._merged(before))

    def _merged(self, before: dict[str, Any]) -> dict[str, Any]:
        """With what still counts of the plan before: all of it, but for what was added to a promise and never begun."""
        plan = self.to_json()
        cells: dict[str, str] = before.get("cells", {})
        if (promised := before.get("promised")) is not None:
            cells = {name: was for name, was in cells.items() if name in promised.get("cells", {}) or self._begun(name)}
        arms = {name.rpartition("/")[0] for name in cells}
        plan["cells"] = {**cells, **plan["cells"]}
        plan["arms"] = {**{arm: words for arm, words in before.get("arms", {}).items() if arm in arms}, **plan["arms"]}
        plan["seeds"] = sorted({int(name.rpartition("=")[2]) for name in plan["cells"]})
        for key in ("waterfall", "copies"):
            kept = {name: pair for name, pair in before.get(key, {}).items() if set(pair) <= plan["arms"].keys()}
            plan[key] = {**kept, **plan[key]}
        return plan

    def _begun(self, cell: str) -> bool:
        arm, _, seed = cell.rpartition("/seed=")
        return self.folder.run(arm, int(seed)).run_file.exists()


def make_plan(
    overrides: list[str],
    while_checking: Callable[[], None] = lambda: None,
    watch: Watch = unwatched,
    config_dir: Path | None = None,
    below: str = "",
    shape: Callable[[StudyConfig], StudyConfig] = lambda study: study,
    *,
    elsewhere: bool = False,
) -> Plan:
    """Compose every arm, check every cell, write nothing. Raises RequestError, in one line, for whatever is wrong.

    A part of a larger study lies `below` its folder, and has other arms or seeds by `shape`. `elsewhere`: other machines train.

    `while_checking` is called once the request itself is known to be sound, before text and models are looked at, unless
    the study seems to be finished; `watch` hears of a text being made ready; `config_dir` holds choices of the user's own.
    """
    base = compose(overrides, config_dir)
    study = base.config.study
    _check_request(overrides, study)
    study = shape(study)
    arms = _compose_arms(overrides, study, config_dir)
    name = base.config.name or study.name
    root = StudyFolder(outputs_of(base.config) / name)
    folder = StudyFolder(root.path / below)
    if not _seems_finished(folder, study):
        while_checking()

    # One thread per cell: workers then do not disturb each other, and the same cell gives the same bits everywhere.
    one_thread = {a: replace(c.config, trainer=replace(c.config.trainer, threads=1)) for a, c in arms.items()}
    configs = {arm: build.resolved(config, elsewhere=elsewhere) for arm, config in one_thread.items()}
    _check_alike(configs, study.baseline)
    corpus = corpus_of(configs[study.baseline], watch=watch)
    configs = {arm: pinned(config, corpus) for arm, config in configs.items()}
    configs = _matched(configs, study, corpus.vocab_size)
    for arm, config in configs.items():
        try:
            corpus_of(config, known=corpus.reference)  # long enough for this arm's context
            build.model_of(config, corpus.vocab_size, "meta")
        except RequestError as error:
            raise RequestError(f"arm {arm}: {error}") from error
    cells = [
        Cell(
            arm=arm,
            seed=seed,
            config=configs[arm].with_seed(seed),
            folder=folder.run(arm, seed),
            text=corpus.reference,
            overrides=[*overrides, *study.arms[arm], f"seed={seed}"],
            choices=arms[arm].choices,
        )
        for seed in study.seed_list
        for arm in configs
    ]
    for cell in cells[: len(configs)]:  # one of each arm
        cell.check_arm()
    for cell in cells:
        cell.check_folder()
    return Plan(study, root, folder, configs, cells, corpus, overrides)


def _seems_finished(folder: StudyFolder, study: StudyConfig) -> bool:
    """Whether every cell has ended and every arm was timed, going by names and states: hashes take the text, which takes time."""
    timed = folder.costs()["arms"]
    ended = (folder.run(arm, seed).read().get("state") in FINISHED for seed in study.seed_list for arm in study.chosen)
    return set(study.chosen) <= set(timed) and all(ended)


def outputs_of(config: RunConfig) -> Path:
    """The outputs folder. Raises RequestError where it cannot be one."""
    outputs = Path(config.outputs).expanduser()
    nearest_there = next(p for p in (outputs.absolute(), *outputs.absolute().parents) if p.exists() or p.is_symlink())
    if not nearest_there.is_dir() or not os.access(nearest_there, os.W_OK):
        what = "is not a folder" if not nearest_there.is_dir() else "cannot be written to"
        raise RequestError(f"outputs={config.outputs}: {nearest_there} {what}; give a folder that can be made")
    return outputs


def _check_request(overrides: list[str], study: StudyConfig) -> None:
    """Refuse settings that the study's arms would silently overrule, and a study without its baseline."""
    set_by_arms = {key_of(o) for arm in study.chosen for o in study.arms[arm]}
    not_an_arms = sorted(k for k in set_by_arms if k.partition(".")[0] in NOT_AN_ARMS or k == "trainer.threads")
    if not_an_arms:
        raise RequestError(
            f"an arm sets {not_an_arms[0]}: arms share text, batches, seeds and folder, or they are no pairs"
        )
    for override in overrides:
        key = key_of(override)
        if any(key == k or key.startswith(f"{k}.") for k in set_by_arms):
            raise RequestError(
                f"{override}: the arms of study={study.name} set {key} themselves; pick arms with study.arms=[...], or "
                f"add one with study.arms.NAME=[{override}]"
            )
        if key in ("seed", "init_seed") or key in ("match", "match_to"):
            advice = "study.seeds=[0,1,2] says which seeds run" if "seed" in key else "it belongs into an arm"
            raise RequestError(f"{override}: `compare` sets {key} cell by cell; {advice}")
        if key == "trainer.threads" and override.partition("=")[2] != "1":
            raise RequestError(
                f"{override}: `compare` runs every cell on one thread; --workers says how many run at once"
            )
    if study.baseline not in study.chosen:
        raise RequestError(
            f"study.baseline={study.baseline} is not among the arms ({', '.join(study.chosen)}): every delta is against it"
        )


def _compose_arms(overrides: list[str], study: StudyConfig, config_dir: Path | None) -> dict[str, Composed]:
    """Each chosen arm composed: the request first, then the arm's own overrides."""
    arms: dict[str, Composed] = {}
    for arm in study.chosen:
        try:
            arms[arm] = compose([*overrides, *study.arms[arm]], config_dir)
        except RequestError as error:
            raise RequestError(f"arm {arm}: {error}") from error
    return arms


def _check_alike(configs: dict[str, RunConfig], baseline: str) -> None:
    """Refuse arms that would run on other hardware or through other kernels than the baseline: what differs is no ablation."""
    for key in ("device", "precision", "compile"):
        wanted = getattr(configs[baseline].trainer, key)
        for arm, config in configs.items():
            found = getattr(config.trainer, key)
            if found != wanted:
                raise RequestError(
                    f"arm {arm}: trainer.{key}={str(found).lower()}, where {baseline} has {str(wanted).lower()}: arms run "
                    f"alike, so give trainer.{key} to all of them, outside the arms"
                )
    for arm, config in configs.items():
        found, wanted = build.kernels_of(config), build.kernels_of(configs[baseline])
        if found != wanted:
            raise RequestError(
                f"arm {arm} would be trained by other code ({found}) than {baseline} ({wanted}), so that their times could not be "
                "compared: give model.context and model.dropout to all arms"
            )


def _matched(configs: dict[str, RunConfig], study: StudyConfig, vocab_size: int) -> dict[str, RunConfig]:
    """Arms with a `match` get the MLP width that restores the count of the baseline, or of the arm that `match_to` names."""
    result = {}
    for arm, config in configs.items():
        if not config.match:
            result[arm] = config
            continue
        to = config.match_to or study.baseline
        if to == arm or to not in configs or configs[to].match:
            allowed = [name for name, c in configs.items() if name != arm and not c.match]
            raise RequestError(
                f"arm {arm}: match={config.match} needs another arm of this study to match, and match_to={to} is none; "
                f"choose one of {', '.join(allowed)}"
            )
        try:
            result[arm] = build.matched(config, configs[to], vocab_size)
        except RequestError as error:
            raise RequestError(f"arm {arm}: {error}") from error
    return result
