"""Hydra whole, for sweeps: its own settings among the words, the grid that words list, and what it shows of itself.

`compose` makes one checked configuration; this module has what lies around many of them. Launchers and sweepers are Hydra's.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.config.compose import (
    bare_value_quoted,
    explained,
    hydra_here,
    is_hydras,
    key_of,
    parsed_word,
    search_path,
)
from mha_ablate.config.own import checked, with_place
from mha_ablate.config.paths import CONFIG
from mha_ablate.errors import RequestError, nearest

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

ALLOW_SHELL = "MHA_ABLATE_ALLOW_SHELL"
SHOWN = ("job", "hydra", "all")
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
# What a launcher hands to a shell, to a loader or to sbatch: from the command line alone.
COMMANDS = (
    "hydra.launcher.setup",
    "hydra.launcher.additional_parameters",
    "hydra.launcher.python",
    "hydra.launcher.srun_args",
    "hydra.job.env_set",
    "hydra.job.env_copy",
)
BUILT = ("hydra_plugins.", "hydra._internal.core_plugins.", "hydra.experimental.callbacks.", "optuna.samplers.")
LOGGED = ("logging.", "colorlog.")
UNSET = "multirun/${now:%Y-%m-%d}/${now:%H-%M-%S}"  # what Hydra says where nobody does
FAILURES = "hydra.sweeper.max_failure_rate"
SAMPLER_SEED = "hydra.sweeper.sampler.seed"
# What installs a choice: `pip install 'mha-ablate[EXTRA]'`.
EXTRAS = {
    "submitit_local": "slurm",
    "submitit_slurm": "slurm",
    "optuna": "optuna",
    "ray": "ray",
    "ray_aws": "ray",
}


def apart(words: list[str]) -> tuple[list[str], list[str]]:
    """The words for a configuration, and those for Hydra itself."""
    return [w for w in words if not is_hydras(w)], [w for w in words if is_hydras(w)]


@contextmanager
def session(config_dir: Path | None = None) -> Iterator[Hydra]:
    """A running Hydra on this package's configs. Inside, settings cannot read the environment."""
    if config_dir is not None:
        checked(config_dir, [])
    with _logging_kept(), hydra_here() as hydra:
        yield hydra


@contextmanager
def _logging_kept() -> Iterator[None]:
    """What Hydra sets up for logging inside ends with it: a handler of its own would go on writing to a stream that is gone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:], root.level = handlers, level


def readable(words: list[str], config_dir: Path | None = None) -> list[str]:
    """The words as Hydra's grammar reads them, and the folder of the user's own choices."""
    return [bare_value_quoted(word) for word in words] + [search_path(checked(d, words)) for d in (config_dir,) if d]


def multirun_config(hydra: Hydra, words: list[str], config_dir: Path | None = None) -> DictConfig:
    """What Hydra makes of the words of a sweep: `hydra.launcher`, `hydra.sweeper` and the rest. Raises RequestError.

    What would run code that does not come from an installed plugin, or a shell command that the words do not have, is refused.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    _check(words)
    _check_choices(hydra, words, config_dir)
    try:
        config = hydra.compose_config(
            CONFIG, readable(words, config_dir), RunMode.MULTIRUN, with_log_configuration=True
        )
    except Exception as error:
        message = explained(error)
        absent = re.match(r"(hydra/\w+=(\w+)): no such choice", message)
        if absent and absent[2] in EXTRAS:
            message = _not_installed(absent[1], absent[2])
        if part := re.match(r"unknown key 'hydra\.(launcher|sweeper)\.", message):
            message = f"{message.partition(';')[0]} of this {part[1]}; choose the one that has it: hydra/{part[1]}=NAME"
        raise RequestError(with_place(message, words, config_dir)) from error
    _check_targets(config)
    _check_commands(config, words)
    _check_processes(config)
    _check_search(config, words)
    _quiet_ray(config)
    HydraConfig.instance().set_config(config)
    return config


