"""The figures that are written as files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mha_ablate.report.plots import (
    CURVES_HEIGHT,
    change_panel,
    drawn,
    forest_height,
    forest_panel,
    loss_panel,
    waterfall_panel,
)
from mha_ablate.report.trade import priced_keys
from mha_ablate.report.trade_plots import trade_panel
from mha_ablate.study.collect import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figures(report: dict[str, Any], study: Study) -> dict[str, Figure]:
    """Figures by file name; a study without costs has no `trade`, one without a chain of arms no `waterfall`."""
    forest, change, loss = forest_panel(report), change_panel(report, study), loss_panel(report, study)
    made = {
        "answer": drawn([forest, change], forest_height(report)),
        "curves": drawn([loss, change], CURVES_HEIGHT, share=True),
    }
    if prices := priced_keys(report):
        made["trade"] = drawn([trade_panel(report, key) for key in prices], 3.6)
    if report["waterfall"]:
        made["waterfall"] = drawn([waterfall_panel(report)], 3.6)
    return made
