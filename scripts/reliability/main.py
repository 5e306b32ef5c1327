"""Kills, counted and put into a table."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from scripts.page import check_marks, write_into
from scripts.reliability.kills import PLACES, REQUESTS, Chain, Tally, Where, compared

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
IN_A_ROW = 5  # kills before a request may end


def main(argv: list[str]) -> int:
    """Kill as often as `argv` says, and print the table; returns 1 where something was lost."""
    parser = argparse.ArgumentParser(prog="scripts/kill_test", description=__doc__)
    parser.add_argument("--kills", type=int, default=len(PLACES), help="how many (default: one at every place)")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn: places, moments (default: 0)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--write", action="store_true", help="put the table into docs/reliability.md")
    asked = parser.parse_args(argv)
    if asked.kills < 1:
        print("kill_test: --kills must be at least 1", file=sys.stderr)
        return 2
    if asked.write:
        check_marks(PAGE, "kills")
    with tempfile.TemporaryDirectory(prefix="mha_ablate-kills-") as scratch:
        tallies, seconds = kill(asked.kills, random.Random(asked.seed), Path(scratch))
    text = table(tallies, seconds)
    if asked.write:
        write_into(PAGE, "kills", text)
    print(json.dumps(as_json(tallies, seconds), indent=2) if asked.json else text)
    return int(any(tally.wrong for tally in tallies.values()))


def kill(kills: int, chance: random.Random, scratch: Path) -> tuple[dict[Where, Tally], float]:
    """So many kills that hit, in turn at every place; returns what each place did, and the seconds that all took.

    A call that comes to its end before the kill is tried again elsewhere; in all there are at most three calls a kill.
    """
    begun = time.monotonic()
    typical: dict[str, float] = {}
    for request in REQUESTS:
        since = time.monotonic()
        if said := Chain(request, scratch / request, chance, 0).end():
            raise RuntimeError(f"{request} fails when nothing disturbs it: {said}")
        typical[request] = time.monotonic() - since
    tallies = {place: Tally() for place in PLACES}
    wanted = {request: [] for request in REQUESTS}
    for i in range(kills):
        place = PLACES[i % len(PLACES)]
        wanted[place.request].append(place)
    for request, places in wanted.items():
        chance.shuffle(places)
        chains, most = 0, 3 * len(places)
        while places and calls_of(tallies, request) < most:
            chains += 1
            chain = Chain(request, scratch / f"{request}-{chains}", chance, typical[request])
            places[:] = in_a_row(places, chain, tallies)
            say(f"{request}: {hits_of(tallies, request)} kills, {len(places)} to come")
    return tallies, time.monotonic() - begun


def calls_of(tallies: dict[Where, Tally], request: str) -> int:
    """Calls of a request so far."""
    return sum(tally.tried for place, tally in tallies.items() if place.request == request)


def hits_of(tallies: dict[Where, Tally], request: str) -> int:
    """Kills of a request so far."""
    return sum(tally.hit for place, tally in tallies.items() if place.request == request)


def in_a_row(places: list[Where], chain: Chain, tallies: dict[Where, Tally]) -> list[Where]:
    """Kill one request at the first few places until a call escapes, let it end, and compare; returns the places to come."""
    done: list[Where] = []
    place, to_come = places[0], list(places)
    wrong: list[str] = []
    while to_come and len(done) < IN_A_ROW:
        place = to_come.pop(0)
        try:
            if not chain.kill(place, tallies[place]):
                to_come.append(place)
                break
        except (OSError, ValueError) as error:  # a finished run that cannot be read, or a worker that does not leave
            wrong.append(f"{type(error).__name__}: {error}")
        done.append(place)
    said = chain.end()
    try:
        wrong += [said] if said else compared(chain.folder, chain.folder.parent / place.request)
    except (OSError, ValueError) as error:
        wrong.append(f"a file that cannot be read: {error}")
    if wrong:
        tallies[place].wrong.append("; ".join(wrong))
        say(f"WRONG after {', '.join(f'{p.who} at {p.phase}' for p in (*done, place))}: {'; '.join(wrong)}")
    return to_come


def table(tallies: dict[Where, Tally], seconds: float) -> str:
    """The table in Markdown."""
    lines = [
        "| killed | where | kills | finished runs before | wrong in the end |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for place, tally in tallies.items():
        lines.append(f"| {place.who} | {place.phase} | {tally.hit} | {tally.kept} | {len(tally.wrong)} |")
    hit, wrong = sum(t.hit for t in tallies.values()), sum(len(t.wrong) for t in tallies.values())
    return "\n".join(
        [
            *lines,
            "",
            f"{hit} kills in {seconds / 60:.0f} minutes; {wrong} of the requests lost, counted twice or changed something.",
        ]
    )


def as_json(tallies: dict[Where, Tally], seconds: float) -> dict[str, object]:
    """The same as plain values."""
    return {
        "seconds": seconds,
        "places": [{"killed": p.who, "where": p.phase, **vars(t)} for p, t in tallies.items()],
    }


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
