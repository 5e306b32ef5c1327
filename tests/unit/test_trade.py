"""What loss costs: the frontier, what it takes to reach the baseline's loss, and the page that shows them."""

from __future__ import annotations

import json
import re
import shutil
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mha_ablate.report.assemble import assemble
from mha_ablate.report.plots import FAINT, LEGIBLE, colours, forest_height, legible
from mha_ablate.report.style import COLOURS, CSS, inline
from mha_ablate.report.tables import (
    ESTIMATES,
    TESTS,
    certainty_rows,
    estimate_rows,
    in_latex,
    latex,
    ledger_rows,
    reach_rows,
)
from mha_ablate.report.trade import SIDE_BY_SIDE, frontier, priced, priced_keys, to_reach, unequal
from mha_ablate.report.trade_plots import PLACES, box_of, crowd
from mha_ablate.report.write import write_report
from mha_ablate.study.collect import collect
from tests.synthetic import write_study
from tests.unit.test_joint import CHAIN, changed, made


def arms_at(**arms: tuple[float | None, float | None]) -> dict[str, Any]:
    return {
        "arms": [{"arm": a, "val_loss": {"mean": loss}, "cost": {"params": cost}} for a, (loss, cost) in arms.items()]
    }


def test_an_arm_that_is_worse_and_dearer_is_not_on_the_frontier() -> None:
    found = frontier(arms_at(a=(2.0, 10), b=(2.1, 5), c=(2.2, 7), d=(1.9, 20), e=(None, 1), f=(2.0, None)), "params")
    assert found == ["a", "b", "d"]


def test_arms_that_are_alike_are_both_on_it_and_one_that_ties_in_loss_must_be_cheapest() -> None:
    assert frontier(arms_at(a=(2.0, 10), b=(2.0, 10), c=(2.0, 11)), "params") == ["a", "b"]


def curves_of(path: Path, **arms: list[list[tuple[int, float]]]) -> Path:
    """A study whose runs have these evaluations, by arm and seed; the last one is the final loss."""
    write_study(path, arms=list(arms), seeds=len(next(iter(arms.values()))), evaluations=1)
    for arm, seeds in arms.items():
        for seed, points in enumerate(seeds):
            folder = path / arm / f"seed={seed}"
            lines = [
                {"step": s, "loss/val": loss, "gflop": 2.0 * s, "train_s": 0.1 * s, "wall_time": 1.0}
                for s, loss in points
            ]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            run = json.loads((folder / "run.json").read_text())
            run["result"] |= {"val_loss": points[-1][1], "step": points[-1][0]}
            (folder / "run.json").write_text(json.dumps(run))
    return path


def test_reaching_by_hand(tmp_path: Path) -> None:
    path = curves_of(
        tmp_path / "s",
        dense=[[(10, 4.0), (20, 3.0), (30, 2.0)], [(10, 4.0), (20, 3.0), (30, 2.5)]],
        fast=[[(10, 3.0), (20, 1.0), (30, 0.9)], [(10, 2.4), (20, 2.0), (30, 1.9)]],
        slow=[[(10, 5.0), (20, 4.0), (30, 2.1)], [(10, 4.0), (20, 3.0), (30, 2.4)]],
        never=[[(10, 5.0), (20, 5.0), (30, 5.0)], [(10, 5.0), (20, 5.0), (30, 5.0)]],
    )
    study = collect(path)
    # seed 0: from 3.0 at 10 to 1.0 at 20, 2.0 lies in the middle; seed 1 is there at its first evaluation
    assert to_reach(study, "fast", "dense", {"step_ms": 100.0}) == {
        "reached": 2,
        "of": 2,
        "steps": pytest.approx((15 + 10) / 2),
        "seconds": pytest.approx(1.25),
        "gflop": pytest.approx(25.0),
        "loss": pytest.approx((2.0 + 2.5) / 2),
        "by_seed": {"0": pytest.approx(15.0), "1": 10.0},
    }
    slow = to_reach(study, "slow", "dense", {})
    assert slow is not None
    assert (slow["reached"], slow["of"], slow["seconds"]) == (1, 2, None)
    assert slow["steps"] == pytest.approx(20 + 10 * 0.5 / 0.6)
    assert to_reach(study, "never", "dense", {"step_ms": 1.0}) == {
        "reached": 0,
        "of": 2,
        "steps": None,
        "seconds": None,
        "gflop": None,
        "loss": pytest.approx(2.25),
        "by_seed": {"0": None, "1": None},
    }
    base = to_reach(study, "dense", "dense", {"step_ms": 1.0})
    assert base is not None
    assert base["steps"] == 30
    assert to_reach(study, "missing", "dense", {}) is None
    base_row, fast_row, slow_row, never_row = reach_rows(assemble(study))
    assert base_row == ("dense", "2 of 2", "30", "60", "2.4", "30, 30")
    assert fast_row == ("fast", "2 of 2", "12 (42%)", "25 (42%)", "1.0 (42%)", "15, 10")
    assert slow_row == ("slow", "1 of 2", "28", "57", "2.3", "never, 28"), "no share of what half of the seeds say"
    assert never_row == ("never", "0 of 2", *["not reached"] * 3, "never, never")


