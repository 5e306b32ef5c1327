"""The Hydra bridge: overrides from the command line in, one checked `RunConfig` out.

Hydra composes as it always does (groups, defaults lists, `key=value`, `+key=value`, `~key`). This module adds three things:
values that people type bare (paths, names) are quoted before Hydra's grammar sees them; what comes out is
checked against the schema, so that a key that nobody reads cannot slip in; and every error becomes one line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.config.own import checked, with_place
from mha_ablate.config.paths import CONFIG, configs_dir
from mha_ablate.config.schema import FACTORS_LIKE, DataConfig, HubConfig, RunConfig, StudyConfig, TuneConfig
from mha_ablate.errors import RequestError, nearest

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

HUB_TEXT = tuple(f"data.hub.{key}" for key in ("name", "config", "revision", "column", "join"))
ALLOW_ENV = "MHA_ABLATE_ALLOW_ENV"
# Settings that are a table of their own, or null.
INNER = (
    ("data", DataConfig, "hub", HubConfig, "give its keys, such as data.hub.name=OWNER/NAME with data=hub"),
    (
        "study",
        StudyConfig,
        "tune",
        TuneConfig,
        "give its keys, such as 'study.tune={rates: [1e-3,3e-3,1e-2], seeds: [100], widen: 2}'",
    ),
)
FREE_TEXT = (
    "data.path",
    "data.sha256",
    "data.licence",
    *HUB_TEXT,
    "outputs",
    "name",
    "hydra.sweep.dir",
    "hydra.sweep.subdir",
)  # values that may hold anything


@dataclass(frozen=True)
class Composed:
    """A checked configuration and what was chosen in each group (`{"fc_out": "none", ...}`)."""

    config: RunConfig
    choices: dict[str, str]


def compose(overrides: list[str], config_dir: Path | None = None) -> Composed:
    """Compose and check. Raises RequestError, in one line, for anything that is wrong with `overrides` or `config_dir`."""
    return compose_many([overrides], config_dir)[0]


def compose_many(requests: list[list[str]], config_dir: Path | None = None) -> list[Composed]:
    """`compose` for each list of overrides, starting Hydra once (arms of a study).

    `config_dir` holds a user's own choices; Hydra finds them after those of this package.
    """
    from hydra import compose as hydra_compose

    def told(message: str, words: list[str]) -> RequestError:
        return RequestError(with_place(message, words, config_dir))

    also = (
        [] if config_dir is None else [search_path(checked(config_dir, [word for words in requests for word in words]))]
    )
    results = []
    with hydra_here():
        for overrides in requests:
            readable = [bare_value_quoted(o) for o in overrides]
            _check_overrides(readable)
            try:
                composed = hydra_compose(CONFIG, [*readable, *also], return_hydra_config=True)
            except Exception as error:
                raise told(explained(error), overrides) from error
            try:
                results.append(Composed(_typed(composed), dict(composed.hydra.runtime.choices)))
            except RequestError as error:
                raise told(str(error), overrides) from error
    return results


@contextmanager
def hydra_here() -> Iterator[Hydra]:
    """A running Hydra on this package's configs, in the place of one that may run already; settings cannot read the environment."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    holder = GlobalHydra.instance()
    before, holder.hydra = holder.hydra, None
    try:
        with (
            _environment_closed(),
            initialize_config_dir(str(configs_dir()), job_name="mha_ablate", version_base="1.3"),
        ):
            hydra = GlobalHydra.instance().hydra
            assert hydra is not None
            yield hydra
    finally:
        GlobalHydra.instance().hydra = before


