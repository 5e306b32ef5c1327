"""Kills, counted and put into a table."""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from scripts.page import check_marks, write_into
from scripts.reliability.kills import PLACES, REQUESTS, Chain, Tally, Where, compared

PAGE = Path(__file__).resolve().parents[2] / "docs/reliability.md"
IN_A_ROW = 5  # kills before a request may end


def main(argv: list[str]) -> int:
    """Kill as often as `argv` says, and print the table.

    Returns 1 where something was lost, 130 where it was interrupted: the table is then of what was done until then.
    """
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
    done = Done(asked.seed, asked.kills)
    begun = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="mha_ablate-kills-", ignore_cleanup_errors=True) as scratch:
            kill(done, Path(scratch))
    except Disturbed as error:
        print(f"kill_test: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        done.interrupted = True
    done.seconds = time.monotonic() - begun
    print(json.dumps(as_json(done), indent=2) if asked.json else table(done), flush=True)
    if asked.write:
        write_into(PAGE, "kills", table(done))
    if done.interrupted:
        say("kill_test: interrupted")
        return 130
    return int(done.wrong > 0)


class Disturbed(Exception):
    """A request fails when nobody kills it, so that there is nothing to compare with."""


@dataclass
class Done:
    """What was asked for, and what has been done of it so far."""

    seed: int
    kills: int
    tallies: dict[Where, Tally] = field(default_factory=lambda: {place: Tally() for place in PLACES})
    seconds: float = 0.0
    interrupted: bool = False

    @property
    def hit(self) -> int:
        """Kills that hit."""
        return sum(tally.hit for tally in self.tallies.values())

    @property
    def wrong(self) -> int:
        """What came out wrong."""
        return sum(len(tally.wrong) for tally in self.tallies.values())


def kill(done: Done, scratch: Path) -> None:
    """Kill at every place in turn, and note in `done` what that did. Raises Disturbed.

    A call that comes to its end before the kill is tried again elsewhere; in all there are at most three calls a kill.
    """
    chance, tallies = random.Random(done.seed), done.tallies
    typical: dict[str, float] = {}
    for request in REQUESTS:
        since = time.monotonic()
        if said := Chain(request, scratch / request, chance, 0).end():
            raise Disturbed(f"{request} fails when nothing disturbs it: {' '.join(said.split())}")
        typical[request] = time.monotonic() - since
    wanted: dict[str, list[Where]] = {request: [] for request in REQUESTS}
    for i in range(done.kills):
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


def calls_of(tallies: dict[Where, Tally], request: str) -> int:
    """Calls of a request so far."""
    return sum(tally.tried for place, tally in tallies.items() if place.request == request)


def hits_of(tallies: dict[Where, Tally], request: str) -> int:
    """Kills of a request so far."""
    return sum(tally.hit for place, tally in tallies.items() if place.request == request)


def in_a_row(places: list[Where], chain: Chain, tallies: dict[Where, Tally]) -> list[Where]:
    """Kill one request at a few places until a call escapes, let it end, compare; returns the places to come."""
    done: list[Where] = []
    place, to_come = places[0], list(places)
    wrong: list[str] = []
    try:
        while to_come and len(done) < IN_A_ROW:
            place = to_come.pop(0)
            try:
                if not chain.kill(place, tallies[place]):
                    to_come.append(place)
                    break
            except (OSError, ValueError) as error:  # a finished run that cannot be read, a process that does not end
                wrong.append(f"{type(error).__name__}: {error}")
            done.append(place)
        wrong += ended(chain, chain.folder.parent / place.request)
    finally:  # interrupted or not
        if wrong:
            tallies[place].wrong.append("; ".join(wrong))
            say(f"WRONG after {', '.join(f'{p.who} at {p.phase}' for p in (*done, place))}: {'; '.join(wrong)}")
    return to_come


def ended(chain: Chain, reference: Path) -> list[str]:
    """Let a request come to its end; returns in what it differs from one that was left in peace."""
    if said := chain.end():
        return [said]
    try:
        return compared(chain.folder, reference)
    except (OSError, ValueError) as error:
        return [f"a file that cannot be read: {error}"]


def table(done: Done) -> str:
    """The table in Markdown, and under it what it is of."""
    lines = [
        "| killed | where | kills | finished runs before | wrong in the end |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for place, tally in done.tallies.items():
        lines.append(f"| {place.who} | {place.phase} | {tally.hit} | {tally.kept} | {len(tally.wrong)} |")
    stopped = "Interrupted. " if done.interrupted else ""
    return "\n".join(
        [
            *lines,
            "",
            f"{stopped}Seed {done.seed}: {done.hit} of {done.kills} kills in {done.seconds / 60:.0f} minutes; "
            f"{done.wrong} of the requests lost, counted twice or changed something, or did not end.",
        ]
    )


def as_json(done: Done) -> dict[str, object]:
    """The same as plain values."""
    return {
        "seed": done.seed,
        "kills": done.kills,
        "interrupted": done.interrupted,
        "seconds": done.seconds,
        "places": [{"killed": p.who, "where": p.phase, **vars(t)} for p, t in done.tallies.items()],
    }


def say(line: str) -> None:
    """Progress, on standard error."""
    print(line, file=sys.stderr, flush=True)
