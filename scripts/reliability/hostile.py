# ruff: noqa: E501
"""Input that somebody made to break things: what is drawn, what is done with it, and how that may end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from mha_ablate.errors import RequestError, RunFailed

SMALL = [
    "model.d_model=16",
    "model.n_layers=1",
    "model.n_heads=2",
    "model.context=8",
    "trainer.steps=3",
    "trainer.batch_size=2",
    "trainer.eval_every=3",
    "trainer.log_every=1",
    "trainer.precision=fp32",
    "optim.warmup_steps=1",
]
TEXT = "".join(f"{i} plus {j} is {i + j}.\n" for i in range(9) for j in range(9))

KEYS = [
    "fc_out",
    "attention",
    "model",
    "data",
    "tokenizer",
    "optim",
    "trainer",
    "study",
    "seed",
    "init_seed",
    "data_seed",
    "outputs",
    "name",
    "match",
    "hydra",
    "fc_out._target_",
    "fc_out.rank",
    "attention.branch_scale",
    "model.d_model",
    "model.n_heads",
    "model.head_dim",
    "model.context",
    "model.dropout",
    "model.d_ff",
    "data.path",
    "data.split",
    "data.max_chars",
    "data.hub",
    "data.hub.name",
    "data.sha256",
    "tokenizer.kind",
    "tokenizer.vocab_size",
    "optim.lr",
    "optim.beta1",
    "optim.grad_clip",
    "trainer.steps",
    "trainer.device",
    "trainer.compile",
    "study.seeds",
    "study.margin",
    "study.arms",
    "study.arms.x",
    "study.baseline",
    "study.pick",
    "study.name",
]
VALUES = [
    "null",
    "true",
    "0",
    "1",
    "-1",
    "3",
    "1e400",
    "nan",
    "inf",
    "-inf",
    "1e-400",
    "99999999999999999999",
    "[]",
    "{}",
    "[null]",
    "{a:b}",
    "???",
    "''",
    '""',
    "'",
    '"',
    "\\",
    "$",
    "${",
    "${}",
    "${seed}",
    "${oc.env:HOME}",
    "${oc.env:${name}}",
    "${oc.env:HOME,x}",
    "\\${oc.env:HOME}",
    "${oc.decode:${oc.env:HOME}}",
    "${oc.create:[1]}",
    "${hydra:runtime.cwd}",
    "${.x}",
    "${..}",
    "${outputs}",
    "os.system",
    "mha_ablate.model.fc_out.none.None_",
    "mha_ablate.model.fc_out.base.torch",
    "none",
    "dense",
    "auto",
    "cpu",
    "text",
    "char",
    "byte",
    "bpe",
    "../x",
    "/etc",
    "/dev/zero",
    "~",
    ".",
    "..",
    "a/b",
    "<script>",
    "=cmd()",
    "$(id)",
    "`id`",
    ";id",
    "|id",
    "a,b",
    "1,2",
    "range(3)",
    "choice(1,2)",
    "glob(*)",
    "[1,2",
    "{a:{b:[c]}}",
    "[fc_out=none]",
    "[fc_out=${oc.env:HOME}]",
    "[outputs=/tmp]",
    "\x00",
    "\x1b[31m",
    "�",
    "\u202e",
    "é",
]
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3.5, 1e308, -1e308, 10**30, 10**400, float("nan"), float("inf"), "", "x", "ok"),
    *("running", "../../x", "/etc/passwd", "<script>alert(1)</script>", "=cmd()", "[/red]", "a|b", "\x00", "\x1b[2J"),
    *("\ud800", "\ufffe", "$x$", "x" * 5000, "\n", [], [1], [None], {}, {"a": {}}, {"": None}, {"x": [[]]}),
)
RAW: tuple[bytes, ...] = (
    *(b"", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf{}", b"{", b"null", b"[]", b"{}", b"[" * 100_000, b'{"a":' * 50_000),
    *(
        b"9" * 5000,
        b'{"seed": NaN}',
        b"a: &a [*a]",
        b"- " * 3000,
        b"!!python/object/apply:os.system [id]",
        b"? {a: b}\n: c",
    ),
    b"a: &a [x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 8)) for i in range(9)),
)


@dataclass(frozen=True)
class Kind:
    """A kind of input: what is drawn, and what is done with it in an empty folder. `attempt` raises RequestError to refuse."""

    name: str
    drawn: SearchStrategy[Any]
    attempt: Callable[[Any, Path], object]


def ending(kind: Kind, given: Any, folder: Path) -> str:
    """`accepted` or `refused`; any other exception, and a refusal of more than one line, goes through."""
    try:
        with chdir(folder):
            kind.attempt(given, folder)
    except (RequestError, RunFailed) as error:
        said = " ".join(str(error).split())
        if not said or len(said) > 20_000:
            raise AssertionError(f"no helpful line: {said[:200]!r}") from error
        return "refused"
    return "accepted"


_words = st.one_of(st.sampled_from(VALUES), st.text(max_size=12), st.integers().map(str), st.floats().map(str))
_overrides = st.one_of(
    st.builds(lambda sign, key, value: f"{sign}{key}={value}", st.sampled_from(["", "", "", "+", "++", "~"]), st.sampled_from(KEYS), _words),
    st.text(max_size=20),
    st.builds(lambda key: f"~{key}", st.sampled_from(KEYS)),
)  # fmt: skip


def _train(words: list[str], folder: Path) -> None:
    from mha_ablate.study.single import single_cell

    single_cell([*_base(folder), *words])


def _compare(words: list[str], folder: Path) -> None:
    from mha_ablate.study.plan import make_plan

    make_plan([*_base(folder), *words])


def _arm(words: list[str], folder: Path) -> None:
    listed = ",".join(f'"{w}"' for w in words if '"' not in w) or "fc_out=none"
    _compare([f"study.arms.x=[{listed}]", "study.arms=[dense,x]"], folder)


def _base(folder: Path) -> list[str]:
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    return [*SMALL, "data=text", "data.path=text.txt"]


_texts = st.one_of(
    st.binary(max_size=2000),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=1500).map(str.encode),
    st.builds(lambda lead, body, n: lead + body * n, st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\x00"]),
              st.sampled_from([b"a", b"\x00", b"\r", b"\n", b"\r\n", "é".encode(), "\U0001f600".encode(), b"\xed\xa0\x80", b"ab "]),
              st.integers(0, 3000)),
)  # fmt: skip


def _text(given: tuple[bytes, str], folder: Path) -> None:
    from mha_ablate import build
    from mha_ablate.config.compose import compose
    from mha_ablate.corpora import corpus_of

    content, tokenizer = given
    (folder / "text.txt").write_bytes(content)
    words = [*SMALL, "data=text", "data.path=text.txt", f"tokenizer={tokenizer}", "data.split=tail"][:-1]
    corpus_of(build.resolved(compose(words).config))


@dataclass(frozen=True)
class Harm:
    """What is done to one file: its whole content replaced, or the value at a place that `picks` lead to."""

    file: str
    content: bytes | None
    picks: tuple[int, ...]
    value: Any
    remove: bool


FILES = ("run.json", "metrics.jsonl", "config.yaml", "plan.json", "cost.json", "checkpoint/last.safetensors", "checkpoint/state.safetensors")  # fmt: skip
_harms = st.lists(
    st.builds(
        Harm,
        file=st.sampled_from((*FILES[:5], *FILES)),
        content=st.one_of(st.none(), st.none(), st.none(), st.sampled_from(RAW), st.binary(max_size=60)),
        picks=st.tuples(*[st.integers(0, 40)] * 3),
        value=st.one_of(st.sampled_from(ODD), st.text(max_size=8), st.floats(), st.integers()),
        remove=st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


def harmed(folder: Path, harms: list[Harm]) -> None:
    """Do it to the first run of a study folder, and to the study's own files."""
    run = next(iter(sorted(folder.rglob("run.json")))).parent
    for harm in harms:
        file = (folder if harm.file in ("plan.json", "cost.json") else run) / harm.file
        file.parent.mkdir(exist_ok=True)
        if harm.content is not None or not file.exists() or file.suffix == ".safetensors":
            content = harm.content if harm.content is not None else b""
            if file.exists() and file.suffix == ".safetensors":
                whole = file.read_bytes()
                at = sum(harm.picks) * 97 % max(1, len(whole))
                content = whole[:at] if harm.remove else whole[:at] + content + whole[at + len(content) :]
            file.write_bytes(content)
            continue
        _alter(file, harm)


