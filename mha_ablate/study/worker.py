"""A worker process: takes cells from its standard input, one JSON line each, and tells on its standard output.

It lives as long as the study, so that imports and the text are paid for once. When its input closes, its parent is
gone and it leaves at once.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mha_ablate.study.cell import Cell

Tell = Callable[[dict[str, Any]], None]

# Somebody else wrote into the folder while it was trained.
LOST = {"state": "failed", "error": "its run.json is not what was written at the end"}


def main() -> None:
    """Serve requests until the input closes."""
    # The protocol keeps the real standard output; whatever prints below goes to standard error.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)
    requests: queue.Queue[dict[str, Any]] = queue.Queue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()

    def tell(message: dict[str, Any]) -> None:
        out.write(json.dumps(message) + "\n")

    from mha_ablate.config.compose import from_plain
    from mha_ablate.data.cache import share_spare
    from mha_ablate.errors import in_a_line
    from mha_ablate.study.cell import Cell
    from mha_ablate.study.timing import measure_steps

    def tell_turn(done: int, total: int) -> None:
        tell({"kind": "turn", "done": done, "total": total})

    tell({"kind": "ready"})
    while True:
        request = requests.get()
        share_spare(Path(request["spare"]) if request["spare"] else None)
        if request["kind"] == "cells":
            _run_cells([Cell.from_json(plain) for plain in request["cells"]], tell)
            continue
        try:
            configs = {arm: from_plain(plain) for arm, plain in request["configs"].items()}
            tell({"kind": "times", "times": measure_steps(configs, tell_turn, request["text"])})
        except Exception as error:
            tell({"kind": "untimed", "error": in_a_line(error)})


def _run_cells(cells: list[Cell], tell: Tell) -> None:
    """Run cells side by side and tell how each ended. What goes wrong fails those that were not finished by then."""
    from mha_ablate.errors import in_a_line
    from mha_ablate.study.cell import run_cells

    def about(cell: Cell) -> dict[str, Any]:
        return {"arm": cell.arm, "seed": cell.seed}

    failure = None
    try:
        run_cells(cells, lambda cell, line: tell({"kind": "line", **about(cell), "line": line}))
    except Exception as error:
        failure = {"state": "failed", "error": in_a_line(error)}
    for cell in cells:
        if not (run := cell.finished()):
            tell({"kind": "done", **about(cell), **(failure or LOST)})
        else:
            found = {"state": run["state"], "error": run["error"], "val_loss": run["result"]["val_loss"]}
            tell({"kind": "done", **about(cell), **found})


def _listen(requests: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