def test_the_ledger_has_shares_of_the_baseline(tmp_path: Path) -> None:
    report = assemble(collect(made(tmp_path / "s")))
    report["arms"][1]["cost"] |= {"params": 500, "step_ms": 40.0, "step_ratio": 0.25, "tokens_per_s": 36000.0}
    report["arms"][0]["cost"] |= {"tokens_per_s": 9000.0}
    base, other = ledger_rows(report)[:2]
    assert base[1] == "1.00k"
    assert other[1] == "500 (50%)"
    assert (other[5], other[6]) == ("40.0 (25%)", "36.0k (400%)"), "times by the ratio of rounds"


def test_latex_sets_any_name(tmp_path: Path) -> None:
    assert in_latex(r"a_b & 5% {x} \y ~^ ±0.1") == (
        r"a\_b \& 5\% \{x\} \textbackslash{}y \textasciitilde{}\textasciicircum{} $\pm$0.1"
    )
    assert in_latex("<a|b>") == r"\textless{}a\textbar{}b\textgreater{}"
    assert (in_latex("-0.1 ±0.2"), in_latex("-"), in_latex("a-1")) == (r"$-$0.1 $\pm$0.2", "-", "a-1")
    text = latex(assemble(collect(made(tmp_path / "s"))))
    assert text.startswith("% \\usepackage{booktabs}\n\\begin{tabular}{lrrrrrl}\n\\toprule\n")
    assert text.endswith("\\bottomrule\n\\end{tabular}\n")
    assert text.count("{") == text.count("}")
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [line.replace(r"\&", "").count("&") for line in body] == [6] * 5
    assert r"none\_scaled" in text


class Sections(HTMLParser):
    """Headings and figures in their order; raises where tags do not close."""

    VOID = ("meta", "br", "path", "use", "rect", "image", "line", "circle")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "svg":
            self.found.append("svg")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "h2":
            self.found.append(data)


def sections(path: Path) -> list[str]:
    parser = Sections()
    parser.feed((path / "report/report.html").read_text())
    assert parser.open == []
    return parser.found


SECTIONS = [
    "Arms",
    "What it costs",
    "Until it is as good as dense ends",
    "Runs that did not end well",
    "Every statistic",
]
SECTIONS += ["Every seed", "Where this comes from", "How to read this"]


def test_the_page_has_its_sections_in_order(tmp_path: Path) -> None:
    path = made(tmp_path / "s", waterfall=CHAIN)
    write_report(path)
    found = sections(path)
    assert [word for word in found if word in SECTIONS] == SECTIONS
    assert found.index("Arms") == 3, "forest, waterfall, curves"
    page = (path / "report/report.html").read_text()
    assert "Exploratory" in page
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids)), "an id stands once, though figures have letters in common"
    assert set(re.findall(r'(?:href="|url\()#([\w-]+)', page)) <= set(ids), "and what is referred to is there"
    assert page.count('role="img" aria-label="') == page.count("<svg")
    assert {f.name for f in (path / "report").iterdir()} >= {"waterfall.svg", "trade.png", "table.tex", "answer.svg"}


@pytest.mark.parametrize(("arms", "seeds"), [(1, 3), (2, 1), (34, 2)])
def test_a_page_of_any_size_is_whole(tmp_path: Path, arms: int, seeds: int) -> None:
    path = write_study(tmp_path / "s", arms=["dense", *(f"arm{i}" for i in range(1, arms))], seeds=seeds, evaluations=3)
    report = write_report(path)
    assert "How to read this" in sections(path)
    assert len(legible(report)) == min(arms, LEGIBLE + 1)
    assert forest_height(report) < 14


def ended(path: Path, arm: str, seed: int, state: str, error: str) -> None:
    file = path / arm / f"seed={seed}" / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"state": state, "error": error}))


@pytest.fixture
def mishaps(tmp_path: Path) -> Path:
    """A study of four arms and three seeds, of which one diverged, one failed and one was never begun."""
    path = write_study(tmp_path / "s", arms=["dense", "none", "half", "well"], seeds=3, evaluations=3)
    ended(path, "none", 1, "diverged", "the loss was not finite at step 7")
    ended(path, "half", 0, "failed", "RuntimeError: <boom>")
    shutil.rmtree(path / "half" / "seed=2")
    write_report(path)
    return path


