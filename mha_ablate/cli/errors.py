"""The only place that turns an error into a line and an exit code.

0 done, 1 a run failed, 2 the request is at fault, 130 interrupted. One line on standard error, a traceback only with `--debug`.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from mha_ablate.errors import MhaAblateError, hides_interrupt, machine_trouble

INTERRUPTED = 130
Signals = (KeyboardInterrupt, typer.Abort)


def run(app: typer.Typer, argv: Sequence[str]) -> int:
    """Run the command line `argv`; returns the exit code. `--debug`, wherever it stands, lets exceptions through."""
    args = [a for a in argv if a != "--debug"]
    debug = len(args) < len(argv)
    before = signal.getsignal(signal.SIGTERM)
    try:
        # SIGTERM ends the work as Ctrl-C does, from the first moment on.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        return _run(app, args, debug)
    except KeyboardInterrupt:  # before or after what `_run` guards
        return _say("interrupted", INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(app: typer.Typer, args: list[str], debug: bool) -> int:
    try:
        code = app(args, prog_name="mha-ablate", standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            return 0
        return _say(_usage(error), error.exit_code)
    except MhaAblateError as error:
        if debug:
            raise
        if hides_interrupt(error) and error.exit_code != INTERRUPTED:
            return _say("interrupted", INTERRUPTED)
        return _say(str(error), error.exit_code)
    except Signals:
        return _say("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # Whoever read our output has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if debug:
            raise
        if hides_interrupt(error):
            return _say("interrupted", INTERRUPTED)
        return _say(_of_the_machine(error), 1)
    if code == INTERRUPTED:  # typer has turned a KeyboardInterrupt into an exit code
        return _say("interrupted", code)
    return code if isinstance(code, int) else 0


def _of_the_machine(error: Exception) -> str:
    """What no part of the package has put into words: a fault of this machine, or of ours."""
    if trouble := machine_trouble(error):
        return f"{trouble[0]}: {trouble[1]}, then give the same command again; what was finished is kept"
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"the system refused ({error.strerror or error}){where}"
    return f"internal error, {type(error).__name__}: {error} (again with --debug to see where)"


def _say(message: str, code: int) -> int:
    line = " ".join(message.split())
    print(f"mha-ablate: {line}", file=sys.stderr)
    return code


def _usage(error: TyperException) -> str:
    """A usage error as one line, with the help to ask for."""
    message = error.format_message().rstrip(".")
    possible = re.search(r" \(Possible options: ([^)]*)\)$", message)
    if possible:
        message = message[: possible.start()] + f" (did you mean {possible[1]}?)"
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "mha-ablate"
    return f"{message}; `{command} --help` lists what there is"
