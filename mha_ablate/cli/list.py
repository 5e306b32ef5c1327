"""`mha-ablate list`: what can be chosen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mha_ablate.cli.common import ConfigDir, Json, epilog

if TYPE_CHECKING:
    from mha_ablate.config.catalog import Choice

SHOWN = ("Parameters", "Class", "Source")

EPILOG = epilog(
    {
        "list": "every group and its choices",
        "list fc_out": "the variants: formula, parameters, class, source",
        "list fc_out --config-dir DIR": "with those of your own",
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
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """List the groups of settings, the choices of one group, or the whole default configuration.

    Choices of your own, from --config-dir, are marked by a star.
    """
    from mha_ablate.cli.common import print_json
    from mha_ablate.config import catalog

    if group == "config":
        _list_config(config_dir, as_json)
        return
    if config_dir is not None:
        from mha_ablate.config.own import checked

        config_dir = checked(config_dir)
    found = {name: catalog.choices(name, config_dir) for name in ([group] if group else catalog.groups())}
    if as_json:
        print_json({name: {c.name: _about(c) for c in choices} for name, choices in found.items()})
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


def _list_config(config_dir: Path | None, as_json: bool) -> None:
    import dataclasses

    from mha_ablate.cli.common import print_json
    from mha_ablate.config.compose import compose, to_yaml

    config = compose([], config_dir).config
    if as_json:
        print_json(dataclasses.asdict(config))
    else:
        print(to_yaml(config), end="")


def _about(choice: Choice) -> dict[str, str]:
    facts = {word.lower(): text for word, text in choice.facts.items()}
    return {"meaning": choice.meaning, **facts, **({"file": str(choice.own)} if choice.own else {})}


def _print_choice(name: str, texts: list[str], room: int) -> None:
    """The name, and beside it each text from a new line on."""
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = [line for text in texts for line in textwrap.wrap(text, max(30, width - room - 2)) or [""]]
    print(f"  {name:<{room}}{lines[0]}".rstrip())
    for line in lines[1:]:
        print(" " * (room + 2) + line)
