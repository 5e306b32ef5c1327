"""Where the entries of a tensor start, as a rule in a configuration: `uniform(bound=1 / sqrt(n_in))`.

    normal(std=S)      N(0, S^2)
    uniform(bound=B)   U(-B, B), of standard deviation B / sqrt(3)
    truncated(scale=S) N(0, S^2) cut at +-2 S, of standard deviation 0.8796 S
    zeros()

Each takes `std=` too, and `gain=`, which is std sqrt(n_in): how much louder than its input what the map gives is, for random
input. What is given is a formula of sizes (`mha_ablate.formula`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mha_ablate.formula import value_of

CUT = 2.0  # scales at which a truncated normal is cut
# Its standard deviation over its scale: sqrt(1 - 2 c phi(c) / (2 Phi(c) - 1)).
CUT_STD = math.sqrt(1 - 2 * CUT * math.exp(-(CUT**2) / 2) / math.sqrt(2 * math.pi) / math.erf(CUT / math.sqrt(2)))
KINDS = {"normal": {"std": 1.0}, "uniform": {"bound": 1 / math.sqrt(3)}, "truncated": {"scale": CUT_STD}, "zeros": {}}
# d_model, n_heads, head_dim, H D, n_layers, d_ff, what scores are divided by
SIZES = ("C", "H", "D", "K", "L", "F", "S")
FANS = ("n_in", "n_out")
LAYER = "l"  # the layer, from 1

# GPT-2's (Radford et al. 2019), as configs/init/gpt2.yaml has them: what a model starts with that is told nothing else.
GPT2 = {
    **dict.fromkeys(("query", "key", "value", "up", "embedding", "positions", "output"), "normal(std=0.02)"),
    **dict.fromkeys(("out", "down"), "normal(std=0.02 / sqrt(2 L))"),
    **dict.fromkeys(("attention_bias", "out_bias", "mlp_bias", "output_bias"), "zeros()"),
}


@dataclass(frozen=True)
class Rule:
    """A kind of distribution and the formula of its standard deviation: std = factor * value(formula) (/ sqrt(n_in))."""

    kind: str
    formula: str = "0"
    factor: float = 1.0
    of_gain: bool = False

    def std(self, sizes: Mapping[str, float]) -> float:
        """The standard deviation at these sizes. Raises ValueError where the formula has none, or no number from 0 on."""
        value = value_of(self.formula, sizes)
        if not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise ValueError(f"'{self.formula}' is {value}, no finite number from 0 on")
        return self.factor * value / (math.sqrt(sizes["n_in"]) if self.of_gain else 1.0)


def parsed_rule(text: str) -> Rule:
    """The rule that a text holds. Raises ValueError for one that cannot be read."""
    found = re.fullmatch(r"\s*(\w+)\(\s*(?:(\w+)\s*=\s*(.+?))?\s*\)\s*", text)
    kind, key, formula = found.groups() if found else (None, None, None)
    own = KINDS.get(str(kind))
    if own is None or (key is None) != (kind == "zeros") or (key and key not in (*own, "std", "gain")):
        raise ValueError(
            f"'{text}' is none of normal(std=...), uniform(bound=...), truncated(scale=...), zeros(); each but the last takes "
            "std= or gain= as well"
        )
    if key is None:
        return Rule("zeros")
    assert formula is not None
    return Rule(str(kind), formula, own.get(key, 1.0), key == "gain")


def divisor_of(divide_by: str, *, head_dim: float, d_model: float) -> float:
    """What scores are divided by under an `attention.divide_by`. Raises KeyError for one that is unknown."""
    return {"sqrt_head_dim": math.sqrt(head_dim), "sqrt_d_model": math.sqrt(d_model), "one": 1.0}[divide_by]


def gain_of_out(rules: Mapping[str, str], model: Mapping[str, float], *, divide_by: str) -> float:
    """The gain of a dense W_O, rms(y) / rms(z), at the start of the first block: std sqrt(K). Of blocks with a skip.

    `model` has d_model, n_heads, head_dim, n_layers and d_ff. Raises ValueError where the rule has no value, KeyError where
    a size is missing.
    """
    C, H, D, F = (model[key] for key in ("d_model", "n_heads", "head_dim", "d_ff"))
    S = divisor_of(divide_by, head_dim=D, d_model=C)
    sizes = {"C": C, "H": H, "D": D, "K": H * D, "L": model["n_layers"], "F": F, "S": S}
    return parsed_rule(rules["out"]).std({**sizes, "n_in": H * D, "n_out": C, LAYER: 1}) * math.sqrt(H * D)


def check_rule(text: str, *, layered: bool) -> None:
    """Raise ValueError unless the text is a rule whose formula has a value at some sizes; `layered`: it may name the layer."""
    names = (*SIZES, *FANS, *((LAYER,) if layered else ()))
    parsed_rule(text).std(dict.fromkeys(names, 4.0))
