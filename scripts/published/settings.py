"""Tables of docs/findings.md and README.md on what the answer hinges on: starts of the weights, a screen, loudness, a tutorial."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mha_ablate.report.assemble import assemble
from mha_ablate.report.joint import joint_report, start_gain
from mha_ablate.report.joint_page import OVER, over_rows
from mha_ablate.report.screen import columns, lines, rows, short_levels
from mha_ablate.report.starts import COLUMNS
from mha_ablate.report.starts import rows as start_rows
from mha_ablate.report.tables import delta_text, verdict_text
from mha_ablate.study.collect import collect
from mha_ablate.study.parts import TUNED

STARTS, SCREEN, FOLLOW, LOUDNESS, TUTORIAL = "starts", "screen", "screen_follow", "loudness", "tutorial"
STUDIES = (STARTS, SCREEN, FOLLOW, LOUDNESS, TUTORIAL)
MAP = "map"  # the table of README.md
SHOWN = ("none", "none_scaled", "per_head")
TIED = "_tied"  # ends the name of a point of the starts whose embedding is tied
CODES = {  # whose start it is, in a reader's words
    "gpt2": "GPT-2, nanoGPT: small weights, smaller still at the end of each branch",
    "modernbert": "ModernBERT",
    "llama": "Llama and its kin: 0.02 everywhere",
    "torch": "PyTorch as it comes: `nn.Linear`, `nn.Embedding`",
    "torch_mha": "`nn.MultiheadAttention`, `nn.TransformerEncoderLayer`",
    "nn_transformer": "`nn.Transformer`",
    "xavier": "Glorot for each map: Keras from 3.15",
    "keras": "Keras up to 3.14",
    "flax": "Flax, Haiku (LeCun's normal)",
    "t5": "T5",
    "zero_out": "last map of each branch at 0 (nanochat, early 2026)",
}


def reports_of(outputs: Path) -> dict[str, dict[str, Any]]:
    """The reports of the studies that lie there."""
    made: dict[str, Callable[[Path], dict[str, Any]]] = {
        STARTS: joint_report,
        SCREEN: joint_report,
        FOLLOW: joint_report,
        LOUDNESS: joint_report,
        TUTORIAL: _single,
    }
    return {name: make(outputs / name) for name, make in made.items() if (outputs / name).is_dir()}


def _single(folder: Path) -> dict[str, Any]:
    """The report of a study of one part, and the gain that its W_O starts with."""
    study = collect(folder)
    report = assemble(study)
    return {**report, "start_gain": start_gain(study, report["baseline"])}


def tables_of(reports: dict[str, dict[str, Any]], markdown: Callable[..., str]) -> dict[str, str]:
    """By the marks of docs/findings.md that they stand between."""
    made: dict[str, str] = {}
    if (report := reports.get(STARTS)) and report["starts"]:
        made[STARTS] = f"{markdown(COLUMNS, start_rows(report))}\n\n{report['sentence']}"
    if report := reports.get(SCREEN):
        table = markdown(columns(report["screen"])[:-1], [row[:-1] for row in rows(report["screen"])])
        told = "\n".join(f"- {line}" for line in lines(report["screen"]))
        over = markdown(OVER, over_rows(report))
        made[SCREEN] = f"{report['screen']['sentence']}\n\n{table}\n\n{told}\n\n{over}"
    if report := reports.get(FOLLOW):
        made[FOLLOW] = f"{point_rows(report, markdown)}\n\n{report['screen']['sentence']}"
    if report := reports.get(LOUDNESS):
        told = "".join(f"\n\n{curve['sentence']}" for curve in report["curves"].values())
        made[LOUDNESS] = loudness_table(report, markdown) + told
    if report := reports.get(TUTORIAL):
        arms = [(f"`{a['arm']}`", _loss(a), delta_text(a), verdict_text(a)) for a in report["arms"]]
        made[TUTORIAL] = f"{markdown(('arm', 'loss', 'delta, 95%', 'verdict'), arms)}\n\n{report['sentence']}"
    return made


def _loss(arm: dict[str, Any]) -> str:
    mean = arm["val_loss"]["mean"]
    return "-" if mean is None else f"{mean:.4f}"


def point_rows(report: dict[str, Any], markdown: Callable[..., str]) -> str:
    """A row a point of a screen: its levels, the baseline's loss, and what each arm costs there."""
    levels = {row["factor"]: short_levels(row["levels"]) for row in report["screen"]["factors"]}
    design, arms = report["screen"]["design"]["points"], report["screen"]["arms"]
    made = []
    for part in report["parts"]:
        found = {arm["arm"]: arm for arm in part["arms"]}
        at = [levels[name][sign > 0] for name, sign in design[part["point"]].items()]
        made.append((*at, _loss(part["arms"][0]), *(_half(found[arm]) for arm in arms)))
    return markdown(
        (*next(iter(design.values())), f"loss of `{report['screen']['baseline']}`", *(f"`{a}`" for a in arms)), made
    )


