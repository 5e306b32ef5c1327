"""`mha-ablate train`: one run."""

from __future__ import annotations

from mha_ablate.cli.common import Json, Quiet, Settings, epilog

EPILOG = epilog(
    {
        "train": "the standard Transformer, small",
        "train fc_out=none": "the same without its output projection",
        "train fc_out=none model.n_heads=8 seed=1 name=eight_heads": "other sizes, another seed, a folder of its own",
        "train data=text data.path=FILE tokenizer=byte name=mine": "your own text",
    },
    "fc_out",
    "attention",
    "model",
    "data",
    "tokenizer",
)


def train(settings: Settings = None, quiet: Quiet = False, as_json: Json = False) -> None:
    """Train one model and leave a run folder: outputs/NAME/FC_OUT/seed=N.

    NAME is `train` unless you give name=. `mha-ablate report outputs/NAME` compares what lies there.
    """
    from mha_ablate.cli.common import command_line, flags, note, print_json
    from mha_ablate.cli.live import run_view
    from mha_ablate.conduct import conduct_run
    from mha_ablate.errors import Interrupted, RunFailed

    words = list(settings or [])
    try:
        with run_view(quiet=quiet) as view:
            folder, run, done_before = conduct_run(words, observer=view)
    except Interrupted as error:
        again = command_line("train", *words, *flags(quiet=quiet, json=as_json))
        raise Interrupted(f"{error}; to start this run again: {again}") from None
    if done_before and not quiet:
        note("this run was finished before, and is not trained again")
    if (why := run.get("began_anew")) and not done_before and not quiet:
        note(f"what was there could not be gone on with, and the run began anew: {why}")
    if as_json:
        print_json({"folder": str(folder), **run})
    else:
        _print(run, str(folder), str(folder.parent.parent))
    if run["state"] != "ok":
        raise RunFailed(f"{folder}: {run['state']}, {run['error']}")


def _print(run: dict, folder: str, group: str) -> None:
    from mha_ablate.cli.common import command_line
    from mha_ablate.cli.words import duration, thousands
    from mha_ablate.data.corpus import nat_in_bits_per_byte, unseen_words
    from mha_ablate.report.tables import si

    result, cost = run["result"], run["cost"]
    factor = nat_in_bits_per_byte(run["text"])
    as_bits = f", {result['val_loss'] * factor:.4f} bits per byte" if factor and result["val_loss"] else ""
    loss = "not finite" if result["val_loss"] is None else f"{result['val_loss']:.4f} nats per token{as_bits}"
    print(f"validation loss {loss} after {result['step']} steps")
    print(
        f"{si(cost['params'])} parameters ({si(cost['params_fc_out'])} in fc_out), {si(cost['flops_per_token'])} FLOPs a token, "
        f"{thousands(result['tokens_per_s'] or 0)} tokens/s, {duration(result['train_s'])} of training"
    )
    if strange := unseen_words(run["text"]):
        print(f"note: {strange}")
    print(f"run: {folder}\nnext: {command_line('report', group)}")