def _alter(file: Path, harm: Harm) -> None:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        lines = text.splitlines() if file.suffix == ".jsonl" else []
        at = harm.picks[2] % max(1, len(lines))
        value = json.loads(lines[at]) if lines else yaml.safe_load(text) if file.suffix == ".yaml" else json.loads(text)
    except (ValueError, yaml.YAMLError, RecursionError, IndexError):
        return  # harmed before
    value = _changed(value, harm, 0)
    if file.suffix == ".yaml":
        made = yaml.safe_dump(value)
    else:
        made = json.dumps(value)
        made = "\n".join([*lines[:at], made, *lines[at + 1 :]]) if lines else made
    file.write_bytes(made.encode("utf-8", errors="surrogatepass"))


def _changed(value: Any, harm: Harm, depth: int) -> Any:
    if depth < 2 and isinstance(value, dict) and value:
        key = sorted(value, key=str)[harm.picks[depth] % len(value)]
        inner = value[key]
        if depth == 0 and isinstance(inner, dict) and inner and harm.picks[2] % 3:
            return value | {key: _changed(inner, harm, 1)}
        return {k: v for k, v in value.items() if k != key} if harm.remove else value | {key: harm.value}
    return harm.value


def _report(given: tuple[list[Harm], Path], folder: Path) -> None:
    from mha_ablate.cli.common import print_report
    from mha_ablate.report.write import write_report

    study = _copied(given, folder)
    made = write_report(study)
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        import contextlib

        with contextlib.redirect_stdout(nowhere):
            print_report(made)


