"""How small can an agent's components be for the reward that it gets, when it plans with all of them?"""

from __future__ import annotations

import functools
import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import optuna
import torch
from optuna.samplers import TPESampler
from tqdm import tqdm

from optuna_softprune import (
    Calibration,
    LeastSquares,
    PruningObjective,
    PruningSpace,
    ReconstructionError,
    Requirement,
    SparsityConstraint,
)
from optuna_softprune.samplers import FiniteDifferenceSampler, ProjectedSampler, baselines
from studies.command import command
from studies.controller import figure
from studies.controller.agent import Agent, acted, noise_for, replayed, trained
from studies.intervals import mean
from studies.searching import HEURISTICS, searched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from optuna.samplers import BaseSampler
    from torch import Tensor, nn

    from studies.rows import Row, Rows

FILE = Path(__file__).parent / "results.csv"
COMPONENTS = ("encoder", "dynamics", "reward", "value", "policy")
COLUMNS = ["part", "seed", "target", "method", "sparsity", "parameters", "test", "upright", "distortion"]
COLUMNS += [*(f"removed_{name}" for name in COMPONENTS), "calls", "seconds"]
KEYS = 4
TRAININGS, TARGETS, SHARE = 3, (0.5, 0.7, 0.8, 0.9, 0.95, 0.98), 0.95
SMALL_TARGETS = (0.95, 0.97, 0.98, 0.985)
CALLS = 30
METRIC_SEED, LOOK_SEED, TEST_SEED = 10_000, 5_000_000, 9_000_000  # of episodes; none is seen twice
OURS = "finite differences, refitted"
LOOKS = 10

Coefficients = dict[str, float]


@dataclass(frozen=True, slots=True)
class Case:
    """One trained agent, and how much of it is seen.

    Attributes:
        seed: Of its training.
        agent: The agent.
        plain: The search space without reconstruction.
        refitted: With reconstruction, from what the agent saw when it learned.
        episodes: In a metric call, in a look at what a search with a requirement found, and in the test.
        calls: Metric calls of a search.
        targets: From which a search with a requirement begins.
    """

    seed: int
    agent: Agent
    plain: PruningSpace
    refitted: PruningSpace
    episodes: tuple[int, int, int]
    calls: int
    targets: tuple[float, ...]

    def reward(self, network: nn.Module, trial: optuna.trial.FrozenTrial) -> dict[str, float]:
        """Return the reward of episodes that are others in each trial."""
        return {"reward": acted(network, self.episodes[0], METRIC_SEED + trial.number).reward}

    def look(self, network: nn.Module) -> float:
        """Return the reward of many more episodes."""
        return acted(network, self.episodes[1], LOOK_SEED).reward


def case(seed: int, quick: bool) -> Case:
    """Return a trained agent with its search spaces."""
    agent = trained(seed, quick=quick)
    generator = torch.Generator().manual_seed(seed)
    seen = replayed(agent, generator)
    noise = noise_for(len(seen), generator)
    calibration = Calibration([(seen, noise)])
    make = functools.partial(PruningSpace, agent, (seen[:2], noise[:, :2]), components=dict(agent.named_children()))
    order, refit = ReconstructionError(calibration), LeastSquares(calibration)
    refitted = make(importance=order, reconstruction=refit)
    if quick:
        return Case(seed, agent, make(), refitted, (4, 8, 8), 4, SMALL_TARGETS[:1])
    return Case(seed, agent, make(), refitted, (24, 128, 128), CALLS, SMALL_TARGETS)


def distortion(small: nn.Module, dense: nn.Module, seen: Tensor) -> float:
    """Return how much distances between states differ in the smaller network's space, at the best scale: 0 to 1."""
    with torch.no_grad():
        a, b = (torch.pdist(network.get_submodule("encoder")(seen)) for network in (dense, small))
    return (1 - (a @ b) ** 2 / (a @ a) / (b @ b).clamp(min=1e-12)).clamp(min=0).sqrt().item()


