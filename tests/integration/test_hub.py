"""Data sets of the Hub through the real client and the real command line, read from a stand-in on this machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from mha_ablate.config.compose import configs_dir
from mha_ablate.data.hub import _splits
from tests.conftest import Said
from tests.hub import Hub, closed, mute, serving
from tests.integration.process import Resident

SETTINGS: dict[str, dict[str, Any]] = {
    file.stem: found
    for file in sorted((configs_dir() / "data").glob("*.yaml"))
    if (found := yaml.safe_load(file.read_text(encoding="utf-8")))["source"] == "hub"
}
NAMED = [name for name, found in SETTINGS.items() if found["hub"]["name"]]
SHAKESPEARE = Path(__file__).resolve().parents[3] / "shared/data/tiny_shakespeare/input.txt"
COMMIT = "c" * 40
IMPATIENT = "from mha_ablate.data import hub, reach; hub.RETRIES = 0; reach.why_silent.__defaults__ = (0.5,)"
SHARDS, ROWS = 4, 20_000
MINE = ("data=hub", "data.hub.name=me/mine")


def rows_of(split: str, count: int = 300) -> list[str]:
    """Rows as a data set may have them: also an empty one, and one in another script."""
    return [f"Row {i} of {split} is {i % 7} and {i % 11}.\n" for i in range(count)] + ["", "\u4e2d\u6587 \U0001f40d\n"]


def layout(name: str) -> dict[str, list[str]]:
    """The files of a data set as its repository lays them out, by the splits and the configuration of its yaml.

    Where it names a configuration there is another one beside it.
    """
    hub = SETTINGS[name]["hub"]
    files = {f"{hub['config'] or 'data'}/{s}-00000-of-00001.parquet": rows_of(s) for s in hub["splits"]}
    others = {f"another/{s}-00000-of-00001.parquet": [f"other {s}\n"] for s in hub["splits"]} if hub["config"] else {}
    return {**others, **files}


def card(config: str | None, splits: list[str]) -> str:
    """A README as the Hub's own: several configurations stand in its head."""
    if config is None:
        return "---\nlicense: mit\n---\n# A data set\n"
    configs = [
        {"config_name": c, "data_files": [{"split": s, "path": f"{c}/{s}-*"} for s in splits]}
        for c in ("another", config)
    ]
    return f"---\n{yaml.safe_dump({'license': ['mit', 'gpl'], 'configs': configs})}---\n# A data set\n"


def whole(name: str) -> list[str]:
    """The text of a data set, split by split."""
    hub = SETTINGS[name]["hub"]
    return [hub["join"].join(rows_of(split)) for split in hub["splits"]]


def sha256(*parts: str) -> str:
    return hashlib.sha256("".join(parts).encode()).hexdigest()


@dataclass
class World:
    """A stand-in, and folders for a working place and for both caches."""

    folder: Path
    hub: Hub
    online: Resident
    said: dict[str, Said] = field(default_factory=dict)

    @property
    def caches(self) -> dict[str, str]:
        return {"HF_HOME": str(self.folder / "hf"), "MHA_ABLATE_CACHE": str(self.folder / "cache")}

    def add(
        self, name: str, files: dict[str, list[str]] | None = None, *, readme: str = "", commit: str = COMMIT
    ) -> Path:
        """Serve a data set; returns its folder."""
        folder = self.folder / "served" / name
        splits = ("train", "validation")
        self.hub.add(name, folder, commit, files or {f"data/{s}-0.parquet": rows_of(s) for s in splits}, readme)
        return folder

    def show(self, *argv: str) -> Said:
        return self.online.ask("data", "show", *argv)

    def requests_of(self, *argv: str) -> tuple[Said, list[str]]:
        """What a call said, and what it asked the Hub for."""
        before = len(self.hub.requests)
        return self.show(*argv), self.hub.requests[before:]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("hub")
    (folder / "cwd").mkdir()
    env = {"HF_HOME": str(folder / "hf"), "MHA_ABLATE_CACHE": str(folder / "cache")}
    with serving() as hub, Resident(folder / "cwd", IMPATIENT, **env, HF_ENDPOINT=hub.address) as online:
        made = World(folder, hub, online)
        for name in NAMED:
            wanted = SETTINGS[name]["hub"]
            readme = card(wanted["config"], wanted["splits"])
            made.add(wanted["name"], layout(name), readme=readme, commit=wanted["revision"])
        made.add("me/mine", readme=card(None, []))
        yield made


