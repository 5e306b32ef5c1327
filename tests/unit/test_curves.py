"""A study along the initial gain of W_O: at which gains two curves coincide and at which they part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mha_ablate.cli.common import print_joint
from mha_ablate.report.joint import joint_report, write_joint
from tests.unit.test_screen_report import finished

SIZES = {"n_layers": 2, "d_ff": None, "head_dim": None}
# by gain: none minus dense at each of eight seeds, up and down by the second number
CURVES = {0.25: (0.2, 0.01), 0.5: (0.02, 0.05), 1: (0.001, 0.004), 2: (-0.002, 0.004), 4: (-0.1, 0.01)}


def along(root: Path, curves: dict[float, tuple[float, float]], gains: dict[float, float] | None = None) -> Path:
    """A study whose points are named by a gain, and whose W_O starts with it."""
    for gain, (mean, by) in curves.items():
        rules = {"out": f"uniform(gain={(gains or {}).get(gain, gain):g})"}
        deltas = {"none": [mean + by * (-1) ** seed for seed in range(8)]}
        finished(root / f"gain={gain:g}", deltas, {"model": SIZES, "init": rules})
    whole: dict[str, Any] = {"study": "loudness", "baseline": "dense", "tune": None}
    (root / "parts.json").write_text(json.dumps(whole | {"points": {f"gain={gain:g}": [] for gain in curves}}))
    return root


def test_a_sentence_says_where_the_curves_coincide_and_where_they_part(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = along(tmp_path / "x", CURVES)
    report = write_joint(root)
    found = report["curves"]["none"]
    kinds = {kind: found[kind] for kind in ("coincide", "worse", "better", "open")}
    assert kinds == {"coincide": [1, 2], "worse": [0.25], "better": [4], "open": [0.5]}
    assert (found["n"], found["margin"]) == ([8, 8], 0.01)
    said = (
        "By the gain that W_O starts with, none against dense (8 paired seeds): they coincide at 1 and 2 (90% interval within "
        "±0.01 nats); none is worse at 0.25; none is better at 4; undecided at 0.5."
    )
    assert found["sentence"] == said
    assert said in report["sentence"]
    assert said in (root / "report/report.html").read_text()
    assert json.loads((root / "report/report.json").read_text())["curves"] == {"none": found}
    print_joint(report)
    assert said in " ".join(capsys.readouterr().out.split())


def test_curves_that_nowhere_coincide_or_part_are_said_to(tmp_path: Path) -> None:
    apart = joint_report(along(tmp_path / "apart", {0.5: (0.2, 0.01), 1: (0.3, 0.01)}))["curves"]["none"]["sentence"]
    assert "found to coincide at no gain (90% interval within ±0.01 nats); none is worse at 0.5 and 1." in apart
    open_yet = joint_report(along(tmp_path / "open", {0.5: (0.02, 0.05), 1: (0.01, 0.05)}))["curves"]["none"][
        "sentence"
    ]
    assert open_yet.endswith("; they are found to part at no gain (Holm); undecided at 0.5 and 1.")


def test_what_is_not_along_that_gain_has_no_such_sentence(tmp_path: Path) -> None:
    other = joint_report(along(tmp_path / "other", CURVES, gains=dict.fromkeys(CURVES, 1.0)))
    assert (other["axis"]["numeric"], other["curves"]) == (True, {}), "its points are other numbers"
    alone = along(tmp_path / "alone", CURVES)
    (alone / "parts.json").unlink()
    assert joint_report(alone)["curves"] == {}, "studies that happen to lie together"
