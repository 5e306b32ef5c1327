"""From the words of the command line to what is printed."""

from __future__ import annotations

import json
from pathlib import Path

from scripts.benchmark.measure import measure, say
from scripts.benchmark.request import Failed, parse
from scripts.benchmark.result import result_of
from scripts.benchmark.tables import as_markdown, as_text, tables
from scripts.page import check_marks, write_into

PAGE = Path(__file__).resolve().parents[2] / "docs/performance.md"


def main(argv: list[str]) -> int:
    """Measure what `argv` asks for and print it; returns the exit code."""
    try:
        asked = parse(argv)
        if asked.write:
            check_marks(PAGE, "bench")
        result = result_of(measure(asked), asked)
        if asked.write:
            write_into(PAGE, "bench", as_markdown(tables(result)))
    except Failed as error:
        say(f"bench: {error}")
        return error.code
    except OSError as error:
        say(f"bench: the system refused: {error}")
        return 1
    except KeyboardInterrupt:
        say("bench: interrupted")
        return 130
    if asked.json:
        print(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        print((as_markdown if asked.markdown else as_text)(tables(result)))
    return 0
