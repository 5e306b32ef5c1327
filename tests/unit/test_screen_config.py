"""The files of the studies over settings, and how factors are given on the command line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mha_ablate.conduct.points import timed_points
from mha_ablate.config.compose import compose, compose_many, known_keys
from mha_ablate.config.schema import StudyConfig, stages_held, stages_of
from mha_ablate.errors import RequestError
from mha_ablate.run.folder import StudyFolder
from mha_ablate.study.parts import Part, check_factors, points_of, write_parts

NAMES = ["init", "embedding", "block", "norm", "attention", "positions", "rate", "warmup", "decay", "heads", "width"]
NAMES += ["bias"]


def study(*words: str) -> StudyConfig:
    return compose(list(words)).config.study


def test_the_screen_has_twelve_factors_in_24_points() -> None:
    found = study("study=screen")
    assert list(found.factor_words) == NAMES
    assert list(found.point_words) == [f"p{n:02d}" for n in range(1, 25)]
    assert all(len(words) == 12 for words in found.point_words.values())
    assert (found.chosen, len(found.seed_list)) == (["dense", "none", "none_scaled", "per_head"], 4)
    assert found.tune is None


@pytest.mark.parametrize(("name", "points", "shared"), [("starts", 15, False), ("loudness", 8, True)])
def test_every_point_of_a_new_study_composes(name: str, points: int, shared: bool) -> None:
    found = study(f"study={name}")
    assert len(found.point_words) == points
    assert found.tune is not None
    assert found.tune.shared is shared
    compose_many([[f"study={name}", *words] for words in found.point_words.values()])


def test_every_level_of_the_screen_composes() -> None:
    levels = [words for both in study("study=screen").factor_words.values() for words in both]
    compose_many([["study=screen", *words] for words in levels])


def test_starts_that_are_0_leave_out_what_is_matched_to_them() -> None:
    [point] = [part for part in points_of(study("study=starts")) if part.point == "zero_out"]
    assert study("study=starts", *point.words).chosen == ["dense", "none", "per_head"]


def test_arms_are_compared_at_the_shared_rate_unless_a_study_says_otherwise() -> None:
    tune = "study.tune={rates: [1e-3,3e-3,1e-2], seeds: [100], widen: 0}"
    found = study("study=lr_fair", tune).tune
    assert found is not None
    assert (found.shared, stages_of(found)) == (True, ("shared", "tuned"))
    assert stages_of(study("study=starts").tune) == ("tuned",)
    assert stages_held({"tune": {"rates": [1, 2, 3]}}) == ("shared", "tuned"), "files from before do not say"
    assert stages_held({"tune": {"shared": False}}) == ("tuned",)
    assert stages_of({"rates": [1, 2, 3], "shared": False}) == ("tuned",)
    assert stages_of(None) == stages_of({}) == stages_held({}) == ("",)


def test_a_table_takes_the_place_of_the_factors() -> None:
    depth = "[[model.n_layers=2,model.d_model=64], model.n_layers=6]"
    table = f"study.factors={{heads: [model.n_heads=4,model.n_heads=1], depth: {depth}}}"
    assert study("study=screen", table).factor_words == {
        "heads": (["model.n_heads=4"], ["model.n_heads=1"]),
        "depth": (["model.n_layers=2", "model.d_model=64"], ["model.n_layers=6"]),
    }
    quoted = """study.factors={w: ["init.out='normal(std=1, 2)'", 'init.out=zeros()']}"""
    assert study("study=screen", quoted).factor_words["w"][1] == ["init.out=zeros()"]


def test_a_list_picks_among_the_factors_in_its_order() -> None:
    found = study("study=screen", "study.factors=[heads, init]")
    assert list(found.factor_words) == ["heads", "init"]
    assert found.point_words["p02"] == ["model.n_heads=4", "init=gpt2"]


def test_a_factor_of_ones_own_joins_the_others_and_can_be_picked() -> None:
    mine = "study.factors.mine=[model.n_layers=2,model.n_layers=6]"
    assert list(study("study=screen", mine).factor_words) == [*NAMES, "mine"]
    picked = study("study=screen", mine, "study.factors=[mine,block]")
    assert picked.factor_words["mine"] == (["model.n_layers=2"], ["model.n_layers=6"])
    redefined = study("study=screen", "study.factors.heads=[model.n_heads=2,model.n_heads=8]", "study.factors=[heads]")
    assert redefined.factor_words == {"heads": (["model.n_heads=2"], ["model.n_heads=8"])}


def test_any_study_can_be_given_factors_and_lose_them() -> None:
    table = "study.factors={heads: [model.n_heads=4,model.n_heads=1]}"
    assert list(study("study=fc_out", table).point_words) == ["p01", "p02"]
    assert study("study=fc_out").has_points is False
    assert study("study=screen", "study.factors=null").has_points is False
    with pytest.raises(RequestError, match=r"study\.points and study\.factors both say"):
        study("study=heads", table)


def test_what_reads_the_command_line_is_no_key_to_be_listed() -> None:
    assert "study.factors" in known_keys()
    assert not {"study.own_factors", "study.pick"} & set(known_keys())


def test_rules_of_starts_are_typed_bare() -> None:
    init = compose(["init.out=normal(std=0.02 / sqrt(2 L))", "init.up='zeros()'"]).config.init
    assert (init.out, init.up) == ("normal(std=0.02 / sqrt(2 L))", "zeros()")


def test_a_folder_takes_a_screen_of_the_same_factors_alone(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = StudyFolder(tmp_path_factory.mktemp("x"))
    block = study("study=screen", "study.factors=[block]")
    check_factors(folder, block)
    write_parts(folder, block, [])
    check_factors(folder, block)
    turned = study("study=screen", "study.factors={block: [model.block=pre,model.block=post]}")
    for other in (study("study=screen", "study.factors=[heads]"), turned, study("study=heads")):
        with pytest.raises(RequestError, match=r"holds a study of block, and this one has .*give name=NEW_NAME"):
            check_factors(folder, other)


def test_the_tuning_of_older_folders_is_not_another_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = StudyFolder(tmp_path_factory.mktemp("x"))
    assert "shared" not in write_parts(folder, study("study=lr_fair"), [])["tune"]
    assert write_parts(StudyFolder(folder.path / "y"), study("study=starts"), [])["tune"]["shared"] is False


def test_a_point_is_timed_unless_an_earlier_one_takes_as_long() -> None:
    def timed(*points: str, **changes: object) -> list[bool]:
        parts = [Part(str(i), tuple(words.split())) for i, words in enumerate(points)]
        return timed_points(replace(study("study=heads"), **changes), parts)

    assert timed("model.n_heads=1", "init=gpt2", "init=torch optim.lr=1e-3", "init=gpt2 model.n_heads=1") == [
        *(True, True, False, False)
    ]
    assert timed("", "init=torch init.out=zeros()", "initial=3") == [True, False, True]
    assert timed("init=gpt2", "init=torch", "model.d_model=8 init=torch") == [True, False, True]
    assert timed_points(study("study=screen"), [Part("p01"), Part("p02", ("model.n_heads=1",))]) == [False, False]


@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_texts_are_levels_where_a_token_is_the_same_unit_of_both(tokenizer: str) -> None:
    text = "study.factors={text: [data=python_docs,data=python_code]}"
    assert list(study("study=screen", text, f"tokenizer={tokenizer}").factor_words) == ["text"]
    for level in ("data=python_docs", "data.max_chars=1000"):
        own = f"study.factors={{text: [{level},data=python_code]}}"
        with pytest.raises(RequestError, match=rf"^study\.factors\.text: {level} cannot be a level with tokenizer=bpe"):
            study("study=screen", own, "tokenizer=bpe")
    assert study("study=heads", "study.points=[data=python_code]", "tokenizer=bpe").has_points


@pytest.mark.parametrize("word", ["study.own_factors=[block]", "+study.own_factors=null", "~study.own_factors"])
def test_the_key_that_keeps_the_factors_is_not_set_by_hand(word: str) -> None:
    with pytest.raises(
        RequestError, match=r"study\.own_factors keeps what study\.factors=\.\.\. says and is not set by hand"
    ):
        study("study=screen", word)
