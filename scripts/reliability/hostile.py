"""Input that somebody made to break things: what is drawn, what is done with it, and how that may end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mha_ablate.errors import RequestError, RunFailed
from scripts.reliability import settings_drawn
from scripts.reliability.folders_harmed import HARMS, Harm, harmed
from scripts.reliability.texts_drawn import texts

SMALL = [
    "model.d_model=16",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.context=8",
    "trainer.steps=3",
    "trainer.batch_size=2",
    "trainer.eval_every=3",
    "trainer.log_every=1",
    "trainer.precision=fp32",
    "optim.warmup_steps=1",
]
TEXT = "".join(f"{i} plus {j} is {i + j}.\n" for i in range(9) for j in range(9))


@dataclass(frozen=True)
class Kind:
    """A kind of input: what is drawn, and what is done with it in an empty folder.

    `attempt` raises RequestError to refuse.
    """

    name: str
    drawn: SearchStrategy[Any]
    attempt: Callable[[Any, Path], object]


def ending(kind: Kind, given: Any, folder: Path) -> str:
    """`accepted`, `refused` or `failed` (a run); any other exception, and no helpful line, goes through."""
    try:
        with chdir(folder):
            kind.attempt(given, folder)
    except (RequestError, RunFailed) as error:
        said = " ".join(str(error).split())
        if not said or len(said) > 20_000:
            raise AssertionError(f"no helpful line: {said[:200]!r}") from error
        return "failed" if isinstance(error, RunFailed) else "refused"
    return "accepted"


def _train(words: list[str], folder: Path) -> None:
    from mha_ablate.study.single import single_cell

    single_cell([*_base(folder), *words])


def _compare(words: list[str], folder: Path) -> None:
    from mha_ablate.study.plan import make_plan

    make_plan([*_base(folder), *words])


def _arm(words: list[str], folder: Path) -> None:
    listed = ",".join(f'"{w}"' for w in words if '"' not in w) or "fc_out=none"
    _compare([f"study.arms.x=[{listed}]", "study.arms=[dense,x]"], folder)


def _base(folder: Path) -> list[str]:
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return [*SMALL, "data=text", "data.path=text.txt"]


def _text(given: tuple[bytes, str], folder: Path) -> None:
    from mha_ablate import build
    from mha_ablate.config.compose import compose
    from mha_ablate.corpora import corpus_of

    content, tokenizer = given
    (folder / "text.txt").write_bytes(content)
    words = [*SMALL, "data=text", "data.path=text.txt", f"tokenizer={tokenizer}", "data.split=tail"][:-1]
    corpus_of(build.resolved(compose(words).config))


def _report(given: tuple[list[Harm], Path], folder: Path) -> None:
    from mha_ablate.cli.common import print_report
    from mha_ablate.report.write import write_report

    study = _copied(given, folder)
    made = write_report(study)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        import contextlib

        with contextlib.redirect_stdout(nowhere):
            print_report(made)


def _replay(given: tuple[list[Harm], Path], folder: Path) -> None:
    from mha_ablate.run.folder import RunFolder
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.replay import replay

    study = _copied(given, folder)
    replay(RunFolder(next(iter(sorted(study.rglob("run.json")))).parent), Observer())


def _again(given: tuple[list[Harm], Path], folder: Path) -> None:
    """All that `compare` reads of a folder before and after it trains."""
    from mha_ablate.run.state import find_state, saved_step
    from mha_ablate.study.execute import costs_are_known
    from mha_ablate.study.plan import make_plan

    study = _copied(given, folder)
    text = json.loads((given[1].parent / "request.json").read_text(encoding="utf-8"))
    plan = make_plan([*text, f"outputs={study.parent}"])
    for cell in plan.cells:
        cell.finished()
        find_state(cell.folder, cell.hash)
        saved_step(cell.folder)
        cell.folder.lines()
    plan.write()
    costs_are_known(plan)


def _copied(given: tuple[list[Harm], Path], folder: Path) -> Path:
    harms, origin = given
    study = folder / "outputs" / origin.name
    shutil.copytree(origin, study)
    harmed(study, harms)
    return study


def make_origin(folder: Path) -> Path:
    """A finished study of two arms and one seed, to be harmed: `<folder>/outputs/hostile`, and the request beside it."""
    from mha_ablate.study.execute import Pool, run_cells, time_arms, times_by_worker
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.plan import make_plan

    (folder / "outputs").mkdir(parents=True)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    request = [
        *SMALL,
        "data=text",
        f"data.path={folder / 'text.txt'}",
        "study.arms=[dense,none]",
        "study.seeds=2",
        "name=hostile",
    ]
    (folder / "outputs/request.json").write_text(json.dumps(request), encoding="utf-8")
    plan = make_plan([*request, f"outputs={folder / 'outputs'}"])
    plan.folder.path.mkdir(parents=True)
    plan.write()
    pool = Pool(1)
    try:
        run_cells(plan, pool, Observer())
        time_arms(plan, Observer(), times_by_worker(pool, Observer()))
    finally:
        pool.stop()
    return plan.folder.path


def kinds(origin: Path) -> list[Kind]:
    """Every kind of input. `origin` is the study that is harmed (`make_origin`)."""
    drawn = settings_drawn
    folders = st.tuples(HARMS, st.just(origin))
    return [
        Kind("settings of `train`", drawn.of_train(), _train),
        Kind("settings of `compare`", drawn.of_compare(), _compare),
        Kind("settings of an arm", drawn.of_an_arm(), _arm),
        Kind("sizes of `train`", drawn.sizes(layers=16, width=2**20), _train),
        Kind("sizes of `compare`", drawn.sizes(layers=4, width=2**17), _compare),
        Kind("text", st.tuples(texts(), st.sampled_from(("char", "byte", "bpe"))), _text),
        Kind("a folder for `report`", folders, _report),
        Kind("a folder for `replay`", folders, _replay),
        Kind("a folder for `compare`", folders, _again),
    ]
