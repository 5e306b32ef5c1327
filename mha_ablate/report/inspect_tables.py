"""What `inspect` found, in rows of words: for the terminal and for the page."""

from __future__ import annotations

from typing import Any

Row = tuple[str, ...]
Found = dict[str, Any]

EXPERIMENTS = {
    "identity": "W_O replaced by I",
    "identity_as_loud": "W_O replaced by s I, as loud",
    "no_cross_head": "W_O without its cross-head part",
    "shuffled_heads": "heads shuffled before W_O",
}
CHANGES = ("in all layers", "delta", "se", "null", "lowest to highest")
RANKS = ("rank", "delta", "se", "null", "lowest to highest")
HEADS = ("head", "zero", "mean", "resample", "se", "null")
LAYERS = ("layer", "W_O rank", "OV rank", "cross-head", "overlap", "branch/stream", "CKA", "sum error")
FOLDS = ("fold", "exact", "delta", "max |logit diff|", "why not")
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
        (row["name"], "yes", _power(row["delta"], "+"), _power(row["max_logit_difference"]), "")
        if row["exact"]
        else (row["name"], "no", "-", "-", row["why"])
        for row in found["folds"]
    ]


def left_out_lines(found: Found) -> list[str]:
    """What does not apply and why, a line each reason."""
    reasons: dict[str, list[str]] = {}
    for row in found["left_out"]:
        reasons.setdefault(row["why"], []).append(EXPERIMENTS.get(row["what"], row["what"]))
    return [f"left out, {', '.join(whats)}: {why}" for why, whats in reasons.items()]


def what_it_is(found: Found) -> str:
    """The model in a line."""
    sizes = found["sizes"]
    heads = f"{sizes['n_heads']} head{'s' if sizes['n_heads'] > 1 else ''} of {sizes['head_dim']}"
    step = f", step {found['step']}" if found["step"] is not None else ""
    return f"{found['fc_out']}, attention={found['attention']['qkv']}, d_model {sizes['d_model']}, {sizes['n_layers']} layers, {heads}{step}"


def text_line(found: Found) -> str:
    """What the losses are of."""
    text = found["text"]
    if text is None:
        return "no text: weights alone"
    return (
        f"loss {plain(found['loss'])} nats per token untouched, on {text['tokens']:,} tokens: {text['windows']} of {text['of']} "
        f"windows of the {text['split']} text"
    )


def sentence(found: Found) -> str:
    """The finding in a sentence or two."""
    parts = []
    for row in found["experiments"]:
        if row["name"] in ("identity_as_loud", "no_cross_head") and row["delta"] is not None:
            null = f", a random matrix of that size {signed(row['null']['mean'])}" if row["null"] else ""
            parts.append(f"{EXPERIMENTS[row['name']]}: {signed(row['delta'])} nats per token{null}.")
    if found["ranks"]:
        enough = [row["rank"] for row in found["ranks"] if abs(row["delta"]) <= NEAR]
        parts.append(f"Rank {enough[0]} of {found['ranks'][-1]['rank']} in every layer stays within {NEAR} nats.")
    if found["heads"]:
        free = [row for row in found["heads"] if row["mean"] is not None and row["mean"] <= NEAR]
        parts.append(f"{len(free)} of {len(found['heads'])} heads can be set to their mean, one at a time, for {NEAR} nats or less.")
    return " ".join(parts) or "Nothing here was measured on text: spectra and ranks of the weights alone."


def signed(value: float | None) -> str:
    """`+0.0123`; `-` where there is none."""
    return "-" if value is None else f"{value:+.4f}"


def plain(value: float | None, digits: int = 4) -> str:
    """`0.0123`; `-` where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def _power(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1e}"
