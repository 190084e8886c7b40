"""The study's tables: what is kept, and what is printed of it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import ttest_rel

from studies.mnist_autoencoder.methods import MORE_SEARCHES, REFITTED, SEARCHES
from studies.rows import Row, Rows
from studies.searching import HEURISTICS

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

TRAININGS = {"fully connected": 5, "convolutional": 3, "fully convolutional": 3}

CASE = ["network", "seed", "target", "method"]
VALUES = ["psnr_validation", "psnr", "ssim", "sparsity", "sparsity_encoder", "sparsity_decoder", "parameters"]
RESULTS = [*CASE, "order", "chosen", *VALUES, "calls", "seconds"]
CONVERGENCE = [*CASE, "call", "psnr_validation"]
COEFFICIENTS = [*CASE, "group", "units", "removed"]
BEST_HEURISTIC = "the best heuristic, best order"
BEST_REFITTED = "the best heuristic, refitted"
OWN_ORDER = (*(f"{name}, best order" for name in HEURISTICS), BEST_HEURISTIC)


@dataclass(frozen=True, slots=True)
class Tables:
    """What the study keeps: networks with their values, best values by call, and the coefficients of networks."""

    results: Rows
    convergence: Rows
    coefficients: Rows


def tables_in(folder: Path) -> Tables:
    """Return what a folder has of the study."""
    return Tables(
        results=Rows(RESULTS, 5, folder / "results.csv"),
        convergence=Rows(CONVERGENCE, 5, folder / "convergence.csv"),
        coefficients=Rows(COEFFICIENTS, 5, folder / "coefficients.csv"),
    )


def interval(differences: list[float], digits: int = 2) -> str:
    """Return the mean of paired differences with its 95 % interval (Student's t)."""
    if len(set(differences)) < 2:
        return "".join(f"{each:+.{digits}f}" for each in differences[:1])
    mean = float(np.mean(differences))
    low, high = ttest_rel(differences, [0.0] * len(differences)).confidence_interval()
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def own_best(tables: Tables, **case: object) -> list[Row]:
    """Return each heuristic of a case with the order of units that is best for it on the validation images."""
    best = []
    for method in HEURISTICS:
        found = tables.results.where(**case, method=method)
        if found:
            best.append(max(found, key=lambda row: row["psnr_validation"]))
    return best


def rows_of(tables: Tables, method: str, network: str, target: float) -> list[Row]:
    """Return a method's rows, one for each training: with the search's order of units, or a heuristic's own best."""
    if method == BEST_REFITTED:
        found = [row for name in HEURISTICS for row in rows_of(tables, f"{name}, refitted", network, target)]
        by_seed = itertools.groupby(sorted(found, key=lambda row: row["seed"]), key=lambda row: row["seed"])
        return [max(rows, key=lambda row: float(row["psnr_validation"])) for _, rows in by_seed]
    if method not in OWN_ORDER:
        return tables.results.where(network=network, target=target, method=method, chosen=1)
    rows = []
    for seed in range(TRAININGS[network]):
        found = own_best(tables, network=network, target=target, seed=seed)
        wanted = [row for row in found if method in (BEST_HEURISTIC, f"{row['method']}, best order")]
        rows += sorted(wanted, key=lambda row: float(row["psnr_validation"]))[-1:]
    return rows


def summary(tables: Tables) -> list[str]:
    """Return the tables of test PSNR and SSIM in Markdown: means over the trainings, and gains with their intervals."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in tables.results):
        targets = sorted({row["target"] for row in tables.results.where(network=network)} - {0.0})
        whole = tables.results.where(network=network, method="dense")
        head = [f"| {{}} | {' | '.join(f'{target:.0%}' for target in targets)} |", "| --- |" + " --- |" * len(targets)]
        mean = {value: float(np.mean([row[value] for row in whole])) for value in ("psnr", "ssim", "parameters")}
        lines += [
            f"{network.capitalize()}: {mean['parameters']:,.0f} parameters, {len(whole)} trainings; dense "
            f"{mean['psnr']:.2f} dB, SSIM {mean['ssim']:.3f}.",
            "",
            head[0].format("PSNR in dB / SSIM, test images"),
            head[1],
        ]
        refitted = [*(f"{name}, refitted" for name in HEURISTICS), REFITTED]
        for method in ("random, mean", *HEURISTICS, *OWN_ORDER[:-1], *SEARCHES, *MORE_SEARCHES, *refitted):
            found = [rows_of(tables, method, network, target) for target in targets]
            if any(found):
                lines.append(f"| {method} | {' | '.join(value(rows) for rows in found)} |")
        over = {
            "finite differences": ("uniform", BEST_HEURISTIC, "random", "TPE", "SLSQP", "exhaustive grid"),
            REFITTED: ("dense", "finite differences", BEST_REFITTED),
        }
        for method, others in over.items():
            if tables.results.where(network=network, method=method):
                lines += ["", head[0].format(f"{method} gain, dB, over"), head[1]]
                lines += gains(tables, network, targets, method, others)
        lines += ["", *smallest(tables, network)]
    return lines


def gains(tables: Tables, network: str, targets: list[float], method: str, others: Iterable[str]) -> list[str]:
    """Return the lines of a table: by how much a method's PSNR is above that of others, over trainings in pairs."""
    lines = []
    for other in others:
        cells = []
        for target in targets:
            ours = {row["seed"]: row["psnr"] for row in rows_of(tables, method, network, target)}
            dense = tables.results.where(network=network, method=other) if other == "dense" else []
            theirs = dense or rows_of(tables, other, network, target)
            cells.append(interval([ours[row["seed"]] - row["psnr"] for row in theirs if row["seed"] in ours]))
        if any(cells):
            lines.append(f"| {other} | {' | '.join(cells)} |")
    return lines


def smallest(tables: Tables, network: str) -> list[str]:
    """Return what pruning the smallest group costs: PSNR, and sparsity in brackets; means over the trainings."""
    rows = tables.results.where(network=network, chosen=1)
    name = next(row["method"].partition(": only ")[2] for row in rows if ": only " in row["method"])
    targets = [target for target in sorted({row["target"] for row in rows}) if target in (0.5, 0.7)]
    columns = [f"{target:.0%}: {what}" for target in targets for what in ("all groups", "it alone", "all others")]
    lines = [f"| {' | '.join([f'smallest group: {name}', *columns])} |", "| --- |" + " --- |" * len(columns)]
    for method in HEURISTICS:
        cells = []
        for target, kind in itertools.product(targets, (method, f"{method}: only {name}", f"{method}: all but {name}")):
            found = [row for row in rows if (row["target"], row["method"]) == (target, kind)]
            means = [np.mean([row[value] for row in found]) for value in ("psnr", "sparsity")]
            cells.append(f"{means[0]:.2f} ({means[1]:.3f})")
        lines.append(f"| {method} | {' | '.join(cells)} |")
    return [*lines, ""]


def value(rows: list[Row]) -> str:
    """Return the means of PSNR and SSIM."""
    if not rows:
        return ""
    return f"{np.mean([row['psnr'] for row in rows]):.2f} / {np.mean([row['ssim'] for row in rows]):.3f}"


def times(tables: Tables) -> list[str]:
    """Return what each method cost in all, a line each."""
    timed = [row for row in tables.results if row["seconds"] != "" and row["method"] != "random, mean"]
    rows = sorted(timed, key=lambda row: row["method"])
    lines = []
    for method, found in itertools.groupby(rows, key=lambda row: row["method"]):
        each = list(found)
        calls, seconds = sum(row["calls"] for row in each), sum(row["seconds"] for row in each)
        lines.append(f"{method:20} {calls:7,} calls {seconds / 60:7.1f} min")
    return lines