def test_runs_that_did_not_end_well_have_their_own_section(mishaps: Path) -> None:
    page = (mishaps / "report/report.html").read_text()
    section = page[page.index("Runs that did not end well") : page.index("Every statistic")]
    cells = [re.findall(r'<td class="reason">(.*?)</td>', row) for row in section.split("<tr>")[2:]]
    assert cells == [
        ["none", "1", "diverged", "the loss was not finite at step 7"],
        ["half", "0", "failed", "RuntimeError: &lt;boom&gt;"],
        ["half", "2", "missing", "no run in this folder"],
    ]


def test_what_is_left_of_an_arm_is_not_on_the_frontier(mishaps: Path) -> None:
    report = json.loads((mishaps / "report/report.json").read_text())
    assert unequal(report) == ["none", "half"]
    assert set(priced(report, "params")) == {"dense", "well"}
    assert "ended well at other seeds than the baseline: none, half." in (mishaps / "report/report.html").read_text()


def test_times_that_were_not_taken_side_by_side_are_not_drawn(tmp_path: Path) -> None:
    report = assemble(collect(write_study(tmp_path / "s", arms=["dense", "none"], seeds=2, evaluations=2)))
    assert priced_keys(report) == ["params", "flops_per_token"]
    for arm in report["arms"]:
        arm["cost"] |= {"timed": SIDE_BY_SIDE, "step_ratio": 0.5 if arm["arm"] == "none" else 1.0}
    assert priced_keys(report)[-1] == "step_ms"
    assert [cost for _, cost in priced(report, "step_ms").values()] == [80.0, 40.0]


def test_of_many_arms_the_removal_is_drawn_and_no_colour_twice(tmp_path: Path) -> None:
    path = write_study(tmp_path / "s", arms=["dense", "none", *(f"arm{i}" for i in range(30))], seeds=2, evaluations=2)
    report = assemble(collect(path))
    report["arms"][1]["cost"]["params_fc_out"] = 0
    kept = legible(report)
    assert list(kept) == ["dense", "none", *(f"arm{i}" for i in range(23, 30))], (
        "the synthetic arms go up by their number"
    )
    assert len(set(kept.values())) == len(kept)
    assert {colour for arm, colour in colours(report).items() if arm not in kept} == {FAINT}


def test_the_command_on_the_page_is_the_one_that_was_given(tmp_path: Path) -> None:
    path = write_study(tmp_path / "a study", arms=["dense", "none"], seeds=2, evaluations=2)
    write_report(path, baseline="none", margin=0.02)
    page = unescape((path / "report/report.html").read_text())
    assert f"<code>mha-ablate report '{path}' --baseline none --margin 0.02</code>" in page


def test_statistics_say_what_they_are(mishaps: Path) -> None:
    page = (mishaps / "report/report.html").read_text()
    for heading, word in (*ESTIMATES.items(), *TESTS.items()):
        assert f"<th>{escape(heading)}" + (f"<small>{escape(word)}</small>" if word else "") in page
    report = json.loads((mishaps / "report/report.json").read_text())
    assert [len(row) for row in estimate_rows(report)] == [len(ESTIMATES)] * 3
    assert [len(row) for row in certainty_rows(report)] == [len(TESTS)] * 3


def test_names_in_a_trade_do_not_cover_each_other() -> None:
    boxes: list[tuple[float, float, float, float]] = []
    for _ in range(3):  # at one place
        options = [box_of((100.0, 100.0), "name", dx, dy, side) for dx, dy, side in PLACES]
        best = min(options, key=lambda box: crowd(box, boxes, 200.0, 200.0))
        assert crowd(best, boxes, 200.0, 200.0) == 0
        boxes.append(best)
    assert crowd((190.0, 0.0, 210.0, 9.0), [], 200.0, 200.0) > 0, "nor leave the axes"


def test_a_plan_is_named_where_there_was_one_ahead(tmp_path: Path) -> None:
    power = {"effect": 1.0, "power": 0.8, "alpha": 0.05, "contrasts": {"none": {}}}
    path = changed(write_study(tmp_path / "s", arms=["dense", "none"], seeds=3, evaluations=2), power=power)
    write_report(path)
    assert "Confirmatory: " in (path / "report/report.html").read_text()


def test_every_colour_of_a_figure_has_one_by_night(tmp_path: Path) -> None:
    path = made(tmp_path / "s", waterfall=CHAIN)
    write_report(path)
    for svg in (path / "report").glob("*.svg"):
        text = inline(svg.read_text())
        left = {c.lower() for c in re.findall(r"(?:fill|stroke): (#[0-9a-f]{6})", text, flags=re.IGNORECASE)}
        assert left == set(), f"{svg.name} draws in {left}, which the page does not know"
    night = CSS[CSS.index("@media screen and (prefers-color-scheme: dark)") :]
    assert all(f"--{name}:{dark};" in night for name, dark in COLOURS.values())