def loudness_table(report: dict[str, Any], markdown: Callable[..., str]) -> str:
    """A row a gain: the baseline's loss and what each arm costs, at the shared rate and at own best rates."""
    gains = sorted({part["x"] for part in report["parts"]})
    by_place = {(part["x"], part["stage"]): part for part in report["parts"]}
    stages = list(dict.fromkeys(part["stage"] for part in report["parts"]))
    made = []
    for gain in gains:
        cells: list[str] = []
        for stage in stages:
            base, *others = by_place[gain, stage]["arms"]
            cells += [_loss(base), *(_half(arm) for arm in others)]
        made.append((f"{gain:g}", *cells))
    names = {"shared": "shared rate", TUNED: "own rates"}
    arms = [arm["arm"] for arm in report["parts"][0]["arms"]]
    told = [f"loss of `{arms[0]}`", *(f"`{arm}`" for arm in arms[1:])]
    head = [f"{names.get(stage, '')}: {what}" for stage in stages for what in told]
    return markdown(("gain", *head), made)


def map_rows(reports: dict[str, dict[str, Any]], markdown: Callable[..., str]) -> str:
    """README.md's table: a row a start, how much louder the branch becomes, and what each way to do without costs."""
    report = reports[STARTS]
    parts = [part for part in report["parts"] if part["stage"] == TUNED]
    made = []
    for part in sorted(parts, key=lambda part: part["start_gain"] or 0.0):
        arms = {arm["arm"]: arm for arm in part["arms"][1:]}
        gain = part["start_gain"]
        louder = f"{1 / gain:.1f}x" if gain else "from 0"
        cells = [_half(arms[arm]) if arm in arms else "-" for arm in SHOWN]
        made.append((*_code(part["point"]), louder, *cells))
    if report := reports.get(TUTORIAL):
        arms = {arm["arm"]: arm for arm in report["arms"][1:]}
        name = "the block of the tutorial with `embed_size`, `heads`, `fc_out` (post-norm)"
        made.append(
            (
                name,
                "`model=tutorial attention=tutorial`",
                f"{1 / report['start_gain']:.1f}x",
                *(_half(arms[arm]) for arm in SHOWN),
            )
        )
    head = (
        "your code",
        "setting",
        "times larger without",
        *(f"`{arm}`" for arm in SHOWN),
    )
    return markdown(head, made)


def _code(point: str) -> tuple[str, str]:
    """Whose start a point is, and what chooses it: of `gpt2_tied`, GPT-2's with the output layer tied to the embedding."""
    init = point.removesuffix(TIED)
    code = CODES.get(init, init)
    if init == point:
        return code, f"`init={init}`"
    return f"{code}; output layer tied to the embedding", f"`init={init} model.tied_embedding=true`"


def _half(arm: dict[str, Any]) -> str:
    """`+0.17 ±0.04 worse`, rounded to what matters; with few seeds it is a look."""
    delta = arm["delta"]
    if not delta or not delta["ci95"]:
        return "-"
    half = (delta["ci95"][1] - delta["ci95"][0]) / 2
    told = verdict_text(arm).replace("costs", "worse").replace("helps", "better")
    return f"{delta['mean']:+.3f} ±{half:.3f} {told}"
