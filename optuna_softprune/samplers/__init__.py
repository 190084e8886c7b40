"""Optuna samplers for coefficients, and the heuristics that they must beat."""

from optuna_softprune.samplers._additive import additive_start, additive_sweep
from optuna_softprune.samplers._baselines import baselines
from optuna_softprune.samplers._finite_differences import FiniteDifferenceSampler
from optuna_softprune.samplers._grid import FeasibleGridSampler
from optuna_softprune.samplers._largest import LargestSparsitySampler
from optuna_softprune.samplers._projected import ProjectedSampler
from optuna_softprune.samplers._slsqp import SLSQPSampler
from optuna_softprune.samplers._warm_starts import warm_starts

__all__ = [
    "FeasibleGridSampler",
    "FiniteDifferenceSampler",
    "LargestSparsitySampler",
    "ProjectedSampler",
    "SLSQPSampler",
    "additive_start",
    "additive_sweep",
    "baselines",
    "warm_starts",
]
