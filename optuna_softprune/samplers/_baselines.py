"""The heuristics that a search must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable

    from optuna_softprune._space import PruningSpace
    from optuna_softprune.coefficients import SparsityConstraint

FloatArray = NDArray[np.float64]


def baselines(space: PruningSpace, constraint: SparsityConstraint, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """Return named feasible coefficients that need no metric; all use the importance of `space`.

    - `uniform`: the same share of every group.
    - `local norm`: of every group the units whose score is below one multiple of the group's mean score.
    - `global norm`: all units whose score is below one threshold, in whatever group.
    - `nearest`: the feasible network nearest to the dense one; groups that hold few parameters stay nearly whole.
    - `random`: a random point.

    The share, multiple or threshold is what reaches the target; the result is projected.
    """
    highest = constraint.highest
    by_group = dict(zip((group.name for group in space.groups), space.scores, strict=True))
    scores = [np.sort(np.concatenate([by_group[name] for name in groups])) for groups in space.tied_groups.values()]

    def uniform(level: float) -> FloatArray:
        return level * highest

    def below(thresholds: FloatArray) -> FloatArray:
        counts = [np.searchsorted(each, t) / len(each) for each, t in zip(scores, thresholds, strict=True)]
        point: FloatArray = np.minimum(np.array(counts), highest)
        return point

    means = np.array([each.mean() for each in scores])
    relative = np.sort(np.concatenate([each / (mean or 1.0) for each, mean in zip(scores, means, strict=True)]))
    absolute = np.sort(np.concatenate(scores))

    def local_norm(level: float) -> FloatArray:
        return below(np.quantile(relative, level) * means)

    def global_norm(level: float) -> FloatArray:
        return below(np.full(len(scores), np.quantile(absolute, level)))

    points = {
        "uniform": _at_target(constraint, uniform),
        "local norm": _at_target(constraint, local_norm),
        "global norm": _at_target(constraint, global_norm),
        "nearest": np.zeros(len(highest)),
        "random": np.random.default_rng(seed).random(len(highest)) * highest,
    }
    return {name: space.named(constraint.project(point)) for name, point in points.items()}


def _at_target(constraint: SparsityConstraint, path: Callable[[float], FloatArray]) -> FloatArray:
    """Return the point of a rising path [0, 1] -> (G,) that is nearest to the target."""
    points = np.array([path(level) for level in np.linspace(0, 1, 501)])
    best: FloatArray = points[np.argmin(constraint.violation(points))]
    return best
