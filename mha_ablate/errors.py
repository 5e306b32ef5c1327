"""The errors that a user may meet. `cli.errors` alone turns them into exit codes."""


class MhaAblateError(Exception):
    """Root of them all. The message is one line: what was given, what is allowed, what to do next."""

    exit_code = 1


class RequestError(MhaAblateError):
    """The request is at fault (a wrong key, value, file or folder): exit code 2, nothing was written."""

    exit_code = 2


class RunFailed(MhaAblateError):
    """A run or a cell of a study did not end well: exit code 1."""


class Interrupted(MhaAblateError):
    """Ctrl-C or SIGTERM: exit code 130, everything that had finished is kept."""

    exit_code = 130


def nearest(word: str, options: list[str] | tuple[str, ...]) -> str:
    """`" (did you mean 'x'?)"` for the option that looks most like `word`, or an empty string."""
    import difflib

    match = difflib.get_close_matches(str(word), sorted(options), n=1, cutoff=0.7)
    return f" (did you mean '{match[0]}'?)" if match else ""