@pytest.fixture(scope="module")
def fetched(world: World) -> World:
    """Every data set fetched once."""
    for name in NAMED:
        world.said[name] = world.show(f"data={name}", "data.sha256=null", "--json")
    world.said["mine"] = world.show(*MINE, "--json")
    return world


def one_line(said: Said, *words: str) -> None:
    """A request that was refused: exit code 2, one line that says why, nothing else."""
    assert said.code == 2, said
    assert said.out == ""
    assert len(said.err.splitlines()) == 1, said.err
    assert said.err.startswith("mha-ablate: ")
    assert "internal error" not in said.err
    for word in words:
        assert word in said.err


# --- every data set that `configs/data` offers


def test_there_are_data_sets_to_fetch() -> None:
    assert {"tiny_shakespeare", "wikitext2", "tinystories"} <= set(NAMED)
    assert all(len(SETTINGS[name]["hub"]["revision"]) == 40 for name in NAMED), (
        "a commit, so that its text never changes"
    )


@pytest.mark.parametrize("name", NAMED)
def test_every_data_set_loads(fetched: World, name: str) -> None:
    said, settings, parts = fetched.said[name], SETTINGS[name], whole(name)
    assert (said.code, said.err) == (0, "")
    about = said.json
    assert about["sha256"] == sha256(*parts)
    assert about["parts"] == [len(part) for part in parts]
    assert about["split"] == "own"
    assert (about["characters"], about["bytes"]) == (sum(map(len, parts)), len("".join(parts).encode()))
    assert (about["train_characters"], about["val_characters"]) == (len(parts[0]), len(parts[1]))
    assert (about["train_bytes"], about["val_bytes"]) == (len(parts[0].encode()), len(parts[1].encode()))
    assert about["vocab_size"] == len(set("".join(parts)))
    assert (about["licence"], about["revision"]) == (settings["licence"], settings["hub"]["revision"])
    assert about["name"] == "/".join(filter(None, [settings["hub"]["name"], settings["hub"]["config"]]))
    assert parts[0].startswith(about["sample"])


def test_a_promised_sha256_is_checked(world: World) -> None:
    right = sha256(*whole("tiny_shakespeare"))
    assert SETTINGS["tiny_shakespeare"]["sha256"] != right
    assert world.show("data=tiny_shakespeare", f"data.sha256={right}", "--json").json["sha256"] == right
    one_line(world.show("data=tiny_shakespeare"), right, SETTINGS["tiny_shakespeare"]["sha256"], "data.sha256=null")


def test_a_text_cut_short_has_no_sha256_to_keep(world: World) -> None:
    one_line(world.show("data=tiny_shakespeare", "data.max_chars=2000"), "data.max_chars=2000", "data.sha256=null")
    said = world.show("data=tiny_shakespeare", "data.max_chars=2000", "data.sha256=null", "--json")
    assert said.code == 0, said.err
    assert said.json["parts"] == [2000, 200, 200]


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason=f"tiny Shakespeare is not at {SHAKESPEARE}")
def test_tiny_shakespeare_in_three_splits_is_the_original_file(tmp_path: Path) -> None:
    settings, text = SETTINGS["tiny_shakespeare"], SHAKESPEARE.read_text(encoding="utf-8")
    first, second = int(len(text) * 0.9), int(len(text) * 0.95)
    parts = (text[:first], text[first:second], text[second:])
    files = {f"data/{s}-0.parquet": [part] for s, part in zip(settings["hub"]["splits"], parts, strict=True)}
    env = {"HF_HOME": str(tmp_path / "hf"), "MHA_ABLATE_CACHE": str(tmp_path / "cache")}
    with serving() as hub, Resident(tmp_path, **env, HF_ENDPOINT=hub.address) as online:
        hub.add(settings["hub"]["name"], tmp_path / "served", settings["hub"]["revision"], files)
        said = online.ask("data", "show", "data=tiny_shakespeare", "--json")
        assert said.code == 0, said.err
        assert said.json["sha256"] == settings["sha256"]
        assert settings["sha256"].startswith("86c4e6aa")
        assert (said.json["vocab_size"], said.json["characters"]) == (65, 1_115_394)


