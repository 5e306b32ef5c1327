"""`mha-ablate claims`: what a widely read article says of fc_out, tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.cli.common import ConfigDir, Json, Quiet, Settings, epilog

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

QUICK = ("study=claims_quick", "trainer.steps=150")  # ten minutes on two cores

EPILOG = epilog(
    {
        "claims --quick": "a look at all four claims, in minutes",
        "claims": "eleven settings, tuned rates, eight seeds: hours on two cores; the same command goes on where it stopped",
        "claims hydra/launcher=submitit_slurm": "the same on a cluster",
        "claims study=mine --config-dir DIR": "claims of your own: DIR/study/mine.yaml",
    }
)


def claims(
    settings: Settings = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two settings, three rates, three seeds, 150 steps: a look.")
    ] = False,
    config_dir: ConfigDir = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes, one thread each. Default: one per core.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Try the claims of a study: integration, expressive power, alignment and stability, unless another is chosen.

    It is `compare study=claims`, told claim by claim: what is said, what algebra says, what was measured, and the verdict.
    """
    from mha_ablate.cli.common import command_line, flags, note, print_json
    from mha_ablate.cli.live import study_view
    from mha_ablate.conduct import conduct
    from mha_ablate.errors import Interrupted, RequestError, RunFailed

    given = list(settings or [])
    chosen = [word for word in given if word.startswith("study=")]
    if quick and chosen:
        raise RequestError(f"{chosen[0]}: --quick chooses study=claims_quick; leave one of them out")
    usual = [] if chosen else list(QUICK) if quick else ["study=claims"]
    words = [*usual, *given]  # of a key that stands twice, the last word holds
    try:
        with study_view(quiet=quiet) as view:
            done = conduct(words, workers=workers, observer=view, config_dir=config_dir)
    except Interrupted as error:
        options = flags(quick=quick, config_dir=config_dir, workers=workers, quiet=quiet, json=as_json)
        raise Interrupted(f"{error}; to go on: {command_line('claims', *given, *options)}") from None
    for remark in [] if quiet else done.remarks:
        note(remark)
    cards = done.report.get("claims")
    if not cards:
        raise RequestError(f"study={done.report['study']} has no claims: `mha-ablate compare` reports it")
    if as_json:
        print_json(as_plain(done.report))
    else:
        print_cards(done.report)
        print(f"\nreport: {done.folder / 'report' / 'report.html'}")
    if done.failure:
        raise RunFailed(done.failure)


def as_plain(report: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints."""
    return {key: report[key] for key in ("study", "name", "kind", "plan_hash", "claims", "notes")}


def print_cards(report: dict[str, Any]) -> None:
    """A card a claim, and below them what a reader must know."""
    from mha_ablate.cli.common import console
    from mha_ablate.report.tables import kind_line

    out = console()
    for card in report["claims"]:
        _print_card(out, card)
    for note in report["notes"]:
        out.print(f"note: {note}", style="yellow", markup=False, soft_wrap=not out.is_terminal)
    out.print(kind_line(report), style="dim", markup=False, soft_wrap=not out.is_terminal)


def _print_card(out: Console, card: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from mha_ablate.report.claim_cards import heading, rows, standing

    tint = {"supported": "green", "refuted": "red", "undecided": "yellow"}.get(card["verdict"], "cyan")
    out.print(Text(heading(card), style=f"bold {tint}"))
    told = Table.grid(padding=(0, 2, 0, 0))
    for name, text in (
        ("claim", card["says"]),
        ("algebra", card["algebra"]),
        ("evidence", standing(card)),
        ("change", card["change"]),
    ):
        told.add_row(Text(name, style="dim"), Text(text))
    _print_indented(out, told)
    evidence = Table.grid(padding=(0, 2, 0, 0))
    for what, where, delta, _, found, _, speaks in rows(card):
        evidence.add_row(
            Text(speaks, style="dim"), Text(where), Text(" ".join(filter(None, (what, delta)))), Text(found)
        )
    _print_indented(out, evidence)
    print()


def _print_indented(out: Console, told: Table) -> None:
    """Two columns in, without spaces at the ends of lines."""
    from rich.padding import Padding

    with out.capture() as drawn:
        out.print(Padding(told, (0, 0, 0, 2)))
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))