def measured(of: Case, space: PruningSpace, c: Coefficients) -> Row:
    """Return the values of a smaller network in episodes that nothing else sees."""
    small = space.prune(c)
    episodes = acted(small, of.episodes[2], TEST_SEED)
    seen = acted(of.agent, 16, TEST_SEED).observations.flatten(0, 1)[::2]
    counts = space.component_counts(c)
    return {
        "sparsity": space.sparsity(c),
        "parameters": space.parameters(c),
        "test": episodes.reward,
        "upright": episodes.upright,
        "distortion": distortion(small, of.agent, seen),
        **{f"removed_{name}": 1 - kept / whole for name, (whole, kept) in counts.items() if name in COMPONENTS},
    }


def search(of: Case, space: PruningSpace, constraint: SparsityConstraint, sampler: BaseSampler) -> Coefficients:
    """Return the coefficients with the highest reward of a search, which begins with the heuristics."""
    # The metric is noisy, and no two of its inputs are the same.
    objective = PruningObjective(space, of.reward, constraint, objectives=("reward",), reuse=False, cache_bytes=0)
    study = searched(objective, sampler, baselines(space, constraint).values(), of.calls)
    return space.coefficients(study.best_trial.params)


def at_target(rows: Rows, of: Case, target: float) -> None:
    """Compare networks of one size."""
    key = {"part": "target", "seed": of.seed, "target": target}
    if (*key.values(), OURS) in rows:
        return
    for space, after in ((of.plain, ""), (of.refitted, ", refitted")):
        constraint = SparsityConstraint(space, target)
        found = baselines(space, constraint)
        for name in HEURISTICS:
            rows.keep({**key, "method": name + after, **measured(of, space, found[name]), "calls": 0})
        start = time.perf_counter()
        c = search(of, space, constraint, FiniteDifferenceSampler(constraint))
        cost = {"calls": of.calls, "seconds": time.perf_counter() - start}
        rows.keep({**key, "method": f"finite differences{after}", **measured(of, space, c), **cost})


def by_targets(
    of: Case, requirement: Requirement, sampler: Callable[[SparsityConstraint], BaseSampler]
) -> Iterator[Coefficients]:
    """Yield the best network of each of some targets, the smallest first."""
    for target in reversed(of.targets):
        constraint = SparsityConstraint(of.refitted, target)
        yield search(of, of.refitted, constraint, sampler(constraint))


def by_tpe(of: Case, requirement: Requirement, *, front: bool) -> Iterator[Coefficients]:
    """Yield what TPE finds when it makes parameters few under the requirement, or a front of both; smallest first."""
    space = of.refitted
    objectives = ("reward", "parameters") if front else ("parameters",)
    directions: list[Literal["maximize", "minimize"]] = ["maximize", "minimize"] if front else ["minimize"]
    objective = PruningObjective(
        space, of.reward, objectives=objectives, directions=directions, requirements=(requirement,), reuse=False,
        cache_bytes=0,
    )  # fmt: skip
    study = optuna.create_study(directions=directions, sampler=TPESampler(seed=of.seed))
    for target in of.targets:
        study.enqueue_trial(baselines(space, SparsityConstraint(space, target))["local norm"])
    study.optimize(objective, n_trials=of.calls * len(of.targets))
    found = [trial for trial in study.trials if trial.user_attrs["softprune:feasible"]]
    yield from sorted((space.coefficients(trial.params) for trial in found), key=space.parameters)


