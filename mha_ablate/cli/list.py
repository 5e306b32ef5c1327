"""`mha-ablate list`: what can be chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.cli.common import ConfigDir, Json, Settings, epilog

if TYPE_CHECKING:
    from mha_ablate.config.catalog import Choice
    from mha_ablate.config.schema import RunConfig
    from mha_ablate.study.starts import Start

SHOWN = ("Parameters", "Class", "Source")
MEASURED = "init"  # the group whose choices are measured
WIDE = 100  # columns of a terminal that has room for every column
COLUMNS = ("init", "gain of V", "gain of O", "gain of V O", "sd scores", "attended", "without O")
LEGEND = (
    "Gain: rms(out) / rms(in). V: W_V. O: W_O, that is fc_out=dense, first .. last layer where they differ. V O: the branch, for "
    "one token. Sd scores: of what the softmax gets. Attended: tokens out of 64, exp(entropy) of the weights. Without O: how "
    "many times larger the branch starts once W_O is gone, 1 / gain of O."
)

EPILOG = epilog(
    {
        "list": "every group and its choices",
        "list fc_out": "the variants: formula, parameters, class, source",
        "list fc_out --config-dir DIR": "with those of your own",
        "list init model.d_model=768 model.n_heads=12": "where weights start: the gains under each init, at your sizes",
        "list config": "every key with its default",
    }
)


def list_(
    group: Annotated[
        str | None,
        typer.Argument(
            metavar="[GROUP]", help="A group, or `config` for every key and its default.", show_default=False
        ),
    ] = None,
    settings: Settings = None,
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """List the groups of settings, the choices of one group, or the whole default configuration.

    `list init` also measures how attention starts under each of them, at the sizes of the settings given.
    Choices of your own, from --config-dir, are marked by a star.
    """
    from mha_ablate.cli.common import print_json
    from mha_ablate.config import catalog
    from mha_ablate.errors import RequestError

    if settings and group != MEASURED:
        known = group in (None, "config", *catalog.groups())
        if known:
            raise RequestError(
                f"list {group} {settings[0]}: settings are for `list {MEASURED}`, which measures at their sizes"
            )
    if group == "config":
        _list_config(config_dir, as_json)
        return
    if config_dir is not None:
        from mha_ablate.config.own import checked

        config_dir = checked(config_dir)
    found = {name: catalog.choices(name, config_dir) for name in ([group] if group else catalog.groups())}
    sizes, starts = (None, {}) if group != MEASURED else _measured(found[group], settings or [], config_dir)
    if as_json:
        print_json({name: {c.name: _about(c, starts.get(c.name)) for c in choices} for name, choices in found.items()})
        return
    room = max(14, 3 + max(len(choice.name) for choices in found.values() for choice in choices))
    for name, choices in found.items():
        print(f"{name}=")
        for choice in choices:
            facts = "; ".join(f"{word.lower()} {choice.facts[word]}" for word in SHOWN if word in choice.facts)
            lines = [choice.meaning, *([facts] if group and facts else [])]
            _print_choice(choice.name + (" *" if choice.own else ""), lines, room)
    if group and any(choice.facts for choice in found[group]):
        _print_choice("", [catalog.LETTERS], 0)
    if any(choice.own for choices in found.values() for choice in choices):
        print(f"* from {config_dir}")
    if sizes is not None:
        _print_starts(sizes, starts)


def _list_config(config_dir: Path | None, as_json: bool) -> None:
    import dataclasses

    from mha_ablate.cli.common import print_json
    from mha_ablate.config.compose import compose, to_yaml

    config = compose([], config_dir).config
    if as_json:
        print_json(dataclasses.asdict(config))
    else:
        print(to_yaml(config), end="")


def _about(choice: Choice, start: Start | None) -> dict[str, Any]:
    facts = {word.lower(): text for word, text in choice.facts.items()}
    about = {"meaning": choice.meaning, **facts, **({"file": str(choice.own)} if choice.own else {})}
    if start is None:
        return about
    from dataclasses import asdict

    return {MEASURED: choice.name, **about, **asdict(start), "louder_without": start.louder_without}


def _measured(
    choices: list[Choice], settings: list[str], config_dir: Path | None
) -> tuple[RunConfig, dict[str, Start]]:
    from mha_ablate.study.starts import measured_starts

    return measured_starts(choices, settings, config_dir)


def _print_starts(config: RunConfig, starts: dict[str, Start]) -> None:
    """The gains under each init, six columns of them where the terminal is narrow, and what they are."""
    from mha_ablate.cli.common import console, print_table

    m, out = config.model, console()
    narrow = out.width < WIDE
    print(
        f"\nmeasured at {m.n_layers} layers, {m.n_heads} heads of {m.width_of_head}, d_model {m.d_model}, N(0, 1) input"
    )
    rows = [tuple(_row(name, start)) for name, start in starts.items()]
    kept = [i for i, name in enumerate(COLUMNS) if not (narrow and name == "sd scores")]
    print_table(out, tuple(COLUMNS[i] for i in kept), [tuple(row[i] for i in kept) for row in rows])
    _print_choice("", [LEGEND], 0)


def _row(name: str, start: Start) -> list[str]:
    first, last = (f"{gain:#.3g}" for gain in (start.gain_out[0], start.gain_out[-1]))
    louder = start.louder_without
    return [
        name,
        f"{start.gain_value:#.3g}",
        first if first == last else f"{first} .. {last}",
        f"{start.gain_branch:#.3g}",
        f"{start.scores_sd:#.3g}",
        f"{start.attended:.1f}",
        "-" if louder is None else f"{louder:#.3g}",
    ]


def _print_choice(name: str, texts: list[str], room: int) -> None:
    """The name, and beside it each text from a new line on."""
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = [line for text in texts for line in textwrap.wrap(text, max(30, width - room - 2)) or [""]]
    print(f"  {name:<{room}}{lines[0]}".rstrip())
    for line in lines[1:]:
        print(" " * (room + 2) + line)
