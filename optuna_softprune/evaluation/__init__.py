"""Measure candidates: one by its metric, many by what their forward passes have in common."""

from optuna_softprune.evaluation._candidate import Candidate
from optuna_softprune.evaluation._evaluator import Evaluator
from optuna_softprune.evaluation._metric import METRIC, Measurement, Metric, measure, name_of, not_finite, takes_trial

__all__ = [
    "METRIC",
    "Candidate",
    "Evaluator",
    "Measurement",
    "Metric",
    "measure",
    "name_of",
    "not_finite",
    "takes_trial",
]
