"""A sweep: every combination of what its words list, as cells that are checked before the first one runs."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from mha_ablate.config.bridge import apart
from mha_ablate.config.compose import Composed, compose_many, key_of
from mha_ablate.config.schema import RunConfig
from mha_ablate.data.text import Watch, unwatched
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import StudyFolder, write_json
from mha_ablate.study.cell import Cell
from mha_ablate.study.plan import outputs_of
from mha_ablate.study.single import prepared

DEFAULT_NAME = "sweep"
ONE_FOR_ALL = ("outputs", "name", "study")


@dataclass
class Sweep:
    """A sweep's folder and what its cells are made from. A sweeper that chooses as it goes asks for more cells later."""

    folder: StudyFolder
    words: list[str]  # the whole request
    config_dir: Path | None
    fixed: set[str]  # keys that have one value in every cell
    watch: Watch = unwatched
    elsewhere: bool = False  # whether other machines train the cells
    cells: dict[str, Cell] = field(default_factory=dict)  # by `ARM/seed=N`

    def add(self, combinations: list[list[str]]) -> list[Cell]:
        """The cells of these overrides, checked whole. Raises RequestError, in one line that says which one is wrong."""
        arms = {tuple(w for w in words if key_of(w) != "seed"): None for words in combinations}
        composed = dict(zip(arms, self._composed([list(words) for words in arms]), strict=True))
        made: dict[str, Cell] = {}
        ready: dict[tuple[str, ...], Cell] = {}
        for words in combinations:
            arm = tuple(w for w in words if key_of(w) != "seed")
            if arm not in ready:
                ready[arm] = self._first(composed[arm], list(arm))
            cell = self._at(ready[arm], _seed_of(words, ready[arm].seed), words)
            self._take(cell)
            made[cell.name] = cell  # once, however often the lists hold it
        return list(made.values())

    def _composed(self, arms: list[list[str]]) -> list[Composed]:
        try:
            return compose_many(arms, self.config_dir)
        except RequestError as error:
            if len(arms) == 1:
                raise self._told(arms[0], error) from error
        for words in arms:  # to say which
            self._composed([words])
        raise AssertionError("composed apart, they are sound")

    def _told(self, words: list[str], error: RequestError) -> RequestError:
        own = [w for w in words if key_of(w) not in self.fixed]
        return RequestError(f"{' '.join(own)}: {error}" if own and own[0] not in str(error) else str(error))

    def _first(self, composed: Composed, words: list[str]) -> Cell:
        """A cell of an arm at the seed of its settings: all its settings but for the seed are checked here."""
        trainer = composed.config.trainer
        # One thread a cell, unless asked otherwise: bits then do not depend on who runs it.
        config = replace(composed.config, trainer=replace(trainer, threads=trainer.threads or 1))
        try:
            config, corpus = prepared(config, self.watch, elsewhere=self.elsewhere)
        except RequestError as error:
            raise self._told(words, error) from error
        arm = self._name_of(words, composed)
        cell = Cell(
            arm=arm,
            seed=config.seed,
            config=config,
            folder=self.folder.run(arm, config.seed),
            text=corpus.reference,
            overrides=words,
            choices=composed.choices,
        )
        cell.check_arm()
        return cell

    def _name_of(self, words: list[str], composed: Composed) -> str:
        """`FC_OUT` and what else is swept but for the seed, `dense,n_heads=4`; short enough for a folder."""
        swept = [(key_of(w), w.partition("=")[2]) for w in words if key_of(w) not in self.fixed and "=" in w]
        parts = [composed.choices["fc_out"]]
        parts += [f"{key.rpartition('.')[2]}={_plain(value)}" for key, value in swept if key != "fc_out"]
        name = ",".join(parts)
        if len(name.encode()) > 120:
            name = f"{name.encode()[:100].decode(errors='ignore')}~{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return name

    def _at(self, first: Cell, seed: int, words: list[str]) -> Cell:
        config = first.config.with_seed(seed)
        return replace(first, seed=seed, config=config, folder=self.folder.run(first.arm, seed), overrides=words)

    def _take(self, cell: Cell) -> None:
        cell.check_folder()
        name = cell.name
        before = self.cells.setdefault(name, cell)
        if before.hash != cell.hash:
            own = [w for w in cell.overrides if key_of(w) not in self.fixed]
            raise RequestError(f"{' '.join(own)}: another cell of this sweep has the folder {name} already")
        planned = (self.folder.sweep() or {}).get("cells", {}).get(name)
        if planned not in (None, cell.hash):
            raise RequestError(
                f"{cell.folder.path} was to be another run by the sweep that lies there: settings, text or code of the configs "
                "have changed since; give this one name=NEW_NAME"
            )

    def write(self) -> None:
        """sweep.json: every request that this folder had, and the hash of every cell."""
        before = self.folder.sweep() or {}
        words = [word for word in self.words if key_of(word) != "hydra.sweep.dir"]
        asked = {"words": words, "config_dir": str(self.config_dir.resolve()) if self.config_dir else None}
        requests = before.get("requests", [])
        new = {
            "requests": requests if asked in requests else [*requests, asked],
            "swept": sorted({*before.get("swept", []), *self.swept}),
            "cells": {**before.get("cells", {}), **{name: cell.hash for name, cell in self.cells.items()}},
        }
        if {key: before.get(key) for key in new} != new:
            write_json(self.folder.sweep_file, {"written": time.time(), **new})

    @property
    def swept(self) -> list[str]:
        """The keys that tell its cells apart, sorted."""
        return sorted(
            {key_of(w) for cell in self.cells.values() for w in cell.overrides if key_of(w) not in self.fixed}
        )

    def check_neighbours(self) -> None:
        """Raise RequestError where the folder holds a sweep of other keys: its cells and these would be mixed up."""
        before = {*(self.folder.sweep() or {}).get("swept", [])} - {"seed"}
        mine = {*self.swept} - {"seed"}
        if self.cells and before and mine and before != mine:
            raise RequestError(
                f"{self.folder.path} holds a sweep of {', '.join(sorted(before))}: give this one of {', '.join(sorted(mine))} a "
                "folder of its own with name=NEW_NAME"
            )


