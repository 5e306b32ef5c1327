"""Run folders back to plain values: what reports and TensorBoard are made from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from mha_ablate.config.catalog import choice_names
from mha_ablate.config.flat import flat
from mha_ablate.config.paths import configs_dir
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
        """The start of the weights, as `torch`; where a rule is not that of its file, as `torch, out=uniform(gain=2)`."""
        own = own_rules(self.about, self.config)
        return ", ".join([init_of(self.about), *(f"{name}={rule}" for name, rule in own.items())])

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
    """The choice of `init` in a run.json; before there was a choice it was GPT-2's."""
    return about.get("choices", {}).get("init") or "gpt2"


def own_rules(about: dict[str, Any], config: dict[str, Any]) -> dict[str, str]:
    """The rules of a run's init that are not those of the file of its choice.

    Of a choice that does not come with this package, whose file is not known here: those that the run's words set.
    """
    rules: dict[str, str] = config.get("init") or {}
    if (of_file := _rules_of_file(init_of(about))) is not None:
        return {name: rule for name, rule in rules.items() if of_file.get(name) != rule}
    keys = [word.partition("=")[0].lstrip("+") for word in about.get("overrides", [])]
    return {name: rule for name, rule in rules.items() if f"init.{name}" in keys}


@cache
def _rules_of_file(init: str) -> dict[str, str] | None:
    """The rules in configs/init; None where this package has no such choice."""
    if init not in choice_names("init"):
        return None
    return dict(parsed_yaml(read_text(configs_dir() / "init" / f"{init}.yaml")))


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
    abouts = {about["arm_hash"]: about for _, about in found}
    names = {h: name for arm, of_arm in hashes.items() for h, name in _told_apart(arm, of_arm, configs, abouts).items()}
    labels = {f.path: names[about["arm_hash"]] for f, about in found}
    if len({(labels[f.path], about["seed"]) for f, about in found}) < len(found):
        labels = {f.path: f.path.parent.relative_to(root).as_posix() for f, about in found}
    return labels


def _told_apart(
    arm: str, hashes: list[str], configs: dict[str, dict[str, Any]], abouts: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """A label for each configuration of one name: up to three settings in which they differ, or the hash."""
    if len(hashes) == 1:
        return {hashes[0]: arm}
    settings = {
        h: {**start, **{k: v for g in SWEPT for k, v in flat(configs[h].get(g) or {}, f"{g}.").items()}}
        for h, start in _starts(hashes, configs, abouts).items()
    }
    keys = list(dict.fromkeys(key for known in settings.values() for key in known))
    differing = [key for key in keys if len({str(known.get(key)) for known in settings.values()}) > 1][:3]
    words = {h: [f"{key.rpartition('.')[2]}={known.get(key)}" for key in differing] for h, known in settings.items()}
    if len({tuple(told) for told in words.values()}) == len(hashes):
        return {h: " ".join([arm, *told]) for h, told in words.items()}
    return {h: f"{arm} {h[:6]}" for h in hashes}


def _starts(
    hashes: list[str], configs: dict[str, dict[str, Any]], abouts: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The choice of init of each configuration, and those rules that are not the file's in one of them."""
    own = list(dict.fromkeys(name for h in hashes for name in own_rules(abouts[h], configs[h])))
    rules = {h: configs[h].get("init") or _rules_of_file(init_of(abouts[h])) or {} for h in hashes}
    return {h: {"init": init_of(abouts[h]), **{f"init.{name}": rules[h].get(name) for name in own}} for h in hashes}


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
