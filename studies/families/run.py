"""What of the networks that people use can be pruned, is it right, and how long does it take to find out?"""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from studies.command import command
from studies.families import measure as one
from studies.families.networks import NETWORKS, QUICK

if TYPE_CHECKING:
    from studies.rows import Row, Rows

FILE = Path(__file__).parent / "results.csv"
COLUMNS = [
    "network",
    "parameters",
    "groups",
    "attentions",
    "heads_go",
    "removable",
    "rest_removable",
    "macs_removable",
    "traced",
    "export_s",
    "space_s",
    "precision",
    "largest_error",
    "batch",
    "training",
    "saved",
    "exported",
    "memory_mb",
    "reason",
    "verdict",
]
PACKAGES = {"segmentation_models": "segmentation_models_pytorch"}


def measured(name: str) -> Row:
    """Measure a network in a process of its own."""
    command = [sys.executable, "-m", "studies.families.measure", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == -signal.SIGXCPU:
        return {"network": name, "verdict": f"no result in {one.SECONDS} s of processor time"}
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"ended by signal {-done.returncode}"]
        return {"network": name, "verdict": f"failed: {last[0][:200]}"}
    row: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def measure(rows: Rows, quick: bool) -> None:
    """Measure the networks that are missing, of the packages that are installed."""
    for name in tqdm(QUICK if quick else NETWORKS, desc="networks"):
        package = name.partition("/")[0]
        if (name,) not in rows and importlib.util.find_spec(PACKAGES.get(package, package)):
            rows.keep(one.measured(name, candidates=2) if quick else measured(name))


def cell(value: Any, digits: int = 3) -> str:
    """Return a value as text."""
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def tables(rows: Rows) -> list[str]:
    """Return a table of all networks, and what it says in short."""
    lines = [
        "| network | M parameters | groups | heads | removable | of the rest | MACs | traced | error | seconds / export"
        " | works | largest reason, share of parameters |",
        "| --- |" + " --- |" * 11,
    ]
    built = [row for row in rows if row["groups"] != ""]
    for row in rows:
        if row["groups"] == "":
            lines.append(f"| {row['network']} | |" + " |" * 9 + f" {row['verdict'].splitlines()[0]} |")
            continue
        works = [name for name in ("batch", "training", "saved", "exported") if row[name] != "ok"]
        bad = "; ".join(f"{name}: {row[name]}" for name in works)
        attention = f"{row['heads_go']} of {row['attentions']}" if row["attentions"] else ""
        lines.append(
            f"| {row['network']} | {row['parameters'] / 1e6:.2f} | {row['groups']} | {attention} "
            f"| {row['removable']:.3f} | {cell(row['rest_removable'])} | {row['macs_removable']:.3f} "
            f"| {row['traced'] or ''} | {row['largest_error']:.0e}{' (float32)' * (row['precision'] == 'float32')} "
            f"| {row['space_s']:.1f} / {row['export_s']:.1f} | {bad or 'all'} | {row['reason']} |"
        )
    return [*lines, "", *summary(built, len(list(rows)))]


def summary(built: list[Row], tried: int) -> list[str]:
    """Return what the rows say in short."""
    if not built:
        return []
    ratios = np.array([row["space_s"] / max(row["export_s"], 0.01) for row in built])
    rests = [row["rest_removable"] for row in built if row["rest_removable"] != ""]
    with_heads = [row for row in built if row["attentions"]]
    whole = [row for row in with_heads if row["heads_go"] == row["attentions"]]
    return [
        f"- {len(built)} of {tried} networks have a space, {sum(r['verdict'] == 'wrong' for r in built)} are wrong.",
        f"- Of the parameters outside of embeddings and outputs 0.9 or more can go in "
        f"{sum(rest >= 0.9 for rest in rests)} of {len(rests)}; of all parameters less than 0.5 in "
        f"{sum(row['removable'] < 0.5 for row in built)}.",
        f"- Attention: in {len(whole)} of {len(with_heads)} networks with several heads all of them lose heads, in "
        f"{sum(row['heads_go'] > 0 for row in with_heads)} some.",
        f"- Seconds to build a space against a bare `torch.export`: {np.median(ratios):.1f} in the median, "
        f"{ratios.max():.1f} at most ({built[int(ratios.argmax())]['network']}).",
    ]


if __name__ == "__main__":
    command(measure, tables, columns=COLUMNS, keys=1, file=FILE, quick="two small networks")
