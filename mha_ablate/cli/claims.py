"""`mha-ablate claims`: what a widely read article says of fc_out, tried."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.cli.common import ConfigDir, Json, Quiet, Settings, epilog

if TYPE_CHECKING:
    from mha_ablate.config.schema import RunConfig

SPEAKS = (
    "for, against: decided, after Holm's correction for all contrasts or all rows of the claim. open: neither; more seeds may "
    "tell. no cost, no more: a difference above the margin is excluded."
)
QUICK = ("study=claims_quick", "trainer.steps=150")  # six minutes on two cores

EPILOG = epilog(
    {
        "claims --quick": "a look at all four claims, in minutes",
        "claims": "fourteen settings, tuned rates, eight seeds: hours on two cores; the same command goes on where it stopped",
        "claims hydra/launcher=submitit_slurm": "the same on a cluster",
        "claims study=mine --config-dir DIR": "claims of your own: DIR/study/mine.yaml",
    }
)


def claims(
    settings: Settings = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two settings, four rates, three seeds, 150 steps: a look.")
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
    from mha_ablate.cli.common import print_json
    from mha_ablate.cli.conducting import conducted
    from mha_ablate.errors import RunFailed

    done = conducted(
        "claims",
        settings,
        study="study=claims",
        quick=QUICK if quick else None,
        check=_has_claims,
        workers=workers,
        quiet=quiet,
        config_dir=config_dir,
        as_json=as_json,
    )
    if as_json:
        print_json(as_plain(done.report))
    else:
        print_cards(done.report)
        print(f"\nreport: {done.folder / 'report' / 'report.html'}")
    if done.failure:
        raise RunFailed(done.failure)


def _has_claims(config: RunConfig) -> None:
    from mha_ablate.errors import RequestError

    if not config.study.claims:
        raise RequestError(
            f"study={config.study.name} has no claims: `mha-ablate compare study={config.study.name}` runs it"
        )


def as_plain(report: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints."""
    return {key: report[key] for key in ("study", "name", "kind", "plan_hash", "claims", "notes")}


def print_cards(report: dict[str, Any]) -> None:
    """What removal costs, a card a claim, and below them what a reader must know."""
    from mha_ablate.cli.cards import print_card
    from mha_ablate.cli.common import console
    from mha_ablate.report.tables import kind_line

    out = console()
    out.print(f"{report['sentence']}\n", style="bold", markup=False, soft_wrap=not out.is_terminal)
    for card in report["claims"]:
        print_card(out, card)
    out.print(SPEAKS, style="dim", markup=False, soft_wrap=not out.is_terminal)
    for note in report["notes"]:
        out.print(f"note: {note}", style="yellow", markup=False, soft_wrap=not out.is_terminal)
    out.print(kind_line(report), style="dim", markup=False, soft_wrap=not out.is_terminal)
