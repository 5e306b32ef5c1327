"""How an override that has been begun may go on: what shells complete. Needs no torch, and Hydra for its own settings alone."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable
from pathlib import Path

from mha_ablate.config.catalog import choice_names, groups
from mha_ablate.config.compose import known_keys
from mha_ablate.config.paths import CONFIG, configs_dir
from mha_ablate.config.schema import WORDS

PLUGINS = {
    "hydra_joblib_launcher": ("joblib",),
    "hydra_submitit_launcher": ("submitit_local", "submitit_slurm"),
    "hydra_ray_launcher": ("ray",),
    "hydra_optuna_sweeper": ("optuna",),
}
HYDRAS = ("hydra.launcher.", "hydra.sweeper.")
SWITCHES = {"model.bias": (), "model.tied_embedding": (), "trainer.compile": ("auto",)}  # true, false, and more


def candidates(
    begun: str, others: Iterable[str] = (), *, config_dir: Path | None = None, launches: bool = False
) -> list[str]:
    """The words that `begun` may become, sorted: keys one level at a time, then values; in a list, each value once.

    `others` are the words that stand before it, `launches` whether the command takes Hydra's launchers too. Empty where nobody can
    say, such as for a number or a file.
    """
    mark = re.match(r"\+{0,2}", begun)
    assert mark is not None
    if launches and begun.startswith(HYDRAS):
        return _of_hydra(begun, others)
    key, equals, value = begun[mark.end() :].partition("=")
    found = _values(key, value, config_dir) if equals else _keys(key, list(others), config_dir, launches=launches)
    return sorted(f"{mark[0]}{word}" for word in found)


def _keys(begun: str, others: list[str], config_dir: Path | None, *, launches: bool) -> set[str]:
    """`model.n_h` becomes `model.n_heads=`; `mod` becomes `model=` and `model.`: a group, and what lies in it."""
    own = [folder.name for folder in sorted(config_dir.iterdir()) if folder.is_dir()] if config_dir else []
    ends = {f"{key}=" for key in (*known_keys(), *_of_variant(others, config_dir), *groups(), *own)}
    ends -= {"study.arms="}  # single arms are added below it
    if launches:
        ends |= {"hydra/launcher=", "hydra/sweeper=", *(f"{key}*" for key in HYDRAS)}
    below = begun.rpartition(".")[0]
    level = f"{below}." if below else ""
    found = {key for key in ends if key.startswith(begun)}
    return {key if "." not in key[len(level) :] else f"{level}{key[len(level) :].partition('.')[0]}." for key in found}


def _of_variant(others: list[str], config_dir: Path | None) -> list[str]:
    """The settings of the variant that an earlier word chose."""
    chosen = [word.partition("=")[2] for word in others if word.startswith("fc_out=")]
    files = [
        folder / "fc_out" / f"{name}.yaml" for name in chosen[-1:] for folder in (configs_dir(), config_dir) if folder
    ]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()]
    return [f"fc_out.{key}" for text in texts for key in re.findall(r"^([a-z]\w*):", text, flags=re.MULTILINE)]


def _values(key: str, begun: str, config_dir: Path | None) -> set[str]:
    """Words for a key; those that a list holds already are not offered again."""
    *before, last = begun.split(",")
    allowed = [word for word in _words(key, config_dir) if word.startswith(last) and word not in before]
    return {f"{key}={','.join((*before, word))}" for word in allowed}


def _words(key: str, config_dir: Path | None) -> list[str]:
    if key in WORDS:
        return list(WORDS[key])
    if key in SWITCHES:
        return ["true", "false", *SWITCHES[key]]
    if key in ("hydra/launcher", "hydra/sweeper"):
        return ["basic", *_installed(key.partition("/")[2])]
    own = (
        sorted(file.stem for file in (config_dir / key).glob("*.yaml"))
        if config_dir and re.fullmatch(r"[\w/]+", key)
        else []
    )
    return [*(choice_names(key) if key in groups() else []), *own]


def _of_hydra(begun: str, others: Iterable[str]) -> list[str]:
    """What Hydra itself says of its settings, with the launcher and the sweeper that stand on the line."""
    from hydra.plugins.completion_plugin import DefaultCompletionPlugin

    from mha_ablate.config.bridge import session

    chosen = [word for word in others if word.startswith("hydra/")]
    with session(None) as hydra:
        found = DefaultCompletionPlugin(hydra.config_loader)._query(CONFIG, " ".join((*chosen, begun)))
    return sorted(word for word in found if "._" not in word)


def _installed(kind: str) -> list[str]:
    """Launchers or sweepers of Hydra that this environment has."""
    try:
        import hydra_plugins  # pyright: ignore[reportMissingImports]
    except ImportError:
        return []
    there = {module.name for module in pkgutil.iter_modules(hydra_plugins.__path__)}
    return [name for plugin, names in PLUGINS.items() if plugin in there and plugin.endswith(kind) for name in names]
