"""`screen`: the design from the command line to its report, and what is refused before anything is written."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from pathlib import Path

import pytest

from mha_ablate.config.compose import compose
from mha_ablate.config.paths import configs_dir
from mha_ablate.report import write
from tests.conftest import SMALL, Cli
from tests.integration.process import interrupt, start, states, wait_for

OWN = (
    "study.factors={block: [model.block=post,model.block=pre], heads: [model.n_heads=1,model.n_heads=2], "
    "rate: [optim.lr=1e-3,optim.lr=3e-3]}"
)
ONE = "study.factors={block: [model.block=post,model.block=pre]}"
TWO_ARMS = ["study.arms=[dense,none]", "--workers", "2", "-q"]


@pytest.fixture
def tiny(small: list[str]) -> list[str]:
    """Without the sizes that the factors of these tests set, and of two steps."""
    return [
        *[w for w in small if not w.startswith(("model.n_heads", "trainer."))],
        *["trainer.steps=2", "trainer.batch_size=2", "trainer.eval_every=2", "trainer.log_every=2"],
        "trainer.precision=fp32",
    ]


@pytest.fixture
def _no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points without pages and figures of their own, which take longer than such training does."""
    monkeypatch.setattr(write, "page", lambda *_: "")
    monkeypatch.setattr(write, "figures", lambda *_: {})


def written(path: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in path.rglob("run.json")}


@pytest.mark.usefixtures("_no_pages")
def test_a_screen_prints_its_factors_and_a_second_call_trains_nothing(
    cli: Cli, tiny: list[str], tmp_path: Path
) -> None:
    request = ["screen", *tiny, OWN, *TWO_ARMS, "study.seeds=2", "name=mine"]
    done = cli(*request, "--json")
    assert done.code == 0, done.err
    told = done.json
    assert list(told) == ["study", "name", "kind", "plan_hash", "screen", "over_points", "sentence", "notes"]
    assert (told["study"], told["name"], told["kind"]) == ("screen", "mine", "exploratory")
    assert {(row["factor"], row["arm"]) for row in told["screen"]["factors"]} == {
        (name, "none") for name in ("block", "heads", "rate")
    }
    for row in told["screen"]["factors"]:
        assert row.keys() == {"factor", "levels", "arm", "effect", "se", "ci95", "p", "p_holm", "on_baseline"}
        assert row["ci95"][0] < row["effect"] < row["ci95"][1]
        assert len(row["levels"]) == 2
    assert told["screen"]["design"]["runs"] == told["screen"]["design"]["done"] == 8
    assert told["screen"]["aliases"]["mixed"] == {}
    assert list(told["over_points"]) == ["none"]
    assert told["over_points"]["none"].keys() >= {"mean", "ci95", "between_sd", "prediction95"}
    folder = tmp_path / "outputs/mine"
    assert json.loads((folder / "report/report.json").read_text())["screen"] == told["screen"]
    assert len(states(folder)) == 8 * 2 * 2
    configs = {point: (folder / point / "none/seed=0/config.yaml").read_text() for point in ("p01", "p08")}
    assert "block: post" in configs["p01"]
    assert "n_heads: 1\n" in configs["p01"]
    assert "block: pre" in configs["p08"]
    assert "lr: 0.003" in configs["p08"]
    before = written(folder)
    again = cli(*request)
    assert again.code == 0, again.err
    assert written(folder) == before
    assert all(name in again.out for name in ("block", "heads", "rate", "design: 8 points, 3 factors, resolution V"))
    assert "next:" not in again.out, "every combination of the three has run"
    other = cli("screen", *tiny, ONE, *TWO_ARMS, "study.seeds=2", "name=mine")
    assert (other.code, other.out, other.err.count("\n")) == (2, "", 1)
    assert "holds a study of block, heads, rate, and this one has block" in other.err
    assert "give name=NEW_NAME" in other.err
    assert written(folder) == before
    assert cli("report", str(folder), "--json").json["screen"] == told["screen"]


FOUR = ["study.factors=[block,norm,bias,decay]", "model.n_heads=2"]


