"""Files of a run folder, harmed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

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
class Harm:
    """What is done to one file: its whole content replaced, or the value at a place that `picks` lead to."""

    file: str
    content: bytes | None
    picks: tuple[int, ...]
    value: Any
    remove: bool


SMALL_FILES = ("run.json", "metrics.jsonl", "config.yaml", "plan.json", "cost.json")
FILES = (*SMALL_FILES, "checkpoint/last.safetensors", "checkpoint/state.safetensors")
HARMS = st.lists(
    st.builds(
        Harm,
        file=st.sampled_from((*SMALL_FILES, *FILES)),
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