def _seed_of(words: list[str], usual: int) -> int:
    seeds = [w.partition("=")[2] for w in words if key_of(w) == "seed"]
    if seeds and not re.fullmatch(r"[0-9]{1,10}", seeds[-1]):
        raise RequestError(
            f"seed={seeds[-1]} is no seed: give whole numbers from 0, such as seed=0,1,2 or 'seed=range(8)'"
        )
    return int(seeds[-1]) if seeds else usual


def check_words(words: list[str], fixed: set[str]) -> None:
    """Raise RequestError where what belongs to the sweep as a whole is swept, or would be silently ignored."""
    for word in apart(words)[0]:
        key = key_of(word).partition(".")[0]
        if key == "study":
            raise RequestError(f"{word}: a sweep has no study; `mha-ablate compare` has, and takes hydra/launcher too")
        if key in ONE_FOR_ALL and key not in fixed:
            raise RequestError(f"{word}: {key} holds for the whole sweep and takes one value")


def folder_of(config: RunConfig, sweep_dir: str | None) -> StudyFolder:
    """`hydra.sweep.dir` where it was given, else outputs/NAME. Raises RequestError where it cannot be one."""
    if sweep_dir is not None:
        where = Path(sweep_dir).expanduser()
        outputs_of(replace(config, outputs=str(where)))
        return StudyFolder(where.absolute())
    return StudyFolder((outputs_of(config) / (config.name or DEFAULT_NAME)).absolute())


def _plain(value: str) -> str:
    """A value as a part of a folder's name; a number that was drawn, with six digits."""
    if re.fullmatch(r"-?\d+\.\d{7,}(e-?\d+)?", value):
        value = f"{float(value):.6g}"
    return re.sub(r"[/\\:*?\"<>|\s,'{}\[\]]+", "-", value).strip("-. ") or "-"
