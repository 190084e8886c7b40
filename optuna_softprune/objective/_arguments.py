"""What an objective checks of its arguments and of the study that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna.study import StudyDirection

from optuna_softprune._errors import StudyMismatchError
from optuna_softprune._space import PruningSpace
from optuna_softprune.coefficients import LatticeConstraint, SparsityConstraint
from optuna_softprune.objective._requirement import Requirement

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna


def check_arguments(
    space: object,
    metric: object,
    constraint: object,
    objectives: Sequence[str],
    directions: Sequence[str],
    requirements: Sequence[object],
    finish: object,
) -> None:
    """Raise unless the arguments of a `PruningObjective` are of the right kind and fit together."""
    if not isinstance(space, PruningSpace):
        raise TypeError(f"Expected `space` to be a `PruningSpace`, but got {type(space).__name__}.")
    if not callable(metric):
        raise TypeError(f"Expected `metric` to be a function of a model, but got {type(metric).__name__}.")
    if finish is not None and not callable(finish):
        raise TypeError(f"Expected `finish` to be a function of a model, but got {type(finish).__name__}.")
    if constraint is not None and not isinstance(constraint, SparsityConstraint):
        raise TypeError(f"Expected `constraint` to be a `SparsityConstraint`, but got {type(constraint).__name__}.")
    if isinstance(constraint, SparsityConstraint) and (constraint.names, constraint.sizes) != (
        space.lattice.names,
        tuple(space.lattice.sizes.tolist()),
    ):
        raise ValueError("Expected `constraint` to be made of the same `space`, but it was made of another one.")
    for name, value in (("objectives", objectives), ("directions", directions)):
        if isinstance(value, str) or not value:
            raise ValueError(f"Expected `{name}` to be a sequence of names, but got {value!r}.")
    if len(objectives) != len(directions) or set(directions) - {"maximize", "minimize"}:
        raise ValueError(
            'Expected `directions` to be "maximize" or "minimize" for each of the objectives, but got '
            f"{list(directions)} for {list(objectives)}."
        )
    for requirement in requirements:
        if not isinstance(requirement, Requirement):
            raise TypeError(f"Expected `requirements` to be of `Requirement`, but got {type(requirement).__name__}.")


def check_study(study: optuna.Study, directions: Sequence[str], constraint: SparsityConstraint | None) -> None:
    """Raise a StudyMismatchError unless study and sampler fit an objective's directions and constraint."""
    found = tuple("maximize" if d == StudyDirection.MAXIMIZE else "minimize" for d in study.directions)
    if found != tuple(directions):
        raise StudyMismatchError(
            f"Expected a study with the directions {list(directions)} of the objective, but study "
            f"{study.study_name!r} has {list(found)}: create it with "
            + (f"`direction={directions[0]!r}`." if len(directions) == 1 else f"`directions={list(directions)}`.")
        )
    sampled = getattr(study.sampler, "constraint", None)
    if isinstance(sampled, LatticeConstraint) and _described(sampled) != _described(constraint):
        raise StudyMismatchError(
            f"Expected the sampler and the objective to have the same constraint, but got {sampled!r} and "
            f"{constraint!r}: give both the same object."
        )


def _described(constraint: LatticeConstraint | None) -> Any:
    if constraint is None:
        return None
    extra = constraint.describe() if isinstance(constraint, SparsityConstraint) else None
    return constraint.names, constraint.sizes, extra