def test_a_data_set_with_max_chars_is_streamed_and_not_fetched_whole(world: World) -> None:
    wanted = SETTINGS["tinystories"]["hub"]
    train = [f"Once upon a time {i} there was a train.{'!' * (i % 9)}" for i in range(SHARDS * ROWS)]
    validation = [f"Once upon a time {i} there was a validation." for i in range(ROWS)]
    files = {f"data/train-0000{i}-of-0000{SHARDS}.parquet": train[i * ROWS : (i + 1) * ROWS] for i in range(SHARDS)}
    world.add("me/stories", {**files, "data/validation-00000-of-00001.parquet": validation}, commit=wanted["revision"])
    said, requests = world.requests_of("data=tinystories", "data.hub.name=me/stories", "data.max_chars=50000", "--json")
    assert said.code == 0, said.err
    parts = ("\n\n".join(train)[:50_000], "\n\n".join(validation)[:5_000])
    assert (said.json["sha256"], said.json["parts"]) == (sha256(*parts), [50_000, 5_000])
    read = {i for i in range(SHARDS) if any(r.startswith("GET") and f"/train-0000{i}-of" in r for r in requests)}
    assert 0 in read
    assert not read & set(range(2, SHARDS)), "two shards at most: what is needed, and what the client looks at ahead"


# --- any data set by its name


def test_a_data_set_by_its_name_is_pinned_to_the_commit_that_was_found(fetched: World) -> None:
    about = fetched.said["mine"].json
    assert (about["revision"], about["licence"], about["split"]) == (COMMIT, "mit", "own")
    parts = ["\n\n".join(rows_of(s)) for s in ("train", "validation")]
    assert (about["sha256"], about["parts"]) == (sha256(*parts), [len(p) for p in parts])


def test_a_licence_that_was_given_is_the_one_that_counts(fetched: World) -> None:
    assert fetched.show(*MINE, "data.licence=mine", "--json").json["licence"] == "mine"
    several = fetched.show("data=wikitext2", "data.licence=null", "data.sha256=null", "--json")
    assert several.json["licence"] == "mit, gpl"


def test_one_split_alone_is_cut_into_blocks(world: World) -> None:
    world.add("me/single", {"data/train-0.parquet": rows_of("train")})
    said = world.show("data=hub", "data.hub.name=me/single", "--json")
    assert (said.json["split"], said.json["parts"]) == ("blocks", None)
    one_line(world.show("data=hub", "data.hub.name=me/single", "data.split=own"), "data.split=blocks")


def test_the_splits_are_those_that_were_chosen(world: World) -> None:
    said = world.show(*MINE, "data.hub.splits=[validation,train]", "--json")
    lengths = [len("\n\n".join(rows_of(s))) for s in ("validation", "train")]
    assert said.json["parts"] == lengths


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["train", "test", "validation"], ["train", "validation"]),
        (["test", "train"], ["train", "test"]),
        (["dev", "training"], ["training", "dev"]),
        (["all"], ["all"]),
        (["test"], ["test"]),
        ([], ["train"]),
    ],
    ids=str,
)
def test_splits_that_nobody_chose_are_training_and_validation_if_there(there: list[str], taken: list[str]) -> None:
    from mha_ablate.data.hub import HubData

    assert _splits(HubData("a/b", None, None, None, "text", ""), there) == taken


def test_a_run_writes_the_commit_down_and_reads_nothing_again(fetched: World) -> None:
    outputs = fetched.folder / "outputs"
    small = ["model.d_model=16", "model.n_layers=1", "model.n_heads=2", "model.context=8", "trainer.steps=2"]
    words = [*MINE, *small, "trainer.batch_size=2", "tokenizer=byte", f"outputs={outputs}", "--json"]
    said = fetched.online.ask("train", *words)
    assert said.code == 0, said.err
    config = yaml.safe_load((Path(said.json["folder"]) / "config.yaml").read_text())
    assert (config["data"]["hub"]["revision"], config["data"]["split"]) == (COMMIT, "own")
    assert said.json["text"]["revision"] == COMMIT
    assert said.json["text"]["licence"] == "mit"
    assert fetched.online.ask("train", *words).json == said.json


# --- without a network


@pytest.fixture(scope="module")
def nowhere(fetched: World) -> Iterator[Resident]:
    """The command line where every connection is refused, with both caches filled."""
    with closed() as address, Resident(fetched.folder / "cwd", **fetched.caches, HF_ENDPOINT=address) as made:
        yield made


