"""`mha-ablate compare`: arms x seeds, one verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from mha_ablate.cli.common import ConfigDir, Json, Quiet, Settings, epilog

if TYPE_CHECKING:
    from mha_ablate.conduct import Conducted
    from mha_ablate.study.plan import Plan

EPILOG = epilog(
    {
        "compare": "the default study: five arms, five paired seeds",
        "compare study.seeds=8": "more seeds; what is finished is kept",
        "compare model=tutorial attention=tutorial name=tutorial": "the same question on the model of a popular tutorial",
        "compare 'study.arms=[dense,none]' data=text data.path=FILE name=mine": "two arms on your own text",
        "compare 'study.arms.quiet=[fc_out=none,attention.branch_scale=0.1]' name=q": "an arm of your own",
    },
    "study",
    "init",
    "attention",
    "model",
    "data",
    "tokenizer",
)


def compare(
    settings: Settings = None,
    config_dir: ConfigDir = None,
    workers: Annotated[
        int | None, typer.Option(help="Worker processes, one thread each. Default: one per core.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Train every arm of a study at every seed, and say what removing fc_out costs.

    A cell that is finished with exactly this configuration is not trained again, so the same command resumes a study
    that was stopped, and more seeds or arms can be added to it.
    """
    from mha_ablate.cli.common import flags, print_joint, print_json
    from mha_ablate.cli.conducting import conducted
    from mha_ablate.errors import RunFailed

    words = list(settings or [])
    done = conducted("compare", words, workers=workers, quiet=quiet, config_dir=config_dir, as_json=as_json)
    if as_json:
        print_json(done.report)
    elif done.plan is None:
        print_joint(done.report)
        _print_next_of_several(done, words, flags(config_dir=config_dir))
    else:
        _print(done.report, done.plan, words, flags(config_dir=config_dir))
    if done.failure:
        raise RunFailed(done.failure)


def _print(report: dict, plan: Plan, words: list[str], options: list[str]) -> None:
    from mha_ablate.cli.common import command_line, print_report

    folder = str(plan.folder.path)
    print_report(report)
    print(f"\nreport: {plan.folder.report_dir / 'report.html'}\n\nnext:")
    print(f"  {command_line('board', folder)}")
    print("      the paired delta, step by step, in TensorBoard")
    for settings, why in _next(plan, words):
        print(f"  {command_line('compare', *settings, *options)}\n      {why}")


def _print_next_of_several(done: Conducted, words: list[str], options: list[str]) -> None:
    from mha_ablate.cli.common import command_line
    from mha_ablate.stats.verdict import ENOUGH_SEEDS

    print(f"\nreport: {done.folder / 'report' / 'report.html'}\n\nnext:")
    part = done.folder / done.report["parts"][0]["folder"]
    print(f"  {command_line('board', str(part))}")
    print("      a part, step by step, in TensorBoard; each part has a report of its own too")
    if any(arm["look"] for part in done.report["parts"] for arm in part["arms"]):
        more = [*(w for w in words if w.partition("=")[0] != "study.seeds"), f"study.seeds={ENOUGH_SEEDS}"]
        print(f"  {command_line('compare', *more, *options)}")
        print("      a result instead of a look; finished cells are kept")


def _next(plan: Plan, words: list[str]) -> list[tuple[list[str], str]]:
    """Settings of two studies worth trying after this one."""
    from mha_ablate.stats.verdict import ENOUGH_SEEDS

    def without(*keys: str) -> list[str]:
        return [w for w in words if w.partition("=")[0] not in keys]

    name = plan.folder.path.name
    steps = []
    if len(plan.arms) == 1:
        steps.append((without("study.arms"), "with the other arms of the study"))
    elif len(plan.study.seed_list) < ENOUGH_SEEDS:
        more = [*without("study.seeds"), f"study.seeds={ENOUGH_SEEDS}"]
        steps.append((more, "a result instead of a look; finished cells are kept"))
    if not any(w.startswith(("attention=", "model=")) for w in words):
        tutorial = [*without("name"), "model=tutorial", "attention=tutorial", f"name={name}_tutorial"]
        steps.append((tutorial, "the model of a popular tutorial: shared maps on slices of the embedding, post-norm"))
    model = plan.arms[plan.study.baseline].model
    heads = 2 * model.n_heads
    if model.head_dim is None and model.d_model % heads == 0:
        more_heads = [*without("name", "model.n_heads"), f"model.n_heads={heads}", f"name={name}_h{heads}"]
        steps.append((more_heads, "twice the heads: more for fc_out to mix"))
    return steps[:2]