def _check(words: list[str]) -> None:
    for word in words:
        key = key_of(word)
        parsed_word(bare_value_quoted(word))
        if key == "hydra.mode":
            raise RequestError(f"{word}: `mha-ablate sweep` runs many and `train` one; leave hydra.mode out")
        if key == "hydra.sweep.subdir":
            raise RequestError(f"{word}: runs lie in ARM/seed=N, so that a report can pair them; leave it out")
        if key in ("hydra.searchpath", "hydra.run.dir"):
            adds = "--config-dir DIR adds a folder"
            raise RequestError(
                f"{word}: {adds if key == 'hydra.searchpath' else 'hydra.sweep.dir or name= says where'}"
            )


def _check_choices(hydra: Hydra, words: list[str], config_dir: Path | None) -> None:
    """An unknown launcher or sweeper in one line, and one that is not installed with the command that installs it."""
    from hydra.core.object_type import ObjectType

    for word in words:
        key, _, choice = word.lstrip("+").partition("=")
        if key not in ("hydra/launcher", "hydra/sweeper") or "," in choice:
            continue
        found = set(hydra.config_loader.get_group_options(key, results_filter=ObjectType.CONFIG))
        if config_dir is not None:
            found |= {file.stem for file in (config_dir / key).glob("*.yaml")}
        if choice in found:
            continue
        if choice in EXTRAS:
            raise RequestError(_not_installed(word, choice))
        raise RequestError(
            f"{word}: no such choice{nearest(choice, sorted(found))}; there are {', '.join(sorted(found))}"
        )


def _not_installed(word: str, choice: str) -> str:
    return f"{word}: not installed; pip install 'mha-ablate[{EXTRAS[choice]}]' does that"