@pytest.fixture(scope="module")
def told(fetched: World) -> Iterator[Resident]:
    """The command line where the network is forbidden though it is there, with both caches filled."""
    env = {**fetched.caches, "HF_ENDPOINT": fetched.hub.address, "HF_HUB_OFFLINE": "1"}
    with Resident(fetched.folder / "cwd", **env) as made:
        yield made


def test_a_text_fetched_at_a_commit_is_found_by_branch_too(fetched: World, nowhere: Resident) -> None:
    at_commit = fetched.show(*MINE, f"data.hub.revision={COMMIT}", "data.max_chars=700", "--json")
    newest = fetched.show(*MINE, "data.max_chars=700", "--json")
    offline = nowhere.ask("data", "show", *MINE, "data.max_chars=700", "--json")
    assert offline.code == 0, offline.err
    assert at_commit.json == newest.json == offline.json


def words_of(name: str) -> tuple[str, ...]:
    return MINE if name == "mine" else (f"data={name}", "data.sha256=null")


@pytest.mark.parametrize("name", [*NAMED, "mine"])
@pytest.mark.parametrize("where", ["nowhere", "told"])
def test_what_was_fetched_once_needs_no_network(
    fetched: World, name: str, where: str, request: pytest.FixtureRequest
) -> None:
    resident: Resident = request.getfixturevalue(where)
    before = len(fetched.hub.requests)
    said = resident.ask("data", "show", *words_of(name), "--json", **fetched.caches)
    assert (said.code, said.err) == (0, "")
    assert said.json == fetched.said[name].json
    assert len(fetched.hub.requests) == before


@pytest.mark.parametrize("name", NAMED)
def test_a_commit_that_is_kept_is_not_asked_for_again(fetched: World, name: str) -> None:
    _, requests = fetched.requests_of(f"data={name}", "data.sha256=null")
    assert requests == []


