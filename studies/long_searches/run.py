"""What a search of ten thousand trials costs to open, to resume and to carry on, beside Optuna alone."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import torch
from optuna.samplers import BaseSampler, RandomSampler
from torch import nn
from tqdm import tqdm

from optuna_softprune import PruningObjective, PruningSpace, SparsityConstraint, open_storage, recover, remaining_trials
from optuna_softprune.samplers import FeasibleGridSampler, FiniteDifferenceSampler, ProjectedSampler, SLSQPSampler
from studies.command import command
from studies.rows import Rows, markdown

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ["storage", "sampler", "trials", "open_ms", "resume_ms", "first_ms", "step_ms", "optuna_step_ms"]
COLUMNS += ["resume_ratio", "step_more_ms"]


def network() -> nn.Sequential:
    """Return a small network with five groups."""
    widths = (24, 40, 48, 56, 40, 48, 24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.Tanh())]
    return nn.Sequential(*layers[:-1]).eval()


X = torch.randn(4, 24, generator=torch.Generator().manual_seed(0))


def metric(model: nn.Module) -> float:
    """Return something that is computed at once."""
    with torch.no_grad():
        return -float(model(X).square().mean())


def samplers(space: PruningSpace, constraint: SparsityConstraint) -> dict[str, Callable[[], BaseSampler]]:
    """Return what a search may be carried on with."""
    return {
        "projected random": lambda: ProjectedSampler(RandomSampler(seed=0), constraint),
        "grid": lambda: FeasibleGridSampler(space, constraint, levels=11),
        "finite differences": lambda: FiniteDifferenceSampler(constraint),
        "SLSQP": lambda: SLSQPSampler(constraint),
    }


def seconds(call: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def step_ms(study: optuna.Study, objective: Any, steps: int) -> float:
    """Return the median milliseconds of one more trial, the first left out."""
    study.optimize(objective, n_trials=1)
    return statistics.median(seconds(lambda: study.optimize(objective, n_trials=1)) for _ in range(steps)) * 1e3


def searched(name: str, trials: int, space: PruningSpace) -> optuna.Study:
    """Return a search in memory."""
    constraint = SparsityConstraint(space, 0.5)
    study = optuna.create_study(direction="maximize", sampler=samplers(space, constraint)[name]())
    study.optimize(PruningObjective(space, metric, constraint), n_trials=trials)
    return study


def measured(done: optuna.Study, address: str, name: str, space: PruningSpace) -> dict[str, float]:
    """Return the milliseconds of opening, resuming and one more step; those of Optuna alone beside them."""
    constraint = SparsityConstraint(space, 0.5)
    objective = PruningObjective(space, metric, constraint)
    make, trials = samplers(space, constraint)[name], len(done.trials)
    optuna.create_study(study_name=name, storage=open_storage(address), direction="maximize")
    stored = optuna.load_study(study_name=name, storage=open_storage(address), sampler=RandomSampler(seed=0))
    for key, value in done.user_attrs.items():
        stored.set_user_attr(key, value)
    stored.add_trials(done.get_trials(deepcopy=False))

    def load() -> optuna.Study:
        raw: Any = address if "://" in address else optuna.storages.JournalStorage(journal(address))
        study = optuna.load_study(study_name=name, storage=raw, sampler=RandomSampler(seed=1))
        study.get_trials(deepcopy=False)
        return study

    def resume() -> optuna.Study:
        study = optuna.load_study(study_name=name, storage=open_storage(address), sampler=make())
        recover(study)
        remaining_trials(study, trials + 300)
        return study

    journal = optuna.storages.journal.JournalFileBackend
    own = statistics.median(seconds(load) for _ in range(3)) * 1e3
    ours = statistics.median(seconds(resume) for _ in range(3)) * 1e3
    study = resume()
    first = seconds(lambda: study.optimize(objective, n_trials=1)) * 1e3
    steps = min(20, trials // 10)
    step = step_ms(study, objective, steps)
    attributes = len(study.trials[-1].user_attrs) + len(study.trials[-1].system_attrs)

    def plain(trial: optuna.Trial) -> float:
        """Write as much as the objective writes."""
        for group, found in space.distributions.items():
            trial.suggest_float(group, found.low, found.high)
        trial.set_constraint("size", 0.0)
        for i in range(attributes - 1):
            trial.set_user_attr(str(i), "a word or two")
        return 0.0

    return {
        "open_ms": own,
        "resume_ms": ours,
        "first_ms": first,
        "step_ms": step,
        "optuna_step_ms": step_ms(load(), plain, steps),
    }


def measure(rows: Rows, quick: bool) -> None:
    """Measure what is missing: each sampler on a journal file and SQLite, or two on a journal with few trials."""
    space = PruningSpace(network(), (X,))
    names = list(samplers(space, SparsityConstraint(space, 0.5)))[-2 if quick else 0 :]
    kinds = ("journal",) if quick else ("journal", "sqlite")
    for trials, name in tqdm(list(itertools.product((50,) if quick else (1000, 10_000), names))):
        if all((kind, name, trials) in rows for kind in kinds):
            continue
        done = searched(name, trials, space)
        if len(done.trials) < trials:  # the grid has fewer points
            continue
        for kind in kinds:
            with tempfile.TemporaryDirectory() as folder:
                address = f"{folder}/study.journal" if kind == "journal" else f"sqlite:///{folder}/study.db"
                found = {key: round(value, 1) for key, value in measured(done, address, name, space).items()}
            found["resume_ratio"] = round(found["resume_ms"] / found["open_ms"], 2)
            found["step_more_ms"] = round(found["step_ms"] - found["optuna_step_ms"], 1)
            rows.keep({"storage": kind, "sampler": name, "trials": trials, **found})


if __name__ == "__main__":
    quick, file = "50 trials instead of 1,000 and 10,000, on a journal", Path(__file__).parent / "results.csv"
    command(measure, markdown, columns=COLUMNS, keys=3, file=file, quick=quick)