def search_path(folder: Path) -> str:
    """The override that lets Hydra look into one more folder. It reads this one as it stands: nothing is interpolated."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return f"hydra.searchpath=[{QuotedString(f'file://{folder}', Quote.single).with_quotes()}]"


@contextmanager
def _environment_closed() -> Iterator[None]:
    """Inside, `${oc.env:NAME}` reads only variables named in $MHA_ABLATE_ALLOW_ENV (NAME,NAME).

    Configurations travel between people and end up in run folders: they must not carry off what is in an environment.
    """
    from omegaconf import OmegaConf
    from omegaconf.resolvers import oc

    def env(name: str, *default: Any) -> Any:
        if name not in os.environ.get(ALLOW_ENV, "").split(","):
            raise RequestError(
                f"${{oc.env:{name}}}: settings may not read the environment; {ALLOW_ENV}={name} in front of the command allows it"
            )
        return oc.env(name, *default)

    OmegaConf.register_new_resolver("oc.env", env, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def bare_value_quoted(override: str) -> str:
    """Quote the value of a key that takes free text, and read `study.arms=[a,b]` as a pick among the arms.

    `data.path=my text (1).txt` becomes `data.path='my text (1).txt'`, and `study.arms.mine=[fc_out=none]` adds an
    arm; a value in quotes, `null` and every other key stay as they are.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    key, equals, value = override.partition("=")
    plain_key = key.lstrip("+")
    if f"{key_of(override)}.".startswith("study.own_factors."):
        raise RequestError(
            f"{override}: study.own_factors keeps what study.factors=... says and is not set by hand: give "
            f"study.factors={value or '...'}"
        )
    if plain_key == "study.arms" and value.lstrip().startswith("["):
        return f"study.pick={value}"
    if plain_key == "study.arms" and not value.lstrip().startswith("{"):
        raise RequestError(f"{override}: arms are picked by a list, 'study.arms=[dense,none]'")
    if plain_key == "study.factors":
        if value == "null":
            return "study.own_factors={}"
        return f"study.own_factors={_quoted_overrides(value)}"
    if plain_key.startswith("study.factors."):
        return f"++{plain_key}={_quoted_overrides(value)}"
    if plain_key == "study.points" and value != "null":
        return f"{key}={_quoted_words(value) or _quoted_overrides(value)}"
    if plain_key.startswith("study.arms."):
        if not value.startswith("["):
            raise RequestError(f"{override}: an arm is a list of overrides, '{key}=[fc_out=none]'")
        return f"++{plain_key}={_quoted_words(value) or value}"
    free = plain_key in FREE_TEXT or plain_key.startswith("init.")
    if not equals or not free or value in ("", "null"):
        return override
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        return override
    if value == "???":
        raise RequestError(f"{key}=??? means 'no value' to Hydra: write ./??? for a file of three letters")
    return f"{key}={QuotedString(literal(value), Quote.single).with_quotes()}"


def _quoted_words(value: str) -> str | None:
    """`[a=1,b=2]` with each word in quotes, as Hydra's grammar wants them; None for anything else."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if not re.fullmatch(r"\[[^\[\]'\"]+\]", value):
        return None
    return f"[{','.join(QuotedString(v.strip(), Quote.single).with_quotes() for v in value[1:-1].split(','))}]"


def _quoted_overrides(value: str) -> str:
    """`{heads: [model.n_heads=4,model.n_heads=1]}` with every KEY=VALUE in quotes, as Hydra's grammar wants them.

    What stands in quotes already stays as it is: a value with brackets or commas of its own needs them.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    def quoted(found: re.Match[str]) -> str:
        word = found[0]
        return word if word[0] in "'\"" else QuotedString(word.strip(), Quote.single).with_quotes()

    in_quotes, word = r"'[^']*'|\"[^\"]*\"", r"[^\s\[\]{},:'\"][^\[\]{},:'\"]*=[^\[\]{},'\"]+"
    return re.sub(f"{in_quotes}|{word}", quoted, value)


def literal(text: str) -> str:
    """`text` such that OmegaConf reads it as itself: `${...}` would be an interpolation."""
    return re.sub(r"(\\*)\$\{", lambda m: m[1] * 2 + r"\${", text)


def key_of(override: str) -> str:
    """The key that an override sets (`+model.d_ff=3` -> `model.d_ff`)."""
    return override.partition("=")[0].lstrip("+~").partition("@")[0]


def is_hydras(override: str) -> bool:
    """Whether a word sets something of Hydra's own, such as `hydra/launcher=joblib`."""
    key = key_of(override)
    return key == "hydra" or key.startswith(("hydra.", "hydra/"))


