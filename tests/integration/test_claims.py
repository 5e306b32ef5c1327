"""`claims`: the quick form from the command line, and what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from scripts.published import findings
from tests.conftest import Cli


@pytest.mark.slow
def test_the_quick_form_tells_all_four_claims(cli: Cli, small: list[str], tmp_path: Path) -> None:
    words = ["claims", "--quick", *small, "study.seeds=2", "-q"]
    told = cli(*words, "--json")
    assert told.code == 0, told.err
    cards = told.json["claims"]
    assert [card["claim"] for card in cards] == ["integration", "expressive_power", "alignment", "stability"]
    assert all({"verdict", "evidence"} <= card.keys() for card in cards)
    by_name = {card["claim"]: card for card in cards}
    assert by_name["alignment"]["verdict"] == "supported only if"
    assert {row["where"] for row in by_name["integration"]["evidence"]} >= {
        "base, shared rate",
        "n_heads=1, own best rate",
    }
    assert len(by_name["expressive_power"]["evidence"]) == 8
    other = cli("claims", "study=gates", *small, "study.seeds=2", "name=claims_quick", "-q")
    assert (other.code, "holds study=claims_quick, and this is study=gates: give name=NEW_NAME" in other.err) == (
        2,
        True,
    )
    again = cli(*words)
    assert again.code == 0, again.err
    assert again.out.startswith("What none costs in nats per token over 2 paired seeds, ")
    assert "tested by  per_head (fc_out=per_head), 2 seeds" in again.out
    told = cli("report", str(tmp_path / "outputs/claims_quick"))
    assert "tested by  per_head (fc_out=per_head), 2 seeds" in told.out, "a report has the cards as well"
    assert "alignment: supported only if n_heads x head_dim != d_model" in again.out
    assert (tmp_path / "outputs/claims_quick/report/report.html").exists()
    published(tmp_path)


def published(place: Path) -> None:
    """docs/findings.md takes its tables and figures from such folders, or from what is kept of them."""
    for name in ("gates", "claims_controls"):
        shutil.copytree(place / "outputs/claims_quick", place / "outputs" / name)
    (place / "outputs/claims_quick").rename(place / "outputs/claims")
    page = place / "findings.md"
    names = ("claims", "contrasts", "effort", "steps", "beyond", "controls", "gates", "hadamard")
    page.write_text("\n\n".join(f"<!-- {name}: begin -->\nold\n<!-- {name}: end -->" for name in names))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(findings, "PAGE", page)
        patch.setattr(findings, "FIGURES", place)
        patch.setattr(findings, "RUNS", place / "runs")
        assert findings.main([str(place / "nothing")]) == 2
        assert findings.main(["--check"]) == 2, "nothing is kept yet"
        assert findings.main([str(place / "outputs"), "--write"]) == 0
        assert findings.main([str(place / "outputs"), "--keep"]) == 0
        before = [file.read_bytes() for file in sorted((place / "runs").iterdir())]
        assert findings.main([str(place / "outputs"), "--keep"]) == 0
        assert [file.read_bytes() for file in sorted((place / "runs").iterdir())] == before, "the same bytes again"
        shutil.rmtree(place / "outputs")
        assert findings.main(["--check"]) == 0, "what is kept gives the same tables"
        text = page.read_text()
        page.write_text(text.replace("| base | ", "| Base | ", 1))
        assert findings.main(["--check"]) == 1
        assert findings.main(["--write"]) == 0
        assert page.read_text() == text
        (place / "runs/gates.tar.xz").write_bytes(before[-1][:200])
        assert findings.main(["--check"]) == 2
    assert text.count("\n| alignment: supported only if n_heads x head_dim != d_model") == 1
    assert text.count("| in part: only if n_heads x head_dim != d_model |") == 1
    assert text.count("`mha-ablate claims study=claims_quick`, exploratory, plan `") == 1
    arms = "| `none` | `none_scaled` | `per_head` | `none_mlp` | seeds | plan |"
    assert text.count(f"| shared rate {arms}") == text.count(f"| own best rate {arms}") == 2, "claims and controls"
    assert len(re.findall(r"^\| (base|n_heads=1) \|( [+-]0.\d{4} ±\d.\d{4} \w+ \|){4} 2 \| `", text, re.M)) == 2 * 2 * 2
    assert text.count("\n- alignment: supported only if n_heads x head_dim != d_model; all 2 rows decide.") == 1
    assert len(re.findall(r"^\| (base|n_heads=1) \w.* rate \|( [+-]0.\d{4} ±\d.\d{4} \|){4}$", text, re.M)) == 4, (
        "steps"
    )
    assert text.count("| per_head minus dense, beyond n_heads=1 | base, shared rate |") == 1
    assert text.count("\nold\n") == 1, "what has not run keeps its place"
    assert {"findings_base.png", "findings_deltas.png", "findings_rates.png"} <= {
        file.name for file in place.glob("*.png")
    }


def test_the_page_says_what_its_runs_say(capsys: pytest.CaptureFixture[str]) -> None:
    code = findings.main(["--check"])
    assert code == 0, capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--quick", "study=fc_out"], "--quick chooses study=claims_quick"),
        (["study.claims.x.says=3"], "study.claims.x"),
        (["study=fc_out"], "study=fc_out has no claims: `mha-ablate compare study=fc_out` runs it"),
        (["study.claims.integration.costs=[nobody]"], "no arm beside the baseline"),
        (["study.claims.integration.costs=[]"], "rests on nothing"),
        (["study.tune=null"], "needs study.tune"),
        (
            ["+study.claims.integration.expects.none=worse"],
            "none=worse is none of costs, helps, level, no_worse, no_better",
        ),
        (["study.claims.integration.at=[nowhere]"], "names nowhere, no point of this study"),
    ],
)
def test_what_cannot_be_tried_is_one_line(
    words: list[str], said: str, cli: Cli, small: list[str], tmp_path: Path
) -> None:
    told = cli("claims", *small, *words, "-q")
    assert (told.code, told.out) == (2, "")
    assert said in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()
