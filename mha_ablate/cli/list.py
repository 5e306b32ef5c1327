"""`mha-ablate list`: what can be chosen."""

from __future__ import annotations

from typing import Annotated

import typer

from mha_ablate.cli.common import Json, epilog

EPILOG = epilog(
    {
        "list": "every group and its choices",
        "list fc_out": "the variants, by formula",
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
    as_json: Json = False,
) -> None:
    """List the groups of settings, the choices of one group, or the whole default configuration."""
    from mha_ablate.cli.common import print_json
    from mha_ablate.config import catalog

    if group == "config":
        from mha_ablate.config.compose import compose, to_yaml

        config = compose([]).config
        if as_json:
            import dataclasses

            print_json(dataclasses.asdict(config))
        else:
            print(to_yaml(config), end="")
        return
    groups = [group] if group else catalog.groups()
    found = {name: catalog.choices(name) for name in groups}
    if as_json:
        print_json({name: {c.name: c.meaning for c in choices} for name, choices in found.items()})
        return
    room = max(14, 2 + max(len(choice.name) for choices in found.values() for choice in choices))
    for name, choices in found.items():
        print(f"{name}=")
        for choice in choices:
            _print_choice(choice.name, choice.meaning, room)


def _print_choice(name: str, meaning: str, room: int) -> None:
    import shutil
    import textwrap

    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    lines = textwrap.wrap(meaning, max(30, width - room - 4)) or [""]
    print(f"  {name:<{room}}{lines[0]}")
    for line in lines[1:]:
        print(" " * (room + 2) + line)
