"""Run folders back to plain values: what reports and TensorBoard are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mha_ablate.config.flat import flat
from mha_ablate.data.corpus import IDENTITY
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import RunFolder, StudyFolder
from mha_ablate.run.shape import config_of, parsed_yaml, read_text

SWEPT = ("fc_out", "attention", "model", "optim", "trainer", "tokenizer")  # groups whose settings tell arms apart


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
    def init(self) -> str:
        """The start of the weights that was chosen; before there was a choice it was GPT-2's."""
        return init_of(self.about)

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

    def arm_hash(self, arm: str) -> str:
        """The configuration that the runs of an arm share, seeds aside; empty where it has none."""
        return next((run.about["arm_hash"] for run in self.of(arm)), "")


def init_of(about: dict[str, Any]) -> str:
    """The choice of `init` in a run.json."""
    return about.get("choices", {}).get("init") or "gpt2"


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
    configs: dict[str, dict[str, Any]] = {}
    for f, about in found:
        if not configs.get(about["arm_hash"]):
            configs[about["arm_hash"]] = _config(f)
    labels = _labels(found, configs, path)
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
    try:
        return config_of(parsed_yaml(read_text(folder.config_file)))
    except (OSError, ValueError):
        return {}


def _labels(
    found: list[tuple[RunFolder, dict[str, Any]]], configs: dict[str, dict[str, Any]], root: Path
) -> dict[Path, str]:
    """A label per run: its arm's name; where runs of one name differ in more than the seed, what they differ in.

    So the runs of any sweep are arms by whatever was swept: `none n_heads=4`. Where their files do not say what differs, the hash
    tells them apart; where two runs share even the seed (studies side by side), the folder's path is the label.
    """
    hashes: dict[str, list[str]] = {}
    for _, about in found:
        of_name = hashes.setdefault(about["arm"], [])
        if about["arm_hash"] not in of_name:
            of_name.append(about["arm_hash"])
    inits = {about["arm_hash"]: init_of(about) for _, about in found}
    names = {h: name for arm, of_arm in hashes.items() for h, name in _told_apart(arm, of_arm, configs, inits).items()}
    labels = {f.path: names[about["arm_hash"]] for f, about in found}
    if len({(labels[f.path], about["seed"]) for f, about in found}) < len(found):
        labels = {f.path: f.path.parent.relative_to(root).as_posix() for f, about in found}
    return labels


def _told_apart(
    arm: str, hashes: list[str], configs: dict[str, dict[str, Any]], inits: dict[str, str]
) -> dict[str, str]:
    """A label for each configuration of one name: up to three settings in which they differ, or the hash."""
    if len(hashes) == 1:
        return {hashes[0]: arm}
    settings = {
        h: {"init": inits[h], **{k: v for g in SWEPT for k, v in flat(configs[h].get(g) or {}, f"{g}.").items()}}
        for h in hashes
    }
    keys = list(dict.fromkeys(key for known in settings.values() for key in known))
    differing = [key for key in keys if len({str(known.get(key)) for known in settings.values()}) > 1][:3]
    words = {h: [f"{key.rpartition('.')[2]}={known.get(key)}" for key in differing] for h, known in settings.items()}
    if len({tuple(told) for told in words.values()}) == len(hashes):
        return {h: " ".join([arm, *told]) for h, told in words.items()}
    return {h: f"{arm} {h[:6]}" for h in hashes}


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
