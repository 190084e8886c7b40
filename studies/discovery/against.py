"""How long does it take to build a search space, against another version of the package?"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from studies.discovery.run import FAMILIES
from studies.rows import Rows, markdown

HERE = Path(__file__).parent
COLUMNS = ["model", "groups", "removable", "before_s", "now_s", "now/before", "before_comparisons", "now_comparisons"]
NETWORKS = (*FAMILIES, "split_by_number_24")
REPEATS = 3


class Worker:
    """A process that builds spaces with the package of one checkout."""

    def __init__(self, checkout: str) -> None:
        environment = {**os.environ, "PYTHONPATH": checkout, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "worker.py")]
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __call__(self, name: str, side: int = 224) -> dict[str, Any]:
        """Return what a space took."""
        given, made = self._process.stdin, self._process.stdout
        assert given is not None
        assert made is not None
        print(json.dumps([name, side]), file=given, flush=True)
        found: dict[str, Any] = json.loads(made.readline())
        return found


def main(before: str) -> None:
    """Measure what is missing, the two versions in turn."""
    rows = Rows(COLUMNS, 1, HERE / "against.csv")
    missing = [name for name in NETWORKS if (name,) not in rows]
    workers = [Worker(before), Worker(str(HERE.parents[1]))] if missing else []
    for worker in workers:
        worker("resnet18", 64)  # what is only done once
    for name in missing:
        side = 32 if name.startswith("split") else 224
        found = [[worker(name, side) for worker in workers] for _ in range(REPEATS)]
        old, now = (statistics.median(each["cpu_s"] for each in side) for side in zip(*found, strict=True))
        first, last = found[0]
        rows.keep(
            {
                "model": name,
                "groups": last["groups"],
                "removable": round(last["removable"], 4),
                "before_s": round(old, 2),
                "now_s": round(now, 2),
                "now/before": round(now / old, 2),
                "before_comparisons": first["comparisons"],
                "now_comparisons": last["comparisons"],
            }
        )
    print("\n".join(markdown(rows)))


if __name__ == "__main__":
    main(sys.argv[1])
