"""`mha-ablate generate`: what has a run learnt to write?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mha_ablate.cli.common import Json, Quiet, epilog

EPILOG = epilog(
    {
        'generate outputs/train/none/seed=0 --prompt "The "': "200 tokens after these words",
        'generate outputs/fc_out/dense/seed=1 --prompt "The " --temperature 0': "always the likeliest token",
        'generate outputs/train/none/seed=0 --prompt "def " --top-k 20 --seed 3 --json': "another draw, as JSON",
    }
)


class Weights(StrEnum):
    """Which of a run's weights."""

    LAST = "last"
    BEST = "best"


def generate(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="A finished run: OUTPUTS/NAME/ARM/seed=N.", show_default=False)
    ],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What the text begins with.", show_default=False)],
    tokens: Annotated[int, typer.Option(help="How many tokens to add.")] = 200,
    temperature: Annotated[float, typer.Option(help="How daring: 0 always takes the likeliest token.")] = 0.8,
    top_k: Annotated[int | None, typer.Option(metavar="N", help="Draw among the N likeliest tokens alone.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    weights: Annotated[
        Weights, typer.Option(help="Those at the end, or those at the lowest validation loss.")
    ] = Weights.LAST,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Continue a text with the model of a finished run. The text appears as it is made; RUN itself is only read.

    When the model's context is full, it goes on from the last half of it. A last line on standard error says how fast it was.
    """
    import sys
    import time

    from mha_ablate.cli.common import note, print_json, printable
    from mha_ablate.cli.words import thousands
    from mha_ablate.run.folder import RunFolder
    from mha_ablate.study.generate import Wish
    from mha_ablate.study.generate import generate as pieces_of

    wish = Wish(prompt, tokens, temperature, top_k, seed)
    pieces = pieces_of(RunFolder(folder), wish, weights.value)
    made: list[str] = []
    begun = time.perf_counter()
    for piece in pieces:
        if not as_json:
            shown = piece if made else prompt + piece
            print(printable(shown) if sys.stdout.isatty() else shown, end="", flush=True)
        made.append(piece)
    rate = tokens / (time.perf_counter() - begun)
    if as_json:
        about = {
            "prompt": prompt,
            "text": "".join(made),
            "tokens": tokens,
            "tokens_per_s": rate,
            "weights": weights.value,
        }
        print_json({"folder": str(folder), **about, "temperature": temperature, "top_k": top_k, "seed": seed})
        return
    print()
    if not quiet:
        note(f"{tokens} tokens, {thousands(rate)} tokens/s")
