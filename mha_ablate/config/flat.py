"""Nested settings by dotted key."""

from __future__ import annotations

from typing import Any


def flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"d_ff": 3}}` as `{"model.d_ff": 3}`."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return values


def changes(then: dict[str, Any], now: dict[str, Any]) -> dict[str, list[Any]]:
    """In what two nested dicts differ: `{dotted key: [then, now]}`."""
    a, b = flat(then), flat(now)
    return {key: [a.get(key), b.get(key)] for key in a | b if a.get(key) != b.get(key)}
