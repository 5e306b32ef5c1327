"""`mha-ablate`: the commands, put together."""

from __future__ import annotations

import io
import os
import sys
from typing import Annotated

import typer
import typer.completion

from mha_ablate import __version__
from mha_ablate.cli import (
    board,
    claims,
    compare,
    completion,
    cost,
    data,
    doctor,
    errors,
    export,
    generate,
    inspect,
    plan,
    replay,
    report,
    screen,
    status,
    sweep,
    train,
)
from mha_ablate.cli import list as listing

app = typer.Typer(
    name="mha-ablate",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start with `mha-ablate compare`.",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mha-ablate {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback where an error arose.")] = False,
) -> None:
    """What is fc_out, the output projection of multi-head attention, worth, and what does it cost?

    Tiny Transformers are trained with and without it on the same text, seed by seed, and compared.
    """


app.command(
    "compare", short_help="Train the arms of a study and say what removing fc_out costs.", epilog=compare.EPILOG
)(compare.compare)
app.command("claims", short_help="Try what is said of fc_out, claim by claim.", epilog=claims.EPILOG)(claims.claims)
app.command("screen", short_help="Find the settings that the answer hinges on.", epilog=screen.EPILOG)(screen.screen)
app.command("train", short_help="Train one model and leave a run folder.", epilog=train.EPILOG)(train.train)
app.command("sweep", short_help="Train every combination of settings, here or on a cluster.", epilog=sweep.EPILOG)(
    sweep.sweep
)
app.command("cost", short_help="Count and time what each variant costs, without training.", epilog=cost.EPILOG)(
    cost.cost
)
app.command("plan", short_help="Say how many seeds a study needs, and fix it ahead.", epilog=plan.EPILOG)(plan.plan)
app.command("report", short_help="Compare the runs of a folder.", epilog=report.EPILOG)(report.report)
app.command("status", short_help="Say where a study stands.", epilog=status.EPILOG)(status.status)
app.command("replay", short_help="Train a finished run again and compare it bit for bit.", epilog=replay.EPILOG)(
    replay.replay
)
app.command("generate", short_help="Continue a text with the model of a finished run.", epilog=generate.EPILOG)(
    generate.generate
)
app.command(
    "inspect",
    short_help="Swap, truncate and silence parts of a trained fc_out, and look at them.",
    epilog=inspect.EPILOG,
)(inspect.inspect)
app.command("export", short_help="Write a run's model for other libraries.", epilog=export.EPILOG)(export.export)
app.command("board", short_help="Serve TensorBoard with the comparison in view.", epilog=board.EPILOG)(board.board)
app.add_typer(data.app, name="data", short_help="Look at a text, or fetch and tokenise it ahead of training.")
app.command("list", short_help="Show what can be chosen.", epilog=listing.EPILOG)(listing.list_)
app.command("doctor", short_help="Say what this machine offers, and what is missing.", epilog=doctor.EPILOG)(
    doctor.doctor
)
app.command("completion", short_help="Make a shell complete commands and settings.", epilog=completion.EPILOG)(
    completion.completion
)


def main() -> None:
    """Entry point of the `mha-ablate` script."""
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a character shows another
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if completion.ASKED in os.environ:
        typer.completion.completion_init()
    code = errors.run(app, sys.argv[1:])
    # A KeyboardInterrupt that crosses an exec() of text, as dataclasses do on import, is remembered by CPython even when
    # it is caught, and the process would end by SIGINT instead of with our code. The next exec() of text forgets it.
    exec("")
    sys.exit(code)