@pytest.mark.parametrize("name", [*(n for n in NAMED if SETTINGS[n]["max_chars"] is None), "mine"])
@pytest.mark.parametrize("where", ["nowhere", "told"])
def test_the_clients_own_cache_is_used_where_ours_is_gone(
    fetched: World, name: str, where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    resident: Resident = request.getfixturevalue(where)
    before = len(fetched.hub.requests)
    ours = {"MHA_ABLATE_CACHE": str(tmp_path / "empty")}
    said = resident.ask("data", "show", *words_of(name), "--json", **ours)
    assert (said.code, said.err) == (0, "")
    assert said.json["sha256"] == fetched.said[name].json["sha256"]
    assert said.json["revision"] == fetched.said[name].json["revision"]
    assert len(fetched.hub.requests) == before


@pytest.mark.parametrize("where", ["nowhere", "told"])
def test_what_is_in_no_cache_is_one_line(fetched: World, where: str, request: pytest.FixtureRequest) -> None:
    resident: Resident = request.getfixturevalue(where)
    before = len(fetched.hub.requests)
    for words in (
        ["data.hub.name=you/nowhere"],
        ["data.hub.name=me/other"],
        ["data.hub.name=me/mine", "data.max_chars=9"],
    ):
        said = resident.ask("data", "show", "data=hub", *words, **fetched.caches)
        if said.code == 0:  # the client's own cache holds all of me/mine, and so its start
            assert words[-1] == "data.max_chars=9"
            continue
        one_line(said, words[0], "cannot be reached", "data prepare", "data=python_docs")
    assert len(fetched.hub.requests) == before


def test_another_commit_than_the_one_in_the_cache_is_not_taken_for_it(fetched: World, nowhere: Resident) -> None:
    said = nowhere.ask("data", "show", *MINE, f"data.hub.revision={'d' * 40}", **fetched.caches)
    one_line(said, "cannot be reached")


def test_a_server_that_never_answers_is_one_line_and_the_cache_is_used(fetched: World) -> None:
    env = fetched.caches
    with mute() as address, Resident(fetched.folder / "cwd", IMPATIENT, **env, HF_ENDPOINT=address) as silent:
        assert silent.ask("data", "show", *MINE, "--json").json == fetched.said["mine"].json
        one_line(silent.ask("data", "show", "data=hub", "data.hub.name=you/nowhere"), "did not answer")


def test_training_without_network_or_cache_writes_nothing(fetched: World, nowhere: Resident, tmp_path: Path) -> None:
    said = nowhere.ask("train", "data=hub", "data.hub.name=you/nowhere", f"outputs={tmp_path / 'outputs'}")
    assert said.code == 2
    assert [line for line in said.err.splitlines() if "cannot be reached" in line] == said.err.splitlines()[-1:]
    assert "Traceback" not in said.err
    assert list(tmp_path.iterdir()) == []


# --- what is wrong with a request or with a data set


@pytest.fixture(scope="module")
def broken(world: World) -> World:
    """Data sets that cannot be used, each in its own way."""
    for name in ("me/gated", "me/dying", "me/junk", "me/columns"):
        folder = world.add(name)
        file = folder / "data/train-0.parquet"
        if name == "me/junk":
            file.write_bytes(b"PAR1" + b"no parquet at all " * 100 + b"PAR1")
        if name == "me/columns":
            for split in ("train", "validation"):
                table = pa.table({"text": ["a", "b"] * 50, "number": list(range(100))})
                pq.write_table(table, folder / f"data/{split}-0.parquet")
    world.hub.gated.add("me/gated")
    world.hub.dying.add("me/dying")
    return world


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.hub.name=nonsense"], ["data.hub.name=nonsense", "OWNER/NAME"]),
        (["data.hub.name=../../etc"], ["OWNER/NAME"]),
        (["data.hub.name=no/such"], ["data.hub.name=no/such", "doesn't exist"]),
        (["data.hub.name=Salesforce/wikitext"], ["data.hub.config=", "another, wikitext-2-raw-v1"]),
        (["data.hub.name=Salesforce/wikitext", "data.hub.config=wikitext"], ["data.hub.config=", "wikitext-2-raw-v1"]),
        (["data.hub.name=me/mine", "data.hub.splits=[train,dev]"], ["'dev'", "train, validation", "data.hub.splits="]),
        (["data.hub.name=me/mine", "data.hub.column=txt"], ["'txt'", "there are text", "data.hub.column="]),
        (["data.hub.name=me/mine", "data.hub.column=txt", "data.max_chars=9"], ["'txt'", "data.hub.column="]),
        (["data.hub.name=me/mine", "data.hub.revision=v9"], ["v9"]),
        (["data.hub.name=me/mine", f"data.hub.revision={'d' * 40}"], ["d" * 40]),
        (["data.hub.name=me/columns", "data.hub.column=number"], ["'number' holds no text", "data.hub.column="]),
        (["data.hub.name=me/gated"], ["data.hub.name=me/gated", "gated"]),
        (["data.hub.name=me/junk"], ["data.hub.name=me/junk", "arquet"]),
        (["data.hub.name=me/junk", "data.max_chars=100"], ["data.hub.name=me/junk", "arquet"]),
        (["data.hub.name=me/dying", "data.max_chars=100"], ["data.hub.name=me/dying"]),
    ],
    ids=lambda value: " ".join(w.partition("=")[2] for w in value) if "=" in value[0] else "",
)
def test_what_cannot_be_used_is_one_line(broken: World, words: list[str], said: list[str]) -> None:
    one_line(broken.show("data=hub", *words), *said)
    assert list((broken.folder / "cwd").iterdir()) == []
    assert not list((broken.folder / "cache").rglob(".mha_ablate-*"))


def test_a_data_set_that_could_not_be_had_can_be_had_later(broken: World) -> None:
    broken.add("me/late")
    broken.hub.dying.add("me/late")
    one_line(broken.show("data=hub", "data.hub.name=me/late"), "data.hub.name=me/late")
    broken.hub.dying.remove("me/late")
    assert broken.show("data=hub", "data.hub.name=me/late", "--json").code == 0


# --- `data prepare` and `data show`


def test_prepare_keeps_the_tokens_and_says_where(world: World) -> None:
    said = world.online.ask("data", "prepare", *MINE, "tokenizer=bpe", "tokenizer.vocab_size=300", "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json["cache"] == world.caches["MHA_ABLATE_CACHE"]
    assert (said.json["tokenizer"], said.json["vocab_size"]) == ("bpe", 300)
    assert "sample" not in said.json


def test_show_in_words_has_the_facts(fetched: World) -> None:
    said, about = fetched.show(*MINE), fetched.said["mine"].json
    for fact in (
        "me/mine",
        COMMIT,
        "mit",
        about["sha256"],
        f"{about['characters']:,}",
        f"{about['val_tokens']:,}",
        "own",
    ):
        assert fact in said.out
    assert json.dumps(rows_of("train")[0])[1:20] in said.out
