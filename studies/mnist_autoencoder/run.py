"""How much PSNR do autoencoders of MNIST keep with 30 to 90 % of their parameters removed, by way of choosing them?"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import TrialState
from torchmetrics.functional.image import structural_similarity_index_measure
from tqdm import tqdm

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint
from optuna_softprune.samplers import FeasibleGridSampler, baselines
from studies.autoencoders import NETWORKS, Images, digits, mnist, psnr, trained
from studies.command import run
from studies.mnist_autoencoder import figures
from studies.mnist_autoencoder.methods import (
    CALLS,
    GP_CALLS,
    LEVELS,
    MORE_SEARCHES,
    REFITTED,
    RIDGE,
    SEARCHES,
    WITHOUT_START,
    orders,
    refitting,
    sampler_of,
)
from studies.mnist_autoencoder.tables import TRAININGS, VALUES, Tables, summary, tables_in, times
from studies.searching import HEURISTICS, searched
from studies.training import WORK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from optuna.trial import FrozenTrial
    from torch import nn

    from studies.rows import Row

HERE = Path(__file__).parent
TARGETS = (0.3, 0.5, 0.7, 0.9)
SSIM_IMAGES = 1000
# Of the random candidates so many give the mean.
RANDOM_MEAN = 30
# The order of units of refitted networks.
RECONSTRUCTION = "reconstruction"

Coefficients = dict[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """One trained network and one target."""

    network: str
    seed: int
    target: float
    images: Images
    model: nn.Module
    spaces: dict[str, PruningSpace]
    refitted: PruningSpace
    tolerance: float

    @property
    def key(self) -> Row:
        """Return what the case's rows have in common."""
        return {"network": self.network, "seed": self.seed, "target": self.target}

    def measured(self, space: PruningSpace, c: Coefficients) -> Row:
        """Return the values of a pruned network."""
        small = space.prune(c)
        counts = space.component_counts(c)
        return {
            "psnr_validation": psnr(small, self.images.validation),
            "psnr": psnr(small, self.images.test),
            "ssim": ssim(small, self.images),
            "sparsity": space.sparsity(c),
            **{f"sparsity_{name}": 1 - kept / dense for name, (dense, kept) in counts.items()},
            "parameters": space.parameters(c),
        }


def ssim(model: nn.Module, images: Images) -> float:
    """Return the structural similarity of the first test images and their reconstructions, at most 1."""
    batch = images.test[:SSIM_IMAGES]
    small = batch.shape[-1] < 11
    found = structural_similarity_index_measure(
        model(batch).detach(), batch, data_range=1.0, gaussian_kernel=not small, kernel_size=5 if small else 11
    )
    return float(found)  # type: ignore[arg-type]


def dense(case: Case, tables: Tables) -> None:
    """Keep the values of the whole network."""
    if (case.network, case.seed, 0.0, "dense", "") not in tables.results:
        space = next(iter(case.spaces.values()))
        row = case.measured(space, dict.fromkeys(space.distributions, 0.0))
        tables.results.keep({**case.key, **row, "target": 0.0, "method": "dense"})


def heuristics(case: Case, tables: Tables) -> None:
    """Keep what needs no metric, with each order of units; searches take the order of the best on validation images."""
    if tables.results.where(**case.key, method=HEURISTICS[-1]):
        return
    rows = []
    for order, space in case.spaces.items():
        start = time.perf_counter()
        found = baselines(space, SparsityConstraint(space, case.target, tolerance=case.tolerance))
        seconds = time.perf_counter() - start
        for method in HEURISTICS:
            values = case.measured(space, found[method])
            rows.append({**case.key, **values, "method": method, "order": order, "calls": 0, "seconds": seconds})
    best = max(rows, key=lambda row: float(row["psnr_validation"]))["order"]
    tables.results.keep(*({**row, "chosen": int(row["order"] == best)} for row in rows))


def order_of(case: Case, tables: Tables) -> str:
    """Return the order of units that searches take."""
    order: str = tables.results.where(**case.key, method=HEURISTICS[0], chosen=1)[0]["order"]
    return order


def refitted_heuristics(case: Case, tables: Tables) -> None:
    """Keep the heuristics' networks, refitted."""
    if tables.results.where(**case.key, method=f"{HEURISTICS[-1]}, refitted"):
        return
    found = baselines(case.refitted, SparsityConstraint(case.refitted, case.target, tolerance=case.tolerance))
    for method in HEURISTICS:
        row = {**case.measured(case.refitted, found[method]), "order": RECONSTRUCTION, "chosen": 1}
        tables.results.keep({**case.key, **row, "method": f"{method}, refitted"})


def smallest_group(case: Case, tables: Tables) -> None:
    """Prune the smallest group alone, as much as heuristics take of it, and then all of the others without it."""
    order = order_of(case, tables)
    space = case.spaces[order]
    smallest = min(space.groups, key=lambda group: group.size).name
    constraint = SparsityConstraint(space, case.target, tolerance=case.tolerance)
    for method, c in baselines(space, constraint).items():
        names = f"{method}: only {smallest}", f"{method}: all but {smallest}"
        if method not in HEURISTICS or (case.network, case.seed, case.target, names[1], order) in tables.results:
            continue
        alone = {name: value if name == smallest else 0.0 for name, value in c.items()}
        others = {name: 0.0 if name == smallest else value for name, value in c.items()}
        for name, candidate in zip(names, (alone, others), strict=True):
            row = {**case.measured(space, candidate), "method": name, "order": order, "chosen": 1}
            tables.results.keep({**case.key, **row})
        tables.coefficients.keep(*shares(case, space, method, c))