@pytest.mark.usefixtures("_no_pages")
def test_the_quick_screen_ranks_and_says_that_it_tests_nothing(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    done = cli("screen", "--quick", *tiny, *FOUR, "--workers", "2", "-q", "--json")
    assert done.code == 0, done.err
    found, folder = done.json["screen"], tmp_path / "outputs/screen_quick"
    assert {name.partition("/")[2] for name in states(folder)} == {"dense/seed=0", "none/seed=0"}
    assert (len(states(folder)), set(states(folder).values())) == (8 * 2, {"ok"})
    assert (found["arms"], found["design"]["seeds"], found["tests"]) == (["none"], [1], False)
    assert len(found["factors"]) == 4
    for row in [*found["factors"], *found["pairs"], found["rest"]["none"]]:
        assert (row["p"], row.get("p_holm"), row.get("ci95")) == (None, None, None)
    assert all(row["effect"] is not None for row in found["factors"])
    assert done.json["sentence"].startswith("A ranking that tests nothing, since one seed a point gives no error: ")
    mean = done.json["over_points"]["none"]
    assert (mean["points"], mean["ci95"], mean["between_sd"], mean["prediction95"]) == (8, None, None, None)
    assert isinstance(mean["mean"], float)


@pytest.mark.usefixtures("_no_pages")
def test_the_second_step_that_is_printed_is_a_request_of_the_same_setting(
    cli: Cli, tiny: list[str], tmp_path: Path
) -> None:
    own = tmp_path / "my own"
    (own / "init").mkdir(parents=True)
    shutil.copy(configs_dir() / "init/xavier.yaml", own / "init/mine.yaml")
    given = [*tiny, *FOUR, "init=mine", "init.out=normal(std=0.02 / sqrt(2 L))"]
    done = cli("screen", "--quick", *given, "--config-dir", str(own), "--workers", "2", "-q")
    assert done.code == 0, done.err
    [line] = [line for line in done.out.splitlines() if line.startswith("next: ")]
    assert done.out.count("mha-ablate screen") == 1
    command, screen, *words = shlex.split(line.partition("): ")[2])
    assert (command, screen, words[-2:]) == ("mha-ablate", "screen", ["--config-dir", str(own)])
    config = compose(["study=screen", *words[:-2]], own).config
    assert set(given) - {FOUR[0]} <= set(words), "all that was given, but for the factors"
    rules = config.init
    assert (rules.out, rules.value) == ("normal(std=0.02 / sqrt(2 L))", "uniform(bound=sqrt(6 / (n_in + n_out)))")
    assert len(config.study.factor_words) == 3
    assert set(config.study.factor_words) < {"block", "norm", "bias", "decay"}
    assert (list(config.study.chosen), config.study.seed_list) == (["dense", "none"], [0, 1, 2, 3])
    runs = len(config.study.point_words) * 2 * 4
    assert f"({runs} runs, about " in line
    assert config.name == "screen_follow"


@pytest.mark.usefixtures("_no_pages")
def test_a_screen_that_was_interrupted_goes_on(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    request = ["screen", *tiny, ONE, *TWO_ARMS, "study.seeds=8", "trainer.steps=20", "trainer.eval_every=10"]
    process = start(*request)
    folder = tmp_path / "outputs/screen"
    wait_for(lambda: "ok" in states(folder).values())
    _, err = interrupt(process, signal.SIGINT)
    assert process.returncode == 130, err
    assert "are finished and kept; to go on: mha-ablate screen" in err
    kept = {name for name, state in states(folder).items() if state == "ok"}
    before = {file: at for file, at in written(folder).items() if file.parent.relative_to(folder).as_posix() in kept}
    done = cli(*request, "--json")
    assert done.code == 0, done.err
    assert {file: at for file, at in written(folder).items() if file in before} == before
    assert len(states(folder)) == 2 * 2 * 8
    assert set(states(folder).values()) == {"ok"}


@pytest.mark.usefixtures("_no_pages")
def test_a_screen_that_was_planned_is_confirmatory(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    words = ["study=screen", "study.factors=[block]", "study.arms=[dense,none]", "name=ahead"]
    made = cli("plan", *tiny, *words, "--sd", "0.01", "--effect", "1", "--json")
    assert made.code == 0, made.err
    assert made.json["contrasts"].keys() == {"p01 none", "p02 none"}
    folder = tmp_path / "outputs/ahead"
    held = json.loads((folder / "parts.json").read_text())
    assert held["factors"] == {"block": [["model.block=post"], ["model.block=pre"]]}
    assert not written(folder)
    done = cli("screen", *held["request"], "--workers", "2", "-q", "--json")
    assert done.code == 0, done.err
    assert (done.json["kind"], done.json["plan_hash"]) == ("confirmatory", made.json["hash"])
    assert done.json["screen"]["tests"] is True
    assert len(written(folder)) == made.json["cells"] == 2 * 2 * 8


def test_a_plan_of_other_factors_is_replaced_until_something_has_run(cli: Cli, tiny: list[str], tmp_path: Path) -> None:
    words = ["plan", *tiny, "study=screen", "study.arms=[dense,none]", "name=x", "--sd", "0.01", "--effect", "1"]
    assert cli(*words, "study.factors=[norm,bias]", "model.n_heads=2").code == 0
    made = cli(*words, ONE, "model.n_heads=2", "--json")
    assert made.code == 0, made.err
    held = json.loads((tmp_path / "outputs/x/parts.json").read_text())
    assert (list(held["factors"]), list(held["points"]), held["hash"]) == (["block"], ["p01", "p02"], made.json["hash"])
    run = tmp_path / "outputs/x/p01/dense/seed=0/run.json"
    run.parent.mkdir(parents=True, exist_ok=True)
    run.write_text("{}")
    said = cli(*words, "study.factors=[norm,bias]", "model.n_heads=2")
    assert (said.code, said.err.count("\n")) == (2, 1), said.err
    assert "outputs/x holds runs already, and a plan comes before them: give name=NEW_NAME" in said.err
    assert json.loads((tmp_path / "outputs/x/parts.json").read_text()) == held


def factors(**levels: str) -> str:
    return f"study.factors={{{', '.join(f'{name}: {both}' for name, both in levels.items())}}}"


MANY = factors(**{f"f{n}": "[model.n_layers=1,model.n_layers=2]" for n in range(25)})
UNEVEN = factors(heads="[model.n_heads=4,model.n_heads=3]", width="[model.d_model=64,model.d_model=96]")
TUNE = "study.tune={rates: [1e-3,3e-3,9e-3], seeds: [100], widen: 0}"
PLAN = ["plan", "--sd", "0.01", "study=screen"]
# (command line, words that the one line must hold)
WRONG: list[tuple[list[str], list[str]]] = [
    (["screen", "--quick", "study=fc_out"], ["study=fc_out: --quick chooses study=screen; leave one of them out"]),
    (["screen", "study=fc_out"], ["study=fc_out has no factors", "`mha-ablate compare study=fc_out` runs it"]),
    (["screen", "study.factors={}"], ["study=screen has no factors"]),
    (["screen", "study.factors=null"], ["study=screen has no factors"]),
    (["screen", "study.factors=[unknown]"], ["no factor 'unknown'; there are init, embedding, block"]),
    (["screen", "study.factors=[blok]"], ["no factor 'blok' (did you mean 'block'?)"]),
    (["screen", "study.factors=[block,block]"], ["names a factor twice"]),
    (["screen", "study.factors=[[block]]"], ["no factor '['block']'"]),
    (["screen", "study.factors=block"], ["study.factors=block is no table: give two levels each"]),
    (["screen", "study.factors={x: [a=1,a=2]"], ["cannot read 'study.factors={x: ", "study.factors=[init,block]"]),
    (["screen", factors(x="[model.block=pre]")], ["study.factors.x=", "has not two levels: give"]),
    (["screen", factors(x="model.block=pre")], ["study.factors.x=", "has not two levels: give"]),
    (["screen", factors(x="[a=1,a=2,a=3]")], ["study.factors.x=", "has not two levels: give"]),
    (["screen", factors(x="[pre,post]")], ["study.factors.x: the level pre is neither KEY=VALUE nor a list of such"]),
    (["screen", factors(x="[optim.lr=1,optim.lr=1]")], ["study.factors.x: both levels are optim.lr=1", "that differ"]),
    (["screen", factors(x="[name=a,name=b]")], ["study.factors.x: name=a cannot be a level", "no setting"]),
    (["screen", factors(x="[study.seeds=1,study.seeds=2]")], ["study.factors.x: study.seeds=1 cannot be a level"]),
    (["screen", "study.factors.x=3"], ["study.factors.x=3 has not two levels"]),
    (["screen", MANY], ["study.factors has 25 factors, and a screening design takes 1 to 24"]),
    (["screen", "study.points=[model.n_heads=1,model.n_heads=2]"], ["study.points and study.factors both say where"]),
    (["screen", factors(x="[model.blok=pre,model.blok=post]")], ["study.factors.x, level model.blok=pre: unknown key"]),
    (
        ["screen", factors(x="[model.block=pre,model.block=pots]")],
        ["study.factors.x, level model.block=pots", "'post'"],
    ),
    (
        ["screen", UNEVEN],
        [
            "design point p02 (model.n_heads=3 model.d_model=64) cannot be built: ",
            "model.d_model=64 is not divisible by model.n_heads=3",
        ],
    ),
    (
        ["screen", factors(rate="[optim.lr=1e-3,optim.lr=0.001]"), "model.n_heads=2"],
        ["design points p01 (optim.lr=1e-3) and p02 (optim.lr=0.001) are the same setting", "give levels that differ"],
    ),
    (
        ["screen", factors(init="[init=gpt2,init=zero_out]"), "model.n_heads=2", "study.arms=[dense,none_scaled]"],
        ["design point p02 (init=zero_out) cannot be built: arm none_scaled: ", "gain 0", "=learned"],
    ),
    (
        ["screen", factors(x="[fc_out=dense,fc_out=none]")],
        ["fc_out=dense cannot be a level", "what the arms differ in"],
    ),
    (["screen", factors(x="[fc_out.rank=1,fc_out.rank=2]")], ["fc_out.rank=1 cannot be a level", "study.arms.NAME="]),
    (["screen", factors(x="[tokenizer=char,tokenizer=byte]")], ["tokenizer=char cannot be", "are not comparable"]),
    (
        ["screen", factors(x="[data.max_chars=500,data.max_chars=900]"), "tokenizer=bpe"],
        ["data.max_chars=500 cannot be a level with tokenizer=bpe", "not comparable", "use tokenizer=char"],
    ),
    (["screen", "study.own_factors=[block]"], ["study.own_factors", "is not set by hand: give study.factors=[block]"]),
    (["screen", "++study.own_factors.x=[a=1,a=2]"], ["study.own_factors", "is not set by hand"]),
    (
        ["screen", "study.factors=[block,rate,heads]", TUNE],
        [
            "study.factors.rate sets optim.lr, which study.tune replaces",
            "study.factors=[block,heads], or study.tune=null",
        ],
    ),
    (
        [*PLAN, "study.factors=[block,rate]", TUNE, "model.n_heads=2"],
        ["study.factors.rate sets optim.lr, which study.tune replaces"],
    ),
    ([*PLAN, factors(x="[model.blok=pre,model.blok=post]")], ["study.factors.x, level model.blok=pre: unknown key"]),
    ([*PLAN, UNEVEN], ["design point p02 (model.n_heads=3 model.d_model=64) cannot be built: ", "not divisible"]),
    (
        [*PLAN, factors(rate="[optim.lr=1e-3,optim.lr=0.001]"), "model.n_heads=2"],
        ["design points p01 (optim.lr=1e-3) and p02 (optim.lr=0.001) are the same setting", "give levels that differ"],
    ),
    (["plan", "--sd", "0.01", "study=starts"], ["study.tune.shared=false", "give study.tune.shared=true"]),
    (["train", "init=gtp2"], ["init=gtp2: no such choice (did you mean 'gpt2'?)"]),
    (["train", "init.out=normal(std=-1)"], ["init.out=normal(std=-1): '-1' is -1, no finite number from 0 on"]),
    (["train", "init.out=normaal(std=1)"], ["init.out=normaal(std=1): ", "is none of normal(std=...)"]),
    (["train", "init.out=normal(std=9^9^9^9)"], ["init.out=normal(std=9^9^9^9): '9^9^9^9' is no formula"]),
    (["train", "init.out=normal(std=9**9**9**9)"], ["init.out=normal(std=9**9**9**9): ", "is no formula"]),
    (
        ["train", "init=zero_out", "fc_out=none", "attention.branch_scale=matched", "model.n_heads=2"],
        ["attention.branch_scale=matched: ", "gain 0", "=learned"],
    ),
]


@pytest.mark.parametrize(("argv", "words"), WRONG, ids=[" ".join(argv)[:60] for argv, _ in WRONG])
def test_what_cannot_be_screened_is_one_line_and_nothing_is_written(
    argv: list[str], words: list[str], cli: Cli, text_file: Path, tmp_path: Path
) -> None:
    few = [word for word in SMALL if not word.startswith(("model.n_heads", "model.d_model"))]
    arms = [] if argv[0] == "train" else ["study.arms=[dense,none]"]
    given = [*few, "data=text", f"data.path={text_file}", f"outputs={tmp_path / 'outputs'}", *arms]
    said = cli(argv[0], *given, *argv[1:])
    assert (said.code, said.out, said.err.count("\n")) == (2, "", 1), said
    for word in words:
        assert word in said.err
    assert not (tmp_path / "outputs").exists()
