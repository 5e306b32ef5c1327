"""Input made to break things ends in a result or in one line, never in a traceback. `scripts/hostile_test` does more of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scripts.reliability.hostile import TEXT, ending, kinds, make_origin
from tests.conftest import SMALL, Cli

EXAMPLES = {"settings of `train`": 40, "text": 30, "a folder for `report`": 12, "a folder for `replay`": 6}
UNCHECKED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
NAMES = [kind.name for kind in kinds(Path())]


@pytest.fixture(scope="session")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, to be copied and harmed."""
    return make_origin(tmp_path_factory.mktemp("origin") / "hostile")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_ends_in_a_traceback(name: str, origin: Path) -> None:
    kind = next(kind for kind in kinds(origin) if kind.name == name)

    @settings(max_examples=EXAMPLES.get(name, 15), derandomize=True, database=None, deadline=None,
              suppress_health_check=UNCHECKED)  # fmt: skip
    @given(kind.drawn)
    def one(drawn: object) -> None:
        with tempfile.TemporaryDirectory() as folder:
            assert ending(kind, drawn, Path(folder)) in ("accepted", "refused", "failed")

    one()


@settings(
    max_examples=20,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=UNCHECKED,
)
@given(words=st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)))
def test_the_command_line_refuses_in_one_line(words: list[str], cli: Cli) -> None:
    said = cli("train", "nosuch=1", *(f"{word}=1" for word in words))
    assert (said.code, said.out) == (2, ""), said
    assert said.err.count("\n") == 1


def test_a_line_of_ten_megabytes_is_text_like_any_other(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    file.write_text(TEXT.replace("\n", " ") * (10_000_000 // len(TEXT)), encoding="utf-8")
    said = cli("train", *SMALL, "data=text", f"data.path={file}", f"outputs={tmp_path / 'outputs'}")
    assert said.code == 0, said.err