def under_requirement(rows: Rows, of: Case) -> None:
    """Find the smallest network with so much of the dense reward, in as many calls by each method."""
    key = {"part": "requirement", "seed": of.seed, "target": SHARE}
    enough = SHARE * of.look(of.agent)
    methods: dict[str, Callable[[Case, Requirement], Iterator[Coefficients]]] = {
        "finite differences at some targets": functools.partial(by_targets, sampler=FiniteDifferenceSampler),
        "TPE, projected on some targets": functools.partial(
            by_targets, sampler=lambda constraint: ProjectedSampler(TPESampler(seed=of.seed), constraint)
        ),
        "TPE, fewest parameters": functools.partial(by_tpe, front=False),
        "TPE, front": functools.partial(by_tpe, front=True),
    }
    for method, candidates in methods.items():
        if (*key.values(), method) in rows:
            continue
        start = time.perf_counter()
        found = itertools.islice(candidates(of, Requirement("reward", at_least=enough)), LOOKS)
        good = (c for c in found if of.look(of.refitted.prune(c)) >= enough)
        c = next(good, dict.fromkeys(of.refitted.distributions, 0.0))
        cost = {"calls": of.calls * len(of.targets), "seconds": time.perf_counter() - start}
        rows.keep({**key, "method": method, **measured(of, of.refitted, c), **cost})


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing, and draw the figure."""
    for seed in range(1 if quick else TRAININGS):
        of = case(seed, quick)
        if ("dense", seed, 0.0, "dense") not in rows:
            row = measured(of, of.plain, dict.fromkeys(of.plain.distributions, 0.0))
            rows.keep({"part": "dense", "seed": seed, "target": 0.0, "method": "dense", **row, "calls": 0})
        for target in tqdm((0.7,) if quick else TARGETS, desc=f"training {seed}"):
            at_target(rows, of, target)
        under_requirement(rows, of)
    figure.draw(rows, rows.file.parent / "reward.png")


def kept_rewards(rows: Rows, found: list[Row]) -> list[float]:
    """Return the shares of the dense reward that networks keep, in %."""
    return [100 * row["test"] / rows[("dense", row["seed"], 0.0, "dense")]["test"] for row in found]


def tables(rows: Rows) -> list[str]:
    """Return the tables in Markdown: means over the trainings, with half of their 95 % intervals."""
    dense = rows.where(part="dense")
    targets = sorted({row["target"] for row in rows.where(part="target")})
    columns = " | ".join(f"{target:.0%}" for target in targets)
    line = "| --- |" + " --- |" * len(targets)
    lines = [
        f"Dense, {len(dense)} trainings: {dense[0]['parameters']:,} parameters, reward "
        f"{mean([row['test'] for row in dense], 3)}, upright to the end {mean([row['upright'] for row in dense], 3)}.",
        "",
    ]
    methods = dict.fromkeys(row["method"] for row in rows.where(part="target"))
    shown = {"% of the dense reward": 1, "upright to the end": 2, "distortion of the latent space": 2}
    for what, digits in shown.items():
        lines += [f"| {what} | {columns} |", line]
        for method in methods:
            cells = []
            for target in targets:
                found = rows.where(part="target", target=target, method=method)
                values = kept_rewards(rows, found) if "%" in what else [row[what.partition(" ")[0]] for row in found]
                cells.append(mean(values, digits))
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines.append("")
    lines += [f"| % removed of | {columns} |", line]
    for name in COMPONENTS:
        each = [rows.where(part="target", target=t, method=OURS) for t in targets]
        cells = [mean([100 * row[f"removed_{name}"] for row in found], 0) for found in each]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", "| smallest with 95 % of the reward | sparsity | % of the dense reward, test | upright | calls |"]
    lines.append("| --- |" + " --- |" * 4)
    for method in dict.fromkeys(row["method"] for row in rows.where(part="requirement")):
        found = rows.where(part="requirement", method=method)
        cells = [mean([row["sparsity"] for row in found], 3), mean(kept_rewards(rows, found), 1)]
        cells += [mean([row["upright"] for row in found], 2), f"{found[0]['calls']}"]
        lines.append(f"| {method} | {' | '.join(cells)} |")
    seconds = sum(row["seconds"] for row in rows if row["seconds"] != "")
    return [*lines, "", f"Searches took {seconds / 60:.1f} minutes in all."]


if __name__ == "__main__":
    quick = "one agent that has hardly learned, one target, 12 calls"
    command(measure, tables, columns=COLUMNS, keys=KEYS, file=FILE, quick=quick)
