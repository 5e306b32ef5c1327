"""What a plan made ahead of its study has fixed, and what was changed of it since: for plan.json and parts.json alike."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from typing import Any

FIXED = (
    "study",
    "baseline",
    "margin",
    "seeds",
    "arms",
    "cells",
    "points",
    "factors",
    "tune",
    "claims",
    "waterfall",
    "copies",
    "text",
)
FIXED += ("stopping_rule",)


def content_of(plan: dict[str, Any]) -> dict[str, Any]:
    """What a plan fixes, without what is noted of it."""
    return {key: plan[key] for key in FIXED if key in plan}


def digest_of(content: dict[str, Any]) -> str:
    """The hash that a plan is known by."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def headed(
    content: dict[str, Any],
    before: dict[str, Any],
    *,
    request: list[str],
    power: dict[str, Any] | None,
    final: bool = False,
) -> dict[str, Any] | None:
    """The plan as it is written: `{hash, written, earlier, request[, power, promised], **content}`; None where it stands as it is.

    With `power`, the reckoning that it rests on, the content is a promise and kept as `promised`. A plan that differs from the one
    `before` lists that one's hash under `earlier`, until it is what was promised again; for good where a change is `final`.
    """
    final = final or bool(before.get("final"))
    digest = digest_of(content)
    if before.get("hash") == digest and power is None:
        return None
    promised = content if power else before.get("promised")
    as_promised = promised is not None and digest_of(promised) == digest and not final
    passed = [before["hash"]] if before.get("hash", digest) != digest else []
    head: dict[str, Any] = {
        "hash": digest,
        "written": time.time(),
        "earlier": [] if as_promised else [*before.get("earlier", []), *passed],
        "request": request,
    }
    head |= {"power": kept} if (kept := power or before.get("power")) else {}
    head |= {"promised": promised} if promised else {}
    head |= {"final": True} if final else {}
    return {**head, **content}


def departures(plan: dict[str, Any]) -> list[str]:
    """What a plan has otherwise than it was promised, a few words each; empty where nothing was promised, or all is kept."""
    promised = plan.get("promised")
    return [] if promised is None else changes(promised, content_of(plan))


def changes(promised: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two plans, in words."""
    told = []
    for key in ("study", "baseline", "margin", "tune", "text"):
        if key in promised and promised[key] != now.get(key):
            told.append(key if key in ("tune", "text") else f"{key} {promised[key]} -> {now.get(key)}")
    for key, what in (("seeds", "seed"), ("arms", "arm"), ("points", "point")):
        before, after = promised.get(key, []), now.get(key, [])
        told += _listed(f"{what} added", [name for name in after if name not in before])
        told += _listed(f"{what} left out", [name for name in before if name not in after])
    for key in ("arms", "points", "cells"):
        before, after = promised.get(key, {}), now.get(key, {})
        told += _listed(
            f"other settings of {key}", [name for name in before if after.get(name, before[name]) != before[name]]
        )
    return told


def _listed(what: str, names: Iterable[Any]) -> list[str]:
    names = list(map(str, names))
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return [f"{what}: {', '.join(names[:5])}{more}"] if names else []