def _leaves(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _leaves(value, f"{prefix}.{key}")
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _leaves(value, f"{prefix}.{i}")
    else:
        yield prefix, node


def _plain(config: DictConfig, key: str) -> Any:
    from omegaconf import OmegaConf

    node = OmegaConf.select(config, key)
    return OmegaConf.to_container(node, resolve=False) if OmegaConf.is_config(node) else node


def _check_targets(config: DictConfig) -> None:
    """Classes that Hydra would import and build: plugins that are installed, and nothing else."""
    for part, allowed in (
        ("launcher", BUILT),
        ("sweeper", BUILT),
        ("callbacks", BUILT),
        ("job_logging", LOGGED),
        ("hydra_logging", LOGGED),
    ):
        for key, value in _leaves(_plain(config, f"hydra.{part}"), f"hydra.{part}"):
            builds = key.rpartition(".")[2] in ("_target_", "class", "()")
            if builds and not str(value).startswith(allowed):
                raise RequestError(f"{key}={value} is refused: only installed plugins of Hydra are built from settings")
    if search := _plain(config, "hydra.sweeper.custom_search_space"):
        raise RequestError(
            f"hydra.sweeper.custom_search_space={search} is refused: settings do not name code to be run"
        )


def _check_commands(config: DictConfig, words: list[str]) -> None:
    """What ends up in a shell or an environment stands on the command line itself, where who runs it sees it.

    A setting of a launcher becomes a line of a script that a shell reads: none may hold the end of a line.
    """
    for key, value in _leaves(_plain(config, "hydra.launcher"), "hydra.launcher"):
        if any(not character.isprintable() for character in str(value)) and not key.startswith(COMMANDS):
            raise RequestError(f"{key}={str(value)!r} is refused: it may not hold control characters or ends of lines")
    given = {key_of(word) for word in words}
    for key in COMMANDS:
        named = any(g == key or g.startswith(f"{key}.") for g in given)
        if _plain(config, key) and not named and os.environ.get(ALLOW_SHELL) != "1":
            raise RequestError(
                f"{key} in a file of settings is refused, since it could run commands: give it on the command line, or put "
                f"{ALLOW_SHELL}=1 in front of it"
            )


def _check_processes(config: DictConfig) -> None:
    """Of joblib processes alone: runs in threads would draw from one stream of random numbers."""
    for key, allowed in (("backend", (None, "loky")), ("prefer", (None, "processes")), ("require", (None,))):
        value = config.hydra.launcher.get(key) if "joblib" in str(config.hydra.launcher._target_) else None
        if value not in allowed:
            raise RequestError(
                f"hydra.launcher.{key}={value} is refused: runs need processes of their own, since threads share one stream of "
                "random numbers; leave it out"
            )
    if config.hydra.launcher.get("n_jobs") == 0:
        raise RequestError("hydra.launcher.n_jobs=0 is refused: it must be 1 or more, or -1 for all cores")


def _check_search(config: DictConfig, words: list[str]) -> None:
    """Of optuna: it has trials to make, and something to choose in them."""
    sweeper = config.hydra.sweeper
    if "optuna" not in str(sweeper._target_).lower():
        return
    for key in ("n_trials", "n_jobs"):
        value = sweeper.get(key)
        if not isinstance(value, int) or value < 1:
            raise RequestError(f"hydra.sweeper.{key}={value} is refused: it must be a whole number from 1 on")
    given = any(parsed_word(bare_value_quoted(word)).is_sweep_override() for word in words)
    if not (given or sweeper.get("params") or sweeper.get("search_space")):
        raise RequestError(
            "hydra/sweeper=optuna has nothing to search: give a choice or a range, such as fc_out=dense,none or "
            "'optim.lr=tag(log,interval(1e-4,1e-2))'"
        )


def _quiet_ray(config: DictConfig) -> None:
    """Ray tells of errors alone, where no setting says otherwise: progress and results are told here."""
    if not str(config.hydra.launcher._target_).endswith(".RayLauncher"):
        return
    from omegaconf import open_dict

    init = config.hydra.launcher.ray.init
    with open_dict(init):
        for key, value in {"logging_level": logging.ERROR, "log_to_driver": False, "include_dashboard": False}.items():
            init.setdefault(key, value)


def _parsed(hydra: Hydra, config: DictConfig) -> list[tuple[str, Override]]:
    """The words of a sweep and those of `hydra.sweeper.params`, read by Hydra's grammar. Raises RequestError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=hydra.config_loader)
    words = [f"{key}={value}" for key, value in (_plain(config, "hydra.sweeper.params") or {}).items()]
    try:
        every = [*words, *config.hydra.overrides.task]
        return list(zip(every, parser.parse_overrides(every), strict=True))
    except Exception as error:
        raise RequestError(explained(error)) from error


def fixed_keys(hydra: Hydra, config: DictConfig) -> set[str]:
    """The keys that have one value in the whole sweep."""
    listed = {override.get_key_element(): override.is_sweep_override() for _, override in _parsed(hydra, config)}
    return {key_of(key) for key, swept in listed.items() if not swept}


def grid(hydra: Hydra, config: DictConfig) -> list[list[str]]:
    """Every combination of what the words and `hydra.sweeper.params` list, in Hydra's order; a word wins over a param.

    Raises RequestError for what no list can hold, such as an interval.
    """
    axes: dict[str, list[str]] = {}
    for word, override in _parsed(hydra, config):
        key = override.get_key_element()
        if not override.is_sweep_override():
            axes[key] = [word]
            continue
        if not override.is_discrete_sweep():
            raise RequestError(f"{word}: a grid has no place for an interval; add hydra/sweeper=optuna, or list values")
        try:
            axes[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        except Exception as error:
            raise RequestError(f"{word}: {' '.join(str(error).split())}") from error
        if not axes[key]:
            raise RequestError(f"{word}: no choice fits; `mha-ablate list {key}` shows them")
    return [list(combination) for combination in itertools.product(*axes.values())]


def is_grid(config: DictConfig) -> bool:
    """Whether Hydra's own sweeper is chosen, which takes every combination."""
    return str(config.hydra.sweeper._target_).endswith("basic_sweeper.BasicSweeper")


def sweep_dir_of(config: DictConfig) -> str | None:
    """`hydra.sweep.dir` where somebody gave one, resolved; None where it is Hydra's own."""
    from omegaconf import OmegaConf

    if _plain(config, "hydra.sweep")["dir"] == UNSET:
        return None
    return str(OmegaConf.select(config, "hydra.sweep.dir"))


def sent_to(
    folder: Path, hydra: Hydra, config: DictConfig, words: list[str], config_dir: Path | None = None
) -> DictConfig:
    """The same, with the jobs below `folder`, and a sweeper that does not give up where one of them fails."""
    more = [f"hydra.sweep.dir={folder}"]
    given = {key_of(word) for word in words}
    if "max_failure_rate" in config.hydra.sweeper and FAILURES not in given:
        more.append(f"{FAILURES}=1.0")
    sampler = _plain(config, "hydra.sweeper").get("sampler") or {}
    if SAMPLER_SEED not in given and "seed" in sampler and sampler["seed"] is None:
        more.append(f"{SAMPLER_SEED}=0")  # the same command then proposes the same, and finds what is finished
    return multirun_config(hydra, [*(w for w in words if key_of(w) != "hydra.sweep.dir"), *more], config_dir)


def sweeper_with(launcher: Any, hydra: Hydra, config: DictConfig) -> Any:
    """The sweeper that the settings choose, which will hand what it proposes to `launcher`."""
    from hydra._internal.callbacks import Callbacks
    from hydra.core.plugins import Plugins
    from hydra.types import HydraContext

    with contextlib.suppress(ImportError):  # it has a handler of its own, and would tell of every trial
        importlib.import_module("optuna").logging.set_verbosity(logging.WARNING)
        plugin = logging.getLogger("hydra_plugins.hydra_optuna_sweeper._impl")
        plugin.setLevel(logging.ERROR)  # failed cells are told at the end
    context = HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config))
    plugins = Plugins.instance()
    # A sweeper asks Plugins for its launcher, and has no other way of being given one.
    own = vars(plugins)
    own["instantiate_launcher"] = lambda **_: launcher
    try:
        return plugins.instantiate_sweeper(config=config, hydra_context=context, task_function=lambda _: None)
    finally:
        del own["instantiate_launcher"]