def _check_overrides(overrides: list[str]) -> None:
    """Refuse, before composing, what Hydra would accept and we cannot mean."""
    for text in overrides:
        key = key_of(text)
        if is_hydras(text):
            raise RequestError(
                f"{text}: `mha-ablate sweep` and `compare` take Hydra's own settings, and nothing else does"
            )
        if (not key or "=" not in text) and not text.startswith("~"):
            raise RequestError(
                f"cannot read '{text}': a setting is written KEY=VALUE, such as fc_out=none; one with spaces needs "
                "quotes, 'data.path=my text.txt'"
            )
        override = parsed_word(text)
        if override.is_sweep_override():
            advice = "`compare` runs several seeds, study.seeds=[0,1,2]; " if key == "seed" else ""
            raise RequestError(f"{text}: {key} takes one value here; {advice}`mha-ablate sweep` runs a list")


def parsed_word(text: str) -> Override:
    """A word as Hydra's grammar reads it. Raises RequestError for one that it cannot read."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    try:
        return OverridesParser.create().parse_override(text)
    except Exception as error:
        if (key := key_of(text)) == "study.own_factors":
            raise RequestError(
                f"cannot read 'study.factors={text.partition('=')[2]}': give names, 'study.factors=[init,block]', or "
                f"{FACTORS_LIKE}"
            ) from error
        raise RequestError(
            f"cannot read '{text}': expected KEY=VALUE; put a value with special characters in quotes, \"{key}='...'\""
        ) from error


def _typed(composed: DictConfig) -> RunConfig:
    """The composed YAML as a `RunConfig`: types converted, unknown keys and missing values refused."""
    from omegaconf import OmegaConf

    try:
        without_hydra = OmegaConf.masked_copy(composed, [str(k) for k in composed if k != "hydra"])
        plain = OmegaConf.to_container(without_hydra, resolve=True)
    except Exception as error:
        raise RequestError(explained(error)) from error
    assert isinstance(plain, dict)
    return from_plain(plain)


def from_plain(plain: dict[Any, Any]) -> RunConfig:
    """A checked `RunConfig` from nested dicts, such as a run's config.yaml. Raises RequestError."""
    from omegaconf import OmegaConf

    try:
        schema = OmegaConf.structured(RunConfig)
        _unlock(schema)
        for group, outer, key, kind, advice in INNER:
            given = plain.get(group)
            if not isinstance(given, dict) or (values := given.get(key)) is None:
                continue
            if not isinstance(values, dict):
                raise RequestError(f"{group}.{key}={values}: {advice}")
            if key == "tune":
                values.setdefault("shared", True)  # files from before there was a choice do not say
            schema[group] = OmegaConf.structured(outer)
            _unlock(schema[group])
            schema[group][key] = OmegaConf.structured(kind)
            _unlock(schema[group][key])
        merged = OmegaConf.merge(schema, _literal_strings(plain))
        missing = OmegaConf.missing_keys(merged)
        if missing:
            keys = sorted(missing)
            has, it = ("has", "one") if len(keys) == 1 else ("have", "them")
            raise RequestError(
                f"{', '.join(keys)} {has} no value: give {it}, write null where there is none, or remove what deletes it"
            )
        config = OmegaConf.to_object(merged)
    except RequestError:
        raise
    except Exception as error:
        raise RequestError(explained(error)) from error
    assert isinstance(config, RunConfig)
    return config


def _unlock(node: Any) -> None:
    """Frozen dataclasses arrive locked; the merge has to fill them."""
    for inner in (node, *(n for key in node if (n := node._get_node(key)) is not None)):
        inner._set_flag("readonly", False)


