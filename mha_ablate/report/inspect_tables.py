"""What `inspect` found, in rows of words: for the terminal and for the page."""

from __future__ import annotations

from typing import Any

Row = tuple[str, ...]
Found = dict[str, Any]

EXPERIMENTS = {
    "identity": "I in the place of W_O",
    "identity_as_loud": "s I, as loud as W_O",
    "no_cross_head": "W_O without its cross-head part",
    "shuffled_heads": "heads shuffled before W_O",
}
CHANGES = ("in all layers", "delta", "se", "null", "lowest to highest")
RANKS = ("rank", "delta", "se", "null", "lowest to highest")
HEADS = ("head", "zero", "mean", "resample", "se", "null")
LAYERS = ("layer", "W_O rank", "OV rank", "cross-head", "overlap", "loudness", "CKA", "sum error")
FOLDS = ("fold", "what comes of it")
NEAR = 0.01  # nats: a rank that costs less is said to be enough


def change_rows(found: Found) -> list[Row]:
    """One row a change of all layers, then those after fine-tuning."""
    rows = [(EXPERIMENTS[row["name"]], *_costs(row)) for row in found["experiments"]]
    tuned = found["finetune"]
    for name, delta in (tuned["delta"] if tuned else {}).items():
        words = f"{EXPERIMENTS[name]}, then {tuned['steps']} steps"
        rows.append((words, signed(delta), "-", "-", "-"))
    return rows


def rank_rows(found: Found) -> list[Row]:
    """One row a rank that W_O is cut to in every layer."""
    return [(f"{row['rank']} of {found['ranks'][-1]['rank']}", *_costs(row)) for row in found["ranks"]]


def _costs(row: dict[str, Any]) -> Row:
    null, drawn = row["null"], row.get("spread") or row["null"]
    ends = f"{signed(drawn['low'])} to {signed(drawn['high'])}" if drawn else "-"
    return signed(row["delta"]), plain(row["se"]), signed(null["mean"]) if null else "-", ends


def head_rows(found: Found, most: int | None = None) -> list[Row]:
    """One row a head: all in order, or the `most` that cost most by mean ablation."""
    heads = found["heads"]
    if most is not None and len(heads) > most:
        heads = sorted(heads, key=lambda row: -(row["mean"] or 0.0))[:most]
    return [
        (
            f"{row['layer']}.{row['head']}",
            *(signed(row[key]) for key in ("zero", "mean", "resample")),
            plain(row["se"]["mean"]),
            signed(row["null"]["mean"]) if row["null"] else "-",
        )
        for row in heads
    ]


def layer_rows(found: Found) -> list[Row]:
    """One row a layer: ranks are stable / effective, a head's the mean over heads; in brackets what chance would give."""
    return [
        (
            str(row["layer"]),
            _ranks([row["w_o"]] if row["w_o"] else []),
            _ranks(row.get("ov", [])),
            _with_chance(row.get("cross_head_energy"), row.get("cross_head_energy_at_start")),
            _with_chance(row.get("overlap"), row.get("overlap_by_chance")),
            plain(row.get("branch_to_stream"), 3),
            plain(row.get("cka_mean"), 2),
            _power(row.get("sum_of_heads_error")),
        )
        for row in found["layers"]
    ]


def _ranks(spectra: list[dict[str, Any]]) -> str:
    if not spectra:
        return "-"
    stable, effective = (sum(s[f"{kind}_rank"] for s in spectra) / len(spectra) for kind in ("stable", "effective"))
    return f"{stable:.1f} / {effective:.1f}"


def _with_chance(value: float | None, chance: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ({plain(chance, 2)})"


def fold_rows(found: Found) -> list[Row]:
    """One row a fold."""
    return [
        (
            row["name"],
            f"exact: delta {_power(row['delta'], '+')} nats, max |logit difference| {_power(row['max_logit_difference'])}"
            if row["exact"]
            else f"not exact: {row['why']}",
        )
        for row in found["folds"]
    ]


def left_out_lines(found: Found) -> list[str]:
    """What does not apply and why, a line each reason."""
    reasons: dict[str, list[str]] = {}
    for row in found["left_out"]:
        reasons.setdefault(row["why"], []).append(_called(row["what"]))
    return [f"left out, {', '.join(whats)}: {why}" for why, whats in reasons.items()]


def _called(what: str) -> str:
    return EXPERIMENTS.get(what, what)


def what_it_is(found: Found) -> str:
    """The model in a line."""
    sizes = found["sizes"]
    heads = f"{sizes['n_heads']} head{'s' if sizes['n_heads'] > 1 else ''} of {sizes['head_dim']}"
    step = f", step {found['step']}" if found["step"] is not None else ""
    layers = f"{sizes['n_layers']} layer{'s' if sizes['n_layers'] > 1 else ''}"
    how = f"attention={found['attention']['qkv']}, d_model {sizes['d_model']}"
    return f"{found['fc_out']}, {how}, {layers}, {heads}{step}"


def text_line(found: Found) -> str:
    """What the losses are of."""
    text = found["text"]
    if text is None:
        return "No text: weights alone"
    return (
        f"Loss {plain(found['loss'])} nats per token untouched, on {text['tokens']:,} tokens: {text['windows']} of {text['of']} "
        f"windows of the {text['split']} text"
    )


def sentence(found: Found) -> str:
    """The finding in a sentence or three."""
    costs = {row["name"]: row for row in found["experiments"] if row["delta"] is not None}
    parts = []
    if row := costs.get("identity_as_loud"):
        parts.append(f"An identity as loud as W_O in its place costs {_against_null(row)}.")
    if row := costs.get("no_cross_head"):
        parts.append(f"W_O without its cross-head part costs {_against_null(row)}.")
    if found["ranks"]:
        full = found["ranks"][-1]["rank"]
        enough = next(row["rank"] for row in found["ranks"] if abs(row["delta"]) <= NEAR or row["rank"] == full)
        parts.append(f"Cut to rank {enough} of {full} in every layer, it costs {NEAR} nats or less.")
    if found["heads"]:
        free = [row for row in found["heads"] if row["mean"] is not None and row["mean"] <= NEAR]
        parts.append(
            f"{len(free)} of {len(found['heads'])} heads can be set to their mean, one at a time, for {NEAR} nats or less."
        )
    return " ".join(parts) or "Nothing here was measured on text: spectra and ranks of the weights alone."


def _against_null(row: dict[str, Any]) -> str:
    null = f" (a random change of that size: {signed(row['null']['mean'])})" if row["null"] else ""
    return f"{signed(row['delta'])} nats per token{null}"


def signed(value: float | None) -> str:
    """`+0.0123`, and 0.0000 without a sign; `-` where there is none."""
    return "-" if value is None else f"{value:+.4f}" if abs(value) >= 0.00005 else "0.0000"


def plain(value: float | None, digits: int = 4) -> str:
    """`0.0123`; `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _power(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1e}"
