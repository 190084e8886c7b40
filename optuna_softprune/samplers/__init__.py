"""Optuna samplers for coefficients, and the heuristics that they must beat."""

from optuna_softprune.samplers._baselines import baselines
from optuna_softprune.samplers._grid import FeasibleGridSampler
from optuna_softprune.samplers._projected import ProjectedSampler

__all__ = ["FeasibleGridSampler", "ProjectedSampler", "baselines"]
