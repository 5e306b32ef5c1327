"""Run folders back to plain values: what reports and TensorBoard are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mha_ablate.data.corpus import IDENTITY
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import RunFolder, StudyFolder
from mha_ablate.run.shape import config_of, read_text


@dataclass(frozen=True)
class Run:
    """A finished or unfinished run: its arm, seed, state, final loss, and the lines that hold a validation loss.

    `config` is config.yaml, seeds left aside: it is read once for all runs that are alike but for those.
    """

    arm: str
    seed: int
    folder: RunFolder
    about: dict[str, Any]
    evaluations: list[dict[str, Any]]
    config: dict[str, Any]

    @cached_property
    def curve(self) -> dict[int, float]:
        """Validation loss by step."""
        return {line["step"]: line["loss/val"] for line in self.evaluations}

    @property
    def state(self) -> str:
        """running, ok, failed or diverged."""
        return self.about.get("state", "running")

    @property
    def val_loss(self) -> float | None:
        """Final validation loss in nats per token; None unless the run ended well."""
        return self.about["result"]["val_loss"] if self.state == "ok" else None


@dataclass(frozen=True)
class Study:
    """The runs of one folder and what is known about them."""

    folder: StudyFolder
    runs: list[Run]
    plan: dict[str, Any] | None
    costs: dict[str, Any]
    left_out: list[Path]  # files that cannot be read, or are not what this package writes

    @property
    def arms(self) -> list[str]:
        """Arms in the order of the plan, run or not, and others after them by name."""
        planned = list(self.plan["arms"]) if self.plan else []
        present = {run.arm for run in self.runs}
        return planned + sorted(present - set(planned))

    def of(self, arm: str) -> list[Run]:
        """The runs of an arm by seed."""
        return sorted((r for r in self.runs if r.arm == arm), key=lambda r: r.seed)


def collect(path: Path) -> Study:
    """Read every run below a folder. Raises RequestError where there is none, or where runs cannot be compared."""
    if not path.is_dir():
        raise RequestError(f"{path} is no folder: give a study's folder such as outputs/fc_out")
    folder = StudyFolder(path)
    plan = folder.plan()
    read = [(f, f.read()) for f in folder.runs()]
    found = [(f, about) for f, about in read if about]
    left_out = [f.run_file for f, about in read if not about]
    left_out += [folder.plan_file] if plan is None and folder.plan_file.exists() else []
    if not found:
        raise RequestError(f"{path} holds no run: give a folder that `mha-ablate compare` or `train` wrote")
    labels = _labels(found, path)
    configs: dict[str, dict[str, Any]] = {}
    for f, about in found:
        if not configs.get(about["arm_hash"]):
            configs[about["arm_hash"]] = _config(f)
    runs = [
        Run(labels[f.path], about["seed"], f, about, _evaluations(f), configs[about["arm_hash"]]) for f, about in found
    ]
    _check_comparable(runs, path)
    return Study(folder, runs, plan, _costs(folder, runs), left_out)


def _costs(folder: StudyFolder, runs: list[Run]) -> dict[str, Any]:
    """The measured costs of those arms whose configuration is still the one that was measured."""
    kept = folder.costs()
    now = {run.arm: run.about["arm_hash"] for run in runs}
    return {a: c for a, c in kept["costs"].items() if a in now and kept["arms"].get(a) == now[a]}


def _evaluations(folder: RunFolder) -> list[dict[str, Any]]:
    return [line for line in folder.lines(holding="loss/val") if line.get("loss/val") is not None]


def _config(folder: RunFolder) -> dict[str, Any]:
    """The run's config.yaml; empty where it cannot be read."""
    import yaml

    try:
        return config_of(yaml.load(read_text(folder.config_file), Loader=_yaml_loader()))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError):
        return {}


def _yaml_loader() -> Any:
    """The safe loader, in C where PyYAML was built with it: ten times faster, and there is a file for each run."""
    import yaml

    return getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _labels(found: list[tuple[RunFolder, dict[str, Any]]], root: Path) -> dict[Path, str]:
    """A label per run: its arm's name; where runs of one name differ in more than the seed, the hash tells them apart.

    Where two runs share even the seed (studies side by side), the folder's path is the label.
    """
    hashes: dict[str, set[str]] = {}
    for _, about in found:
        hashes.setdefault(about["arm"], set()).add(about["arm_hash"])
    labels = {
        f.path: about["arm"] if len(hashes[about["arm"]]) == 1 else f"{about['arm']} {about['arm_hash'][:6]}"
        for f, about in found
    }
    if len({(labels[f.path], about["seed"]) for f, about in found}) < len(found):
        labels = {f.path: f.path.parent.relative_to(root).as_posix() for f, about in found}
    return labels


def _check_comparable(runs: list[Run], path: Path) -> None:
    """Runs on another text, tokenizer or split are never compared."""
    texts = {}
    for run in runs:
        if text := run.about.get("text"):
            texts.setdefault(tuple(str(text.get(key)) for key in IDENTITY), run)
    if len(texts) > 1:
        shown = "; ".join(
            f"{run.folder.path.relative_to(path)}: {run.about['text']['name']}, {run.about['text']['tokenizer']}, "
            f"split {run.about['text']['split']}, sha256 {run.about['text']['sha256'][:8]}"
            for run in list(texts.values())[:2]
        )
        raise RequestError(
            f"{path} holds runs on different text, whose losses cannot be compared ({shown}): report them apart"
        )
