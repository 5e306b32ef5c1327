"""inspect.html: what was found in one checkpoint, in one file that opens offline."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mha_ablate.errors import RequestError
from mha_ablate.report.inspect_plots import figures, page_panels
from mha_ablate.report.inspect_tables import (
    CHANGES,
    FOLDS,
    HEADS,
    LAYERS,
    RANKS,
    change_rows,
    fold_rows,
    head_rows,
    layer_rows,
    left_out_lines,
    rank_rows,
    sentence,
    text_line,
    what_it_is,
)
from mha_ablate.report.page import document, folded, notes, shown, table
from mha_ablate.report.plots import PANEL, as_png, as_svg
from mha_ablate.run.folder import RunFolder, write_atomic, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Found = dict[str, Any]
CAPTIONS = {
    "ranks": "All layers cut at once. Dashed: a random matrix of the norm of what was cut, added to W_O; band: its draws.",
    "heads": "By zeros, by the head's mean over the text, by its outputs in another window. Grey: random matrices of the norm of "
    "the head's columns.",
    "w_o": "Few directions carry most of it where the line falls steeply.",
    "ov": "A line a head: W_O,h W_V,h, which no choice of basis inside a head changes.",
    "cross_head_energy": "The share of W_O that maps a head to another head's slice of the stream.",
}
HOW = """<h2>How to read this</h2>
<dl>
<dt>delta, se</dt><dd>Loss of the changed model minus that of the untouched one on the same windows, in nats per token:
positive means that the change costs. se: its standard error over windows of text. It says nothing about other seeds.</dd>
<dt>null</dt><dd>W_O plus a random matrix of the Frobenius norm of the change, in several draws. A change that costs more than its
null hits something that training has put there; one that costs as much is no more than noise of its size.</dd>
<dt>zero, mean, resample</dt><dd>A head's outputs replaced by zeros, by their mean over the text, by those of another window at
the same position. Zeros take the head's mean away too, and so overstate it.</dd>
<dt>I, s I</dt><dd>I is usually far louder than a trained W_O, and loudness alone costs; s I has W_O's Frobenius norm. The
other weights were trained with W_O in place: what this costs is not what training without W_O costs.</dd>
<dt>ranks</dt><dd>Stable |W|<sub>F</sub>² / |W|<sub>2</sub>², and effective, the exponential of the entropy of the singular values,
as shares of their sum. Of OV: the mean over heads.</dd>
<dt>cross-head, overlap</dt><dd>The share of |W_O|² outside its H diagonal blocks; what the spaces that heads write to have in
common. In brackets: of random matrices.</dd>
<dt>loudness, CKA, sum error</dt><dd>How loud what attention adds is against the stream that it is added to; how alike heads are in
what they add (linear CKA, the mean over pairs); how far the sum of the heads' parts is from the output, relative to its
largest entry.</dd>
<dt>folds</dt><dd>The same function with its weights elsewhere; differences are rounding in fp32.</dd>
</dl>
"""


def write_inspection(folder: RunFolder, found: Found, command: str) -> Path:
    """Write RUN/inspect: inspect.html, inspect.json, figures; returns the page. Raises RequestError where a link stands there."""
    place = check_place(folder)
    place.mkdir(exist_ok=True)
    made = figures(found)
    write_json(place / "inspect.json", found)
    for name, figure in made.items():
        write_atomic(place / f"{name}.svg", as_svg(figure))
        write_atomic(place / f"{name}.png", as_png(figure))
    write_atomic(place / "inspect.html", page(found, page_panels(found), command))
    return place / "inspect.html"


def check_place(folder: RunFolder) -> Path:
    """RUN/inspect. Raises RequestError where it cannot be a folder, or nothing can be written there."""
    place = folder.inspect_dir
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        raise RequestError(f"{place} is a link or a file, and what is found is written to a folder there: remove it")
    if folder.path.is_dir() and not os.access(place if place.exists() else folder.path, os.W_OK):
        raise RequestError(f"{place} cannot be written to: copy the run to a folder of your own, and inspect it there")
    return place


def page(found: Found, made: dict[str, Figure], command: str) -> str:
    """The page as HTML. Every text is escaped."""
    drawn = "".join(
        shown(as_svg(figure), CAPTIONS[name], label=CAPTIONS[name], wide=figure.get_figwidth() > PANEL)
        for name, figure in made.items()
    )
    return document(
        name_of(found),
        f"""<p class="quiet">{escape(what_it_is(found))}</p>
<p class="answer">{escape(sentence(found))}</p>
<p class="quiet">{escape(text_line(found))}. One trained model: another seed may differ.</p>
{notes(left_out_lines(found))}
<div class="figures">{drawn}</div>
{_section("Changes of all layers", CHANGES, change_rows(found), _finetuning(found))}
{_section("Rank of W_O", RANKS, rank_rows(found))}
{_heads(found)}
{_section("Layers", LAYERS, layer_rows(found))}
{_folds(found)}
<h2>Where this comes from</h2>
<p>Made by <code>{escape(command)}</code>.</p>
{HOW}""",
        heading="Inside one model:",
    )


def name_of(found: Found) -> str:
    """What the model is called: the arm and the seed's folder, or a folder."""
    place = Path(found["folder"])
    return f"{found['arm']}/{place.name}" if found["arm"] else place.name


def _section(title: str, head: tuple[str, ...], rows: list[tuple[str, ...]], after: str = "") -> str:
    if not rows:
        return ""
    return f'<h2>{escape(title)}</h2>\n<div class="scroll">{table(head, rows)}</div>{after}'


def _finetuning(found: Found) -> str:
    tuned = found["finetune"]
    if not tuned:
        return ""
    return (
        f'<p class="quiet">After {tuned["steps"]} more steps at rate {tuned["rate"]:g}, against the untouched model after as '
        f"many: loss {tuned['loss']['untouched']:.4f}.</p>"
    )


def _heads(found: Found) -> str:
    rows = head_rows(found)
    if not rows:
        return ""
    about = '<p class="quiet">LAYER.HEAD, one at a time; se is that of the mean ablation.</p>'
    return f"<h2>Heads</h2>{about}{folded(HEADS, rows, 'heads')}"


def _folds(found: Found) -> str:
    rows = fold_rows(found)
    return f'<h2>Folds</h2><div class="scroll">{table(FOLDS, rows, reason=True)}</div>' if rows else ""
