"""Formulas of sizes: the costs in a variant's docstring, and where weights start. Nothing in them is run as code."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping

KEYS = ("Parameters", "Frozen", "FLOPs", "Elementwise")
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: lambda a, b: float(a) ** b,  # of whole numbers it could take all memory
}
FUNCTIONS: dict[str, Callable[[float], float]] = {"log2": math.log2, "sqrt": math.sqrt}


def formulas(docstring: str) -> dict[str, dict[str, str]]:
    """The formulas of a docstring by setting: `{"": {"Parameters": "H D^2", ...}, "per=head": {...}}`.

    A line `Parameters: ...` is for the settings that the YAML gives, a line `Parameters [per=head]: ...` for another one.
    What has no line of its own there is as in the YAML, and what has none at all is 0.
    """
    found: dict[str, dict[str, str]] = {"": {}}
    for key, setting, text in re.findall(
        rf"^ *({'|'.join(KEYS)})(?: \[(.+?)\])?: (.+)$", docstring, flags=re.MULTILINE
    ):
        found.setdefault(setting, {})[key] = text.strip()
    return {setting: dict.fromkeys(KEYS, "0") | found[""] | own for setting, own in found.items()}


def value_of(formula: str, sizes: Mapping[str, float]) -> float:
    """`2 d (H + D)` with the sizes given: words side by side multiply, `^` is a power, `log2` and `sqrt` are the functions.

    Raises ValueError for what is no such formula and for a name without a size.
    """
    tokens = re.findall(r"\d+\.?\d*(?:e-?\d+)?|[A-Za-z]\w*|[-+*/^()]|\S", formula)
    pieces: list[str] = []
    for token in tokens:
        if pieces and re.match(r"[\w(]", token) and re.match(r"[\w)]", pieces[-1]) and pieces[-1] not in FUNCTIONS:
            pieces.append("*")
        pieces.append("**" if token == "^" else token)
    try:
        return _value(ast.parse(" ".join(pieces), mode="eval").body, sizes)
    except (SyntaxError, KeyError, ArithmeticError, ValueError, RecursionError) as error:
        raise ValueError(f"'{formula}' is no formula of {', '.join(sizes)}") from error


def _value(node: ast.expr, sizes: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int(number) | float(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, sizes)
        case ast.BinOp(left=left, op=op, right=right):
            return OPERATORS[type(op)](_value(left, sizes), _value(right, sizes))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]):
            return FUNCTIONS[name](_value(argument, sizes))
    raise KeyError(type(node).__name__)
