"""What files of a run folder must look like to be believed. Folders travel between people, and anybody may have written them.

A file that does not have its shape counts as one that cannot be read. Nothing here raises anything but ValueError.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

STATES = ("running", "ok", "failed", "diverged")
FINISHED = ("ok", "diverged")
LARGEST = 1e18  # of a number: its square can still be summed
DEEPEST = 16
MOST_VALUES = 200_000  # in one file: aliases of YAML can stand for more than memory holds
TEXT_KEYS = ("name", "tokenizer", "split", "sha256")
NUMBERS_OF_CONFIG = (("optim", "lr"), ("optim", "warmup_steps"), ("trainer", "steps"), ("trainer", "batch_size"))
GROUPS = ("model", "init", "attention", "tokenizer", "data", "optim", "trainer")  # of config.yaml, that a report shows
# What moves a terminal's cursor, turns text round, or may stand in no XML and no UTF-8.
UNSEEMLY = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
CELL = re.compile(r".+/seed=[0-9]{1,10}", flags=re.DOTALL)
TAG = re.compile(r"[\w./ -]{1,200}", flags=re.ASCII)


def read_text(path: Path) -> str:
    """A regular file as text. Raises OSError or ValueError; a pipe or a device, which may never end, is none."""
    if not path.is_file():
        raise FileNotFoundError(2, "no regular file", str(path))
    return path.read_text(encoding="utf-8")


def parsed_yaml(text: str) -> Any:
    """YAML as plain values. Raises ValueError also for what this package never writes and what could take all time or end the
    process: deep nesting, on which the loader in C dies, and aliases, which merge keys multiply without end.
    """
    import yaml

    # The loader in C where PyYAML was built with it: ten times faster, and there is a file for each run.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    depth = 0
    try:
        for event in yaml.parse(text, Loader=loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST or isinstance(event, yaml.AliasEvent):
                raise ValueError("nested too deeply, or with aliases")
        return yaml.load(text, Loader=loader)
    except (TypeError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def parsed(text: str) -> Any:
    """JSON as plain values. Raises ValueError also for what is nested too deeply and for NaN, which is no JSON."""
    try:
        return json.loads(text, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def plain(value: Any) -> Any:
    """`value` with seemly strings. Raises ValueError for what JSON cannot hold: odd types and keys, numbers beyond sense, depth."""
    return _plain(value, DEEPEST, [MOST_VALUES])


def _plain(value: Any, depth: int, left: list[int]) -> Any:
    left[0] -= 1
    if left[0] < 0 or depth < 0:
        raise ValueError("too many values, or nested too deeply")
    if value is None or value is True or value is False:
        return value
    kind = type(value)
    if kind is str:
        return UNSEEMLY.sub("\ufffd", value)
    if kind is int or kind is float:
        return _require(value, is_number(value), "a number beyond sense")
    if kind is list:
        return [_plain(v, depth - 1, left) for v in value]
    if kind is dict:
        _require(value, all(type(key) is str for key in value), "a key that is no string")
        return {_plain(k, depth - 1, left): _plain(v, depth - 1, left) for k, v in value.items()}
    raise ValueError(f"a value of type {kind.__name__}")


def run_of(value: Any) -> dict[str, Any]:
    """run.json as it is believed. Raises ValueError where it is none that this package wrote."""
    run = _dict_of(plain(value), "it")
    _require(run, run.get("state") in STATES, "state is unknown")
    _require(run, all(_is_word(run.get(key)) for key in ("arm", "config_hash", "arm_hash")), "no arm, or no hashes")
    _require(run, is_natural(run.get("seed")), "seed is no whole number")
    _require(run, run.get("error") is None or type(run["error"]) is str, "error is no text")
    _require(run, _is_list_of(run.get("overrides", []), str), "overrides is no list of texts")
    _require(run, _is_list_of(run.get("resumed", []), dict), "resumed is no list")
    _require(run, all(is_number(run.get(key, 0)) for key in ("started", "ended")), "a time is no number")
    choices = _dict_of(run.get("choices", {}), "choices")
    _require(run, all(v is None or type(v) is str for v in choices.values()), "choices are no texts")
    _require(run, _are_numbers(run.get("cost", {})), "cost is no table of numbers")
    _require(run, _are_numbers(run.get("result") or {}), "result is no table of numbers")
    _require_text(run.get("text", {}))
    _require_provenance(run.get("provenance", {}))
    if run["state"] == "ok":
        loss = _dict_of(run.get("result"), "result").get("val_loss")
        _require(run, is_number(loss), "it ended well without a loss")
    return run


def _require_text(text: Any) -> None:
    text = _dict_of(text, "text")
    if text:
        _require(text, all(type(text.get(key)) is str for key in TEXT_KEYS), "text is not identified")
    _require(text, all(is_natural(text.get(key) or 0) for key in ("val_tokens", "val_bytes")), "text has no size")
    unseen = _dict_of(text.get("unseen") or {}, "text.unseen")
    good = not unseen.get("distinct") or all(is_natural(unseen.get(key)) for key in ("distinct", "tokens"))
    _require(text, good and (not unseen or is_natural(text.get("val_tokens", 0))), "text.unseen is no count")


def _require_provenance(found: Any) -> None:
    provenance = _dict_of(found, "provenance")
    for key in ("versions", "git"):
        _dict_of(provenance.get(key) or {}, f"provenance.{key}")


def line_is_sound(line: Any) -> bool:
    """Whether a line of metrics.jsonl is one: a step, and numbers by name."""
    if type(line) is not dict or not is_natural(line.get("step")) or not is_number(line.get("wall_time", 0)):
        return False
    for key, value in line.items():
        if not is_number(value) and (value is not None or key in ("tokens", "gflop", "train_s")):
            return False
        if TAG.fullmatch(key) is None:
            return False
    return True


def plan_of(value: Any) -> dict[str, Any]:
    """plan.json as it is believed. Raises ValueError where it is none that this package wrote."""
    plan = _dict_of(plain(value), "it")
    arms = _dict_of(plan.get("arms"), "arms")
    _require(plan, all(_is_word(arm) and _is_list_of(words, str) for arm, words in arms.items()), "arms are no lists")
    words = (plan.get(key, "-") for key in ("study", "baseline", "hash"))
    _require(plan, all(map(_is_word, words)), "study, baseline or hash is no text")
    _require(plan, is_number(plan.get("margin", 1)) and plan.get("margin", 1) > 0, "margin is not above 0")
    _require(plan, _is_list_of(plan.get("earlier", []), str), "earlier is no list of hashes")
    for key in ("waterfall", "copies"):
        pairs = _dict_of(plan.get(key, {}), key).values()
        _require(plan, all(_is_list_of(pair, str) and len(pair) == 2 for pair in pairs), f"{key} are no pairs of arms")
    _require(plan, _is_list_of(plan.get("request", []), str), "request is no list of words")
    _require_power(_dict_of(plan.get("power") or {}, "power"))
    seeds, cells = plan.get("seeds", []), plan.get("cells", {})
    _require(plan, type(seeds) is list and all(map(is_natural, seeds)), "seeds are no whole numbers")
    _require(plan, _is_dict_of(cells, str) and all(map(CELL.fullmatch, cells)), "cells are not ARM/seed=N")
    if "promised" in plan:
        plan_of({"hash": "-", **_dict_of(plan["promised"], "promised")})
    return plan


def parts_of(value: Any) -> dict[str, Any]:
    """parts.json as it is believed. Raises ValueError where it is none that this package wrote."""
    parts = _dict_of(plain(value), "it")
    _require(parts, _is_word(parts.get("study")), "study is no text")
    points = _dict_of(parts.get("points"), "points")
    _require(parts, all(_is_list_of(words, str) for words in points.values()), "points are no lists of words")
    _require(parts, _is_word(parts.get("hash", "-")), "hash is no text")
    for key in ("earlier", "request"):
        _require(parts, _is_list_of(parts.get(key, []), str), f"{key} is no list of texts")
    _require_power(_dict_of(parts.get("power") or {}, "power"))
    for levels in _dict_of(parts.get("factors", {}), "factors").values():
        good = type(levels) is list and len(levels) == 2 and all(_is_list_of(words, str) for words in levels)
        _require(parts, good, "a factor has not two levels")
    for claim in _dict_of(parts.get("claims", {}), "claims").values():
        told = _dict_of(claim, "a claim")
        _require(parts, all(_is_word(told.get(key)) for key in ("says", "algebra", "change")), "a claim says nothing")
        _require(parts, all(_is_list_of(told.get(key), str) for key in ("costs", "rates")), "a claim has no arms")
        _require(parts, _is_dict_of(told.get("expects", {}), str), "what a claim expects is no text")
        _require(parts, _is_list_of(told.get("at", []), str), "a claim's points are no texts")
        refused = _dict_of(told.get("refused"), "refused").values()
        _require(parts, all(_is_list_of(words, str) for words in refused), "refused are no lists of words")
    if "promised" in parts:
        parts_of(_dict_of(parts["promised"], "promised"))
    return parts


def sweep_of(value: Any) -> dict[str, Any]:
    """sweep.json as it is believed. Raises ValueError where it is none that this package wrote."""
    sweep = _dict_of(plain(value), "it")
    _require(sweep, _is_list_of(sweep.get("requests"), dict) and sweep["requests"], "requests is no list")
    for asked in sweep["requests"]:
        _require(sweep, _is_list_of(asked.get("words"), str), "a request is no list of words")
        where = asked.setdefault("config_dir", None)
        _require(sweep, where is None or _is_word(where), "config_dir is no folder")
    _require(sweep, _is_list_of(sweep.get("swept", []), str), "swept is no list of keys")
    cells = sweep.get("cells", {})
    return _require(sweep, _is_dict_of(cells, str) and all(map(CELL.fullmatch, cells)), "cells are not ARM/seed=N")


def jobs_of(value: Any) -> dict[str, str]:
    """jobs.json as it is believed. Raises ValueError where it is none that this package wrote."""
    jobs = _dict_of(plain(value), "it")
    return _require(jobs, _is_dict_of(jobs, str) and all(map(CELL.fullmatch, jobs)), "it is no {ARM/seed=N: job}")


def _require_power(power: dict[str, Any]) -> None:
    """Of a plan made ahead: what it was to find, and by which contrasts."""
    if power:
        good = all(is_number(power.get(key)) and power[key] > 0 for key in ("effect", "power", "alpha"))
        _require(power, good and power["power"] < 1 and power["alpha"] < 1, "power is no reckoning")
        _require(power, _is_dict_of(power.get("contrasts"), dict), "power has no contrasts")


def floor_of(value: Any) -> dict[str, Any]:
    """floor.json as it is believed. Raises ValueError where it is none that this package wrote."""
    floor = _dict_of(plain(value), "it")
    _require(floor, _is_word(floor.get("study")) and _is_word(floor.get("setting")), "study or setting is no text")
    good = is_number(floor.get("sd")) and floor["sd"] >= 0 and is_natural(floor.get("seeds")) and floor["seeds"] > 1
    return _require(floor, good, "sd or seeds is no number")


def costs_of(value: Any) -> dict[str, Any]:
    """cost.json as it is believed. Raises ValueError where it is none that this package wrote."""
    kept = _dict_of(plain(value), "it")
    _require(kept, _is_dict_of(kept.get("arms"), str), "arms have no hashes")
    for cost in _dict_of(kept.get("costs"), "costs").values():
        spread, rounds = (_dict_of(cost, "a cost").get(key, [1, 1]) for key in ("step_ms_range", "step_ms_rounds"))
        numbers = _are_numbers({k: v for k, v in cost.items() if k not in ("step_ms_range", "step_ms_rounds")})
        good = _are_times(spread) and _are_times(rounds) and len(spread) == 2
        _require(kept, good and numbers, "a cost is no number")
    return kept


def config_of(value: Any) -> dict[str, Any]:
    """config.yaml as a report shows it. Raises ValueError where it is none that this package wrote."""
    config = _dict_of(plain(value), "it")
    for group, key in NUMBERS_OF_CONFIG:
        found = _dict_of(config.get(group) or {}, group).get(key, 0)
        _require(config, is_number(found), f"{group}.{key} is no number")
    for group in GROUPS:
        _dict_of(config.get(group) or {}, group)
    return config


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number that can be reckoned with."""
    return type(value) in (int, float) and -LARGEST < value < LARGEST and math.isfinite(value)


def is_natural(value: Any) -> bool:
    """Whether `value` is a whole number from 0."""
    return type(value) is int and 0 <= value < LARGEST


def _are_times(value: Any) -> bool:
    return type(value) is list and all(is_number(v) and v > 0 for v in value)


def _are_numbers(value: Any) -> bool:
    return type(value) is dict and all(v is None or is_number(v) for v in value.values())


def _is_word(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= 1000


def _is_list_of(value: Any, kind: type) -> bool:
    return type(value) is list and all(type(v) is kind for v in value)


def _is_dict_of(value: Any, kind: type) -> bool:
    return type(value) is dict and all(type(v) is kind for v in value.values())


def _dict_of(value: Any, what: str) -> dict[str, Any]:
    if type(value) is not dict:
        raise ValueError(f"{what} is no table")
    return value


def _require(value: Any, good: bool, what: str) -> Any:
    if not good:
        raise ValueError(what)
    return value


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no number")
