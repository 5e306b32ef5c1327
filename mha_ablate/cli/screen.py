"""`mha-ablate screen`: which settings turn what fc_out is worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from mha_ablate.cli.common import ConfigDir, Json, Quiet, Settings, epilog

if TYPE_CHECKING:
    from mha_ablate.config.schema import RunConfig

QUICK = ("study=screen", "study.arms=[dense,none]", "study.seeds=1", "name=screen_quick")

EPILOG = epilog(
    {
        "screen --quick": "two arms, one seed: a ranking that tests nothing, in minutes",
        "screen": "twelve settings at two levels, 24 points, four arms, four seeds; the same command goes on where it stopped",
        "screen 'study.factors=[init,block,heads]' name=three": "some of the factors: with three, every combination",
        "screen 'study.factors={heads: [model.n_heads=8,model.n_heads=1], depth: [model.n_layers=2,model.n_layers=6]}' name=mine": (
            "factors of your own"
        ),
    }
)


def screen(
    settings: Settings = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Two arms and one seed: it ranks the settings and tests nothing.")
    ] = False,
    config_dir: ConfigDir = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes, one thread each. Default: one per core.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Find the settings that the worth of fc_out hinges on: a designed experiment over many of them at once.

    It is `compare study=screen`, told factor by factor: by how much each setting changes the difference between an arm and the
    baseline, averaged over the other settings, and what the design cannot tell apart.
    """
    from mha_ablate.cli.common import flags, print_joint, print_json
    from mha_ablate.cli.conducting import conducted
    from mha_ablate.errors import RunFailed

    done = conducted(
        "screen",
        settings,
        study="study=screen",
        quick=QUICK if quick else None,
        check=_has_factors,
        workers=workers,
        quiet=quiet,
        config_dir=config_dir,
        as_json=as_json,
    )
    if step := done.report["screen"]["next"]:
        step["options"] = flags(config_dir=config_dir)  # run folders do not hold where one's own choices lie
    if as_json:
        print_json(as_plain(done.report))
    else:
        print_joint(done.report)
        print(f"\nreport: {done.folder / 'report' / 'report.html'}")
    if done.failure:
        raise RunFailed(done.failure)


def _has_factors(config: RunConfig) -> None:
    from mha_ablate.errors import RequestError

    if not config.study.factor_words:
        raise RequestError(
            f"study={config.study.name} has no factors: `mha-ablate compare study={config.study.name}` runs it, and "
            "'study.factors={...}' gives it some"
        )


def as_plain(report: dict[str, Any]) -> dict[str, Any]:
    """What `--json` prints."""
    return {
        key: report[key] for key in ("study", "name", "kind", "plan_hash", "screen", "over_points", "sentence", "notes")
    }