def show(words: list[str], config_dir: Path | None, *, kind: str, package: str | None, resolve: bool) -> None:
    """Print the configuration as Hydra's `--cfg` does. Raises RequestError."""
    if kind not in SHOWN:
        raise RequestError(f"--cfg {kind} is not one of {', '.join(SHOWN)}{nearest(kind, SHOWN)}")
    with session(config_dir) as hydra:
        _composable(hydra, words, config_dir)
        try:
            # Of a list the first value stands for all, as in one of its cells.
            hydra.show_cfg(CONFIG, readable(_first_of(hydra, words), config_dir), kind, package, resolve)
        except SystemExit:
            raise RequestError(f"--package {package}: there is no such part") from None
        except Exception as error:
            raise RequestError(explained(error)) from error


def show_info(words: list[str], config_dir: Path | None, *, what: str) -> None:
    """Print what Hydra's `--info` does. Raises RequestError."""
    from hydra.types import RunMode

    if what not in INFO:
        raise RequestError(f"--info {what} is not one of {', '.join(INFO)}{nearest(what, INFO)}")
    with session(config_dir) as hydra:
        _composable(hydra, words, config_dir)
        hydra.show_info(what, CONFIG, readable(_first_of(hydra, words), config_dir), RunMode.RUN)


def _first_of(hydra: Hydra, words: list[str]) -> list[str]:
    """The words with the first value of every list; without those that have none, such as an interval."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=hydra.config_loader)
    firsts = []
    for word in words:
        override = parser.parse_override(bare_value_quoted(word))
        if not override.is_sweep_override():
            firsts.append(word)
        elif override.is_discrete_sweep():
            firsts += [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()][:1]
    return firsts


def _composable(hydra: Hydra, words: list[str], config_dir: Path | None) -> None:
    """Raise RequestError, in one line, where Hydra could not compose the words as one configuration."""
    from hydra.types import RunMode

    try:
        hydra.compose_config(CONFIG, readable(words, config_dir), RunMode.MULTIRUN)
    except Exception as error:
        raise RequestError(explained(error)) from error
