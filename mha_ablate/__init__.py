"""mha_ablate: what is `fc_out`, the output projection of multi-head attention, worth, and what does it cost?

In Python: `from mha_ablate import compare, train, load_runs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mha_ablate.notebook import Comparison, Run, compare, load_runs, train

__version__ = "0.1.0"
__all__ = ["Comparison", "Run", "__version__", "compare", "load_runs", "train"]


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is asked for: the command line starts without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mha_ablate import notebook

    return getattr(notebook, name)
