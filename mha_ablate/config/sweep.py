"""Lists on the command line: `fc_out=dense,none model.n_heads=2,4` is four configurations."""

from __future__ import annotations

import itertools

from mha_ablate.config.compose import bare_value_quoted
from mha_ablate.errors import RequestError


def sweep(words: list[str]) -> dict[str, list[str]]:
    """Overrides by name, for every combination of what the words list in Hydra's grammar (`a,b`, `choice()`, `range()`).

    A configuration is named by its own choices: `dense`, or `dense n_heads=2` where several keys are listed. Raises
    RequestError for a list that is none of values, such as an interval.
    """
    named: list[list[tuple[str, str]]] = []
    for word in words:
        values = _values(word)
        key = word.partition("=")[0].lstrip("+")
        named.append([(_shown(key, value) if len(values) > 1 else "", f"{key}={value}") for value in values])
        if len(values) == 1:
            named[-1] = [("", word)]
    made: dict[str, list[str]] = {}
    for combination in itertools.product(*named):
        name = " ".join(part for part, _ in combination if part)
        made[name or "the default"] = [override for _, override in combination]
    return made


def shown_rate(rate: float) -> str:
    """A rate as it is written in names and overrides: 0.003, 1e-05."""
    return f"{rate:g}"


def _shown(key: str, value: str) -> str:
    return value if key == "fc_out" else f"{key.rpartition('.')[2]}={value}"


def _values(word: str) -> list[str]:
    """What a word lists, as text; the one value of a word that lists nothing is not looked at."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    readable = bare_value_quoted(word)
    try:
        override = OverridesParser.create().parse_override(readable)
    except Exception:  # `compose` says what is wrong with it
        return [word]
    if not override.is_sweep_override():
        return [word]
    try:
        return list(override.sweep_string_iterator())
    except Exception as error:
        raise RequestError(f"{word}: give a list of values, such as {word.partition('=')[0]}=a,b") from error