def search(case: Case, method: str, tables: Tables, journal: Path, calls: int, levels: int) -> None:
    """Search with one sampler, and keep the network with the best metric, by the values of images it never saw."""
    refits = method == REFITTED
    order = RECONSTRUCTION if refits else order_of(case, tables)
    if (case.network, case.seed, case.target, method, order) in tables.results:
        return
    space = case.refitted if refits else case.spaces[order]
    constraint = SparsityConstraint(space, case.target, tolerance=case.tolerance)
    sampler = sampler_of(method, space, constraint, case.seed, levels)
    objective = PruningObjective(space, lambda network: psnr(network, case.images.validation), constraint)
    found = baselines(space, constraint)
    starts = [] if method in WITHOUT_START else [found[name] for name in (*HEURISTICS, "nearest")]
    left = None if isinstance(sampler, FeasibleGridSampler) else calls
    study = searched(objective, sampler, starts, left, f"{method} {case.target:.0%}", journal)
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = max(trials, key=metric_if_feasible)
    tables.convergence.keep(*improvements(case, method, trials))
    tables.coefficients.keep(*shares(case, space, method, space.coefficients(best.params)))
    networks = {method: [best]} | ({"random, mean": trials[:RANDOM_MEAN]} if method == "random" else {})
    seconds = sum(trial.duration.total_seconds() for trial in trials if trial.duration is not None)
    for name, kept in networks.items():
        measured = [case.measured(space, space.coefficients(trial.params)) for trial in kept]
        values = {value: float(np.mean([row[value] for row in measured])) for value in VALUES}
        row = {"method": name, "order": order, "chosen": 1, "calls": len(trials), "seconds": seconds}
        tables.results.keep({**case.key, **values, **row})


def metric_if_feasible(trial: FrozenTrial) -> float:
    """Return the metric of a network of the wanted size; SLSQP looks at others on its way."""
    return trial.value if trial.user_attrs["softprune:feasible"] and trial.value is not None else -np.inf


def improvements(case: Case, method: str, trials: Iterable[FrozenTrial]) -> list[Row]:
    """Return a row for each call that found a better network than all before, and for the last."""
    values = np.array([metric_if_feasible(trial) for trial in trials])
    best = np.maximum.accumulate(values)
    better = np.append(np.flatnonzero(np.diff(best, prepend=-np.inf)), len(best) - 1)
    key = {**case.key, "method": method}
    return [{**key, "call": int(call) + 1, "psnr_validation": float(best[call])} for call in better]


def shares(case: Case, space: PruningSpace, method: str, c: Coefficients) -> list[Row]:
    """Return a row for each group: its units, and how many of them are removed."""
    return [
        {**case.key, "method": method, "group": g.name, "units": g.size, "removed": round(c[g.name] * g.size)}
        for g in space.groups
    ]


def measure(tables: Tables, quick: bool) -> None:
    """Measure what is missing, case by case, and draw the figures."""
    images = digits() if quick else mnist()
    folder = tables.results.file.parent
    journals = folder if quick else WORK
    journals.mkdir(exist_ok=True)
    trainings = {NETWORKS[0]: 1} if quick else {network: TRAININGS[network] for network in NETWORKS}
    for network, seed in [(name, seed) for name, count in trainings.items() for seed in range(count)]:
        start = time.perf_counter()
        model = trained(network, seed, images)
        print(f"{network}, training {seed}: {time.perf_counter() - start:.0f} s of training", flush=True)
        ranks = orders(images.calibration).items()
        spaces = {name: PruningSpace(model, (images.calibration[:2],), importance=rank) for name, rank in ranks}
        refitted = refitting(model, images.calibration, RIDGE[network])
        targets = (0.5,) if quick else TARGETS
        more = network == "fully connected" and not quick
        tolerance = 0.03 if quick else 0.005  # small networks have few sizes
        for target in targets:
            case = Case(network, seed, target, images, model, spaces, refitted, tolerance)
            methods = (*SEARCHES, REFITTED, *(MORE_SEARCHES if more and target in (0.5, 0.7) else ()))
            dense(case, tables)
            heuristics(case, tables)
            refitted_heuristics(case, tables)
            smallest_group(case, tables)
            for method in tqdm(methods, desc=f"{network}, training {seed}, {target:.0%}"):
                calls = 12 if quick else GP_CALLS if method == "GP" else CALLS[network]
                search(case, method, tables, journals / f"{network} {seed}.journal", calls, LEVELS)
    figures.draw(tables.results, tables.convergence, tables.coefficients, images, folder)


def lines(tables: Tables) -> list[str]:
    """Return the tables in Markdown, and what each method cost."""
    return [*summary(tables), *times(tables)]


if __name__ == "__main__":
    run(measure, lines, tables_in, folder=HERE, quick="scikit-learn's digits, one training, 12 calls")