def _literal_strings(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {k: _literal_strings(v) for k, v in plain.items()}
    if isinstance(plain, list):
        return [_literal_strings(v) for v in plain]
    return literal(plain) if isinstance(plain, str) else plain


def known_keys() -> list[str]:
    """Every key of the schema with dots, and every group."""
    import dataclasses
    import typing

    def below(kind: Any, prefix: str) -> list[str]:
        keys: list[str] = []
        hints = typing.get_type_hints(kind)
        for field in dataclasses.fields(kind):
            keys.append(prefix + field.name)
            for inner in (hints[field.name], *typing.get_args(hints[field.name])):
                if dataclasses.is_dataclass(inner):
                    keys += below(inner, f"{prefix}{field.name}.")
        return keys

    return [k for k in below(RunConfig, "") if k not in ("study.pick", "study.own_factors")]


def explained(error: Exception) -> str:
    """One line for an exception of Hydra, OmegaConf or the schema."""
    from hydra.errors import MissingConfigException
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        group, _, name = str(error.missing_cfg_file).rpartition("/")
        options = sorted(o for o in error.options if o)
        hint = nearest(name, options) or "; --config-dir DIR adds choices of your own"
        return f"{group}={name}: no such choice{hint}; {group} is one of {', '.join(options)}"
    if isinstance(error.__cause__, RequestError):
        return str(error.__cause__)
    chain = [e for e in (error, error.__cause__) if isinstance(e, OmegaConfBaseException)]
    if chain:
        cause = chain[0]
        key = str(cause.full_key or cause.key or "")
        reason = str(cause.msg or cause).splitlines()[0].strip()
        if ("not in" in reason and "Key" in reason) or "is not in struct" in reason or "not a member" in reason:
            return f"unknown key '{key}'{_nearest_key(key)}; `mha-ablate list config` prints every key"
        for kind, wanted in (("Integer", "a whole number"), ("Float", "a number"), ("bool", "true or false")):
            if kind in reason:
                given = re.search(r"Value '(.*?)'", reason)
                return f"{key} needs {wanted}, not {given[1] if given else reason}"
        return f"{key}: {reason[0].lower()}{reason[1:]}" if key else reason
    text = " ".join(str(error).split())
    if (base := re.match(r"In '(\w+/[^']+)': Could not load '(\w+)/([^']+)'", text)) is not None:
        from mha_ablate.config.catalog import choice_names

        file, group, name = base.groups()
        known = choice_names(group)
        return f"{file}.yaml builds on {group}={name}: no such choice{nearest(name, known)}; give one of {', '.join(known)}"
    if "Config group override must be a string" in text:
        return "a group such as fc_out or model takes the name of a choice; `mha-ablate list` shows them"
    if (
        twice := re.match(r"Multiple values for (\S+)\. To override a value use 'override \S+: (.*)'", text)
    ) is not None:
        return f"+{twice[1]}={twice[2]}: {twice[1]} has a choice already; leave out the +"
    if (full := re.search(r"Key '.*?' not in .*full_key: ([\w.]+)", text)) is not None:
        return f"unknown key '{full[1]}'; `mha-ablate sweep --cfg hydra` prints every key of Hydra's own"
    if text.startswith("Could not override '"):
        key = text.split("'")[1]
        return f"unknown key '{key}'{_nearest_key(key)}; `mha-ablate list config` prints every key"
    return text


def _nearest_key(key: str) -> str:
    """A hint at the known key that looks most like `key`, by its whole or by its last word."""
    keys = known_keys()
    group = key.partition(".")[0]
    if group == "fc_out":  # whose choices have settings of their own, which only they know
        return ""
    by_last_word = {k.rpartition(".")[2]: k for k in keys}
    exact = by_last_word.get(key.rpartition(".")[2])
    hint = f" (did you mean '{exact}'?)" if exact else nearest(key, keys)
    if hint:
        return hint
    import difflib

    match = difflib.get_close_matches(key.rpartition(".")[2], list(by_last_word), n=1, cutoff=0.6)
    return f" (did you mean '{by_last_word[match[0]]}'?)" if match else ""


def to_yaml(config: RunConfig, *, without: tuple[str, ...] = ()) -> str:
    """The configuration as YAML, complete and in the order of the schema; top-level keys in `without` left out."""
    import yaml

    plain = {k: v for k, v in asdict(config).items() if k not in without}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