def _replay(given: tuple[list[Harm], Path], folder: Path) -> None:
    from mha_ablate.run.folder import RunFolder
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.replay import replay

    study = _copied(given, folder)
    replay(RunFolder(next(iter(sorted(study.rglob("run.json")))).parent), Observer())


def _again(given: tuple[list[Harm], Path], folder: Path) -> None:
    """All that `compare` reads of a folder before and after it trains."""
    from mha_ablate.run.state import find_state, saved_step
    from mha_ablate.study.execute import costs_are_known
    from mha_ablate.study.plan import make_plan

    study = _copied(given, folder)
    text = json.loads((given[1].parent / "request.json").read_text(encoding="utf-8"))
    plan = make_plan([*text, f"outputs={study.parent}"])
    for cell in plan.cells:
        cell.finished()
        find_state(cell.folder, cell.hash)
        saved_step(cell.folder)
        cell.folder.lines()
    plan.write()
    costs_are_known(plan)


def _copied(given: tuple[list[Harm], Path], folder: Path) -> Path:
    harms, origin = given
    study = folder / "outputs" / origin.name
    shutil.copytree(origin, study)
    harmed(study, harms)
    return study


def make_origin(folder: Path) -> Path:
    """A finished study of two arms and one seed, to be harmed: `<folder>/outputs/hostile`, and the request beside it."""
    from mha_ablate.study.execute import Pool, run_cells, time_arms
    from mha_ablate.study.observer import Observer
    from mha_ablate.study.plan import make_plan

    (folder / "outputs").mkdir(parents=True)
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    request = [
        *SMALL,
        "data=text",
        f"data.path={folder / 'text.txt'}",
        "study.arms=[dense,none]",
        "study.seeds=2",
        "name=hostile",
    ]
    (folder / "outputs/request.json").write_text(json.dumps(request), encoding="utf-8")
    plan = make_plan([*request, f"outputs={folder / 'outputs'}"])
    plan.folder.path.mkdir(parents=True)
    plan.write()
    pool = Pool(1)
    try:
        run_cells(plan, pool, Observer())
        time_arms(plan, pool, Observer())
    finally:
        pool.stop()
    return plan.folder.path


def kinds(origin: Path) -> list[Kind]:
    """Every kind of input. `origin` is the study that is harmed (`make_origin`)."""
    words = st.lists(_overrides, min_size=1, max_size=3)
    folders = st.tuples(_harms, st.just(origin))
    return [
        Kind("settings of `train`", words, _train),
        Kind("settings of `compare`", words, _compare),
        Kind("settings of an arm", words, _arm),
        Kind("text", st.tuples(_texts, st.sampled_from(("char", "byte", "bpe"))), _text),
        Kind("a folder for `report`", folders, _report),
        Kind("a folder for `replay`", folders, _replay),
        Kind("a folder for `compare`", folders, _again),
    ]
