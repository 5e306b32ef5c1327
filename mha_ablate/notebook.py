"""The Python interface: the same studies and runs as on the command line, with tidy data back."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """A finished study. `table` has one row an arm, `runs` one row per arm, seed and logged step."""

    folder: Path
    report: dict[str, Any]
    failure: str | None

    @property
    def sentence(self) -> str:
        """The answer."""
        return self.report["sentence"]

    @property
    def notes(self) -> list[str]:
        """What to know before believing it."""
        return self.report["notes"]

    @property
    def table(self) -> pd.DataFrame:
        """One row an arm: losses and deltas in nats per token, the delta's 95% interval, verdict, costs.

        Of a study of several parts one row per part and arm.
        """
        import pandas as pd

        if "parts" in self.report:
            parts = self.report["parts"]
            return pd.DataFrame([{"part": part["folder"], **_row(arm)} for part in parts for arm in part["arms"]])
        return pd.DataFrame([_row(arm) for arm in self.report["arms"]])

    @property
    def runs(self) -> pd.DataFrame:
        """As `load_runs`; of a study of several parts, with the part that a run belongs to."""
        if "parts" not in self.report:
            return load_runs(self.folder)
        import pandas as pd

        parts = [part["folder"] for part in self.report["parts"]]
        return pd.concat([load_runs(self.folder / part).assign(part=part) for part in parts], ignore_index=True)

    def _columns_and_rows(self) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
        from mha_ablate.report.joint import COLUMNS, rows
        from mha_ablate.report.tables import wide

        return (COLUMNS, rows(self.report)) if "parts" in self.report else wide(self.report)

    def __str__(self) -> str:
        """The table and the sentence, as text."""
        from mha_ablate.report.tables import markdown_table

        lines = [markdown_table(*self._columns_and_rows()), self.sentence, *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, *([f"failed: {self.failure}"] if self.failure else [])])

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        head, body = self._columns_and_rows()
        header = "".join(f"<th>{escape(word)}</th>" for word in head)
        rows = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in body)
        notes = "".join(f"<p>note: {escape(note)}</p>" for note in self.notes)
        failed = f"<p><b>failed</b>: {escape(self.failure)}</p>" if self.failure else ""
        return f"<table><tr>{header}</tr>{rows}</table><p><b>{escape(self.sentence)}</b></p>{notes}{failed}"


@dataclass(frozen=True)
class Run:
    """One finished run: its folder, its state (ok or diverged), its final validation loss, its run.json."""

    folder: Path
    about: dict[str, Any]

    @property
    def state(self) -> str:
        """`ok`, or `diverged` where the loss was no longer finite."""
        return self.about["state"]

    @property
    def val_loss(self) -> float | None:
        """Nats per token over the whole validation split; None if it diverged."""
        return self.about["result"]["val_loss"]

    @property
    def curve(self) -> pd.DataFrame:
        """One row a logged step."""
        return load_runs(self.folder)


def compare(
    *overrides: str, workers: int | None = None, quiet: bool = False, config_dir: str | Path | None = None
) -> Comparison:
    """Train every arm of a study at every seed, as `mha-ablate compare OVERRIDES` does; what is finished is not trained again.

    `compare("study.seeds=8", "model.n_heads=8", "name=eight")`. Raises RequestError, in one line, for a wrong request.
    Where a cell failed the others are reported all the same, and `failure` says which and why.
    """
    from mha_ablate.cli.live import study_view
    from mha_ablate.conduct import conduct

    _check_words(overrides)
    with study_view(quiet=quiet) as view:
        done = conduct(list(overrides), workers=workers, observer=view, config_dir=_path(config_dir))
    return Comparison(done.folder, done.report, done.failure)


def train(*overrides: str, quiet: bool = False, config_dir: str | Path | None = None) -> Run:
    """Train one model, as `mha-ablate train OVERRIDES` does: `train("fc_out=none", "trainer.steps=50")`.

    Raises RequestError, in one line, for what is wrong with the request.
    """
    from mha_ablate.cli.live import run_view
    from mha_ablate.conduct import conduct_run

    _check_words(overrides)
    with run_view(quiet=quiet) as view:
        folder, about, _ = conduct_run(list(overrides), observer=view, config_dir=_path(config_dir))
    return Run(folder, about)


def load_runs(folder: str | Path) -> pd.DataFrame:
    """Everything that the runs below a folder logged: one row per arm, seed and logged step, one column a measurement.

    A value that was not measured at a step, or was not finite, is missing. Raises RequestError where there is no run, or where
    runs on different text lie side by side.
    """
    import pandas as pd

    from mha_ablate.study.collect import collect

    rows: list[dict[str, Any]] = []
    for run in collect(Path(folder)).runs:
        steps: dict[int, dict[str, Any]] = {}
        for line in run.folder.lines():  # a step that is logged and evaluated has two
            steps.setdefault(line["step"], {"arm": run.arm, "seed": run.seed, "state": run.state}).update(line)
        rows += steps.values()
    return pd.DataFrame(rows)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _check_words(overrides: tuple[Any, ...]) -> None:
    """Raise RequestError for an override that is no string."""
    from mha_ablate.errors import RequestError

    for word in overrides:
        if not isinstance(word, str):
            raise RequestError(f"{word!r} is no override: each is a string of its own, such as 'fc_out=none', 'seed=1'")


def _row(arm: dict[str, Any]) -> dict[str, Any]:
    delta, cost = arm["delta"] or {}, arm["cost"]
    low, high = delta.get("ci95") or (None, None)
    return {
        "arm": arm["arm"],
        "overrides": " ".join(arm["overrides"]),
        "seeds": arm["n"],
        "val_loss": arm["val_loss"]["mean"],
        "delta": delta.get("mean"),
        "ci95_low": low,
        "ci95_high": high,
        "p_holm": delta.get("p_holm"),
        "verdict": arm["verdict"],
        "look": arm["look"],
        "params": cost.get("params"),
        "params_fc_out": cost.get("params_fc_out"),
        "flops_per_token": cost.get("flops_per_token"),
        "step_ms": cost.get("step_ms"),
    }
