"""The best trial of a study, or what keeps all of them from being it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.trial import TrialState

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna
    from optuna.trial import FrozenTrial

    from optuna_softprune.coefficients import SparsityConstraint
    from optuna_softprune.objective._requirement import Requirement


def best_feasible(
    study: optuna.Study, constraint: SparsityConstraint | None, requirements: Sequence[Requirement]
) -> FrozenTrial:
    """Return the best feasible trial of a study with one objective.

    Raises:
        ValueError: If there is none; the message names the trial that is nearest to it, and the bound that it breaks.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise ValueError(
            f"Expected study {study.study_name!r} to have a complete trial, but none of its {len(study.trials)} trials "
            "is: run `study.optimize(objective, n_trials=...)` first."
        )
    bounds = {"sparsity": repr(constraint), **{each.key: repr(each) for each in requirements}}

    def broken(trial: FrozenTrial) -> tuple[float, str]:
        """Return by how much a trial breaks its worst bound, and which that is."""
        return max(((trial.constraints[name], name) for name in bounds if name in trial.constraints), default=(0.0, ""))

    nearest = min(complete, key=broken)
    excess, name = broken(nearest)
    if excess > 0:
        raise ValueError(
            f"Expected a feasible trial, but none of the {len(complete)} complete ones is: the nearest, trial "
            f"{nearest.number}, breaks {bounds[name]} by {excess:.3g}. Search on, relax that bound, or take "
            "a sampler that keeps to the constraint."
        )
    return study.best_trial
