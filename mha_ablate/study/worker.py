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
from typing import Any


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
    from mha_ablate.study.cell import Cell, run_cell
    from mha_ablate.study.timing import measure_steps

    def tell_turn(done: int, total: int) -> None:
        tell({"kind": "turn", "done": done, "total": total})

    tell({"kind": "ready"})
    while True:
        request = requests.get()
        try:
            if request["kind"] == "cell":
                run = run_cell(Cell.from_json(request["cell"]), lambda line: tell({"kind": "line", "line": line}))
                tell(
                    {
                        "kind": "done",
                        "state": run["state"],
                        "error": run["error"],
                        "val_loss": run["result"]["val_loss"],
                    }
                )
            else:
                configs = {arm: from_plain(plain) for arm, plain in request["configs"].items()}
                tell({"kind": "times", "times": measure_steps(configs, tell_turn, request["text"])})
        except Exception as error:
            tell({"kind": "done", "state": "failed", "error": f"{type(error).__name__}: {error}"})


def _listen(requests: queue.Queue[dict[str, Any]]) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


if __name__ == "__main__":
    main()
