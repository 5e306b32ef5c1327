"""`mha-ablate export`: a run's model for other libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mha_ablate.cli.common import Json, epilog
from mha_ablate.cli.generate import Weights

EPILOG = epilog(
    {
        "export outputs/gpt2/dense/seed=0 --to hf --out exported": "config.json, model.safetensors, a note on tokens",
        "train model.positions=learned name=gpt2": "a model that GPT-2 has the settings of",
    }
)


def export(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run: OUTPUTS/NAME/ARM/seed=N.", show_default=False)
    ],
    to: Annotated[
        str, typer.Option(metavar="FORMAT", help="hf: a GPT-2 for the `transformers` library.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where it goes: a new folder.", show_default=False)],
    weights: Annotated[
        Weights, typer.Option(help="Those at the end, or those at the lowest validation loss.")
    ] = Weights.LAST,
    as_json: Json = False,
) -> None:
    """Write the model of a finished run as a checkpoint that other libraries load, with the same logits.

    GPT-2 has learned positions, LayerNorm before each branch, and full attention: a run with other settings is refused, in a line
    that names them. `pip install 'mha-ablate[hf]'` installs `transformers`, which nothing else here needs.
    """
    from mha_ablate.cli.common import print_json
    from mha_ablate.run.folder import RunFolder
    from mha_ablate.study.export import export as write

    told = write(RunFolder(folder), to, out, weights.value)
    if as_json:
        print_json(told)
        return
    print(f"{told['folder']}: {told['parameters']:,} parameters; transformers.GPT2LMHeadModel.from_pretrained loads it")
