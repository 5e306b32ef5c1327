"""`mha-ablate board`: TensorBoard on a folder of runs, with the link to the paired delta."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mha_ablate.cli.common import Json, epilog

EPILOG = epilog(
    {
        "board outputs/fc_out": "one study",
        "board --port 6007": "everything below outputs, on a port of your choice",
    }
)
WORDS = {"link": "the comparison", "bands": "with its intervals", "table": "every run in a table"}


def board(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="A folder of runs.", show_default=False)] = Path(
        "outputs"
    ),
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: 6006, or the next one that is free.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Where to listen. Whoever can reach it can read everything.",
        ),
    ] = "127.0.0.1",
    as_json: Json = False,
) -> None:
    """Serve TensorBoard on 127.0.0.1 and print the link that shows cost/delta_val_loss first. Ctrl-C ends it."""
    import signal
    import sys

    from mha_ablate.cli.common import print_json
    from mha_ablate.errors import RequestError
    from mha_ablate.report.board import has_means, links, serve

    if not folder.is_dir() or not any(folder.rglob("events.out.tfevents*")):
        raise RequestError(f"{folder} holds no TensorBoard events: give a folder that `compare` or `train` wrote")
    url = serve(folder, port, host)
    found = links(url, means=has_means(folder))
    if as_json:
        print_json({"url": url, **found})
    else:
        print(f"TensorBoard: {url}")
        for page, link in found.items():
            print(f"{WORDS[page]}: {link}")
        print("Ctrl-C ends it")
    sys.stdout.flush()
    signal.pause()
