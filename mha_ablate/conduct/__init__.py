"""A whole study, sweep, plan or run from words to result, as the command line and notebooks both have it."""

from mha_ablate.conduct.ahead import Ahead, conduct_plan
from mha_ablate.conduct.single import conduct_cost, conduct_replay, conduct_run
from mha_ablate.conduct.study import Conducted, conduct
from mha_ablate.conduct.sweep import Swept, conduct_sweep

__all__ = [
    "Ahead",
    "Conducted",
    "Swept",
    "conduct",
    "conduct_cost",
    "conduct_plan",
    "conduct_replay",
    "conduct_run",
    "conduct_sweep",
]
