"""Two-level screening designs: which settings to train so that no main effect is mixed with a pair of factors.

A design is a matrix `[runs, factors]` of -1 (low) and +1 (high). It is the same at every call.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.int8]

MOST = 24  # factors
Factors = dict[str, tuple[list[str], list[str]]]


def design(k: int) -> Matrix:
    """Resolution IV with the fewest runs: 2^k up to 3 factors, then 8, 16 (5 to 8), 24 (9 to 12), 32 (13 to 16) and 64 runs.

    Up to 8 and from 13 factors it is a regular fraction (Box and Hunter 1961); that of 5 factors has resolution V. For 9 to 12
    it is a Plackett-Burman design of 11 factors, folded over (Plackett and Burman 1946; Box and Wilson 1951): pairs are
    correlated with each other by 0 or 1/3, never fully. Raises ValueError below 1 and above 24 factors.
    """
    if not 1 <= k <= MOST:
        raise ValueError(f"a screening design takes 1 to {MOST} factors, not {k}")
    if k <= 3:
        return full(k)
    import pydoe

    return _folded(k) if 9 <= k <= 12 else _plain(pydoe.fracfact_by_res(k, 5 if k == 5 else 4))


def full(k: int) -> Matrix:
    """All 2^k combinations of k factors, the first factor changing fastest. Raises ValueError below 1."""
    import numpy as np

    if k < 1:
        raise ValueError(f"a factorial design takes 1 factor or more, not {k}")
    return (2 * ((np.arange(1 << k)[:, None] >> np.arange(k)) & 1) - 1).astype(np.int8)


def points_of(factors: Factors) -> dict[str, list[str]]:
    """Overrides of each point of the `design`, by name (p01, p02, ...): for each factor its low words at -1, its high ones at +1.

    `factors` has `(low words, high words)` by name.
    """
    return {
        point: [word for name, level in row.items() for word in factors[name][level > 0]]
        for point, row in levels_of(list(factors)).items()
    }


def levels_of(names: list[str]) -> dict[str, dict[str, int]]:
    """Level of each factor, -1 or +1, at each point of the `design`, by the names that `points_of` gives."""
    rows = design(len(names)).tolist()
    return {f"p{i:02d}": dict(zip(names, row, strict=True)) for i, row in enumerate(rows, 1)}


def _folded(k: int) -> Matrix:
    """24 runs: Plackett-Burman's 12 and their mirror image, and a column that tells the halves apart."""
    import numpy as np
    import pydoe

    halves = np.repeat([1, -1], 12)
    return _plain(np.column_stack([pydoe.fold(pydoe.pbdesign(11)), halves]))[:, :k]


def _plain(matrix: NDArray[np.float64]) -> Matrix:
    import numpy as np

    return np.rint(matrix).astype(np.int8)
