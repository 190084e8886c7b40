"""Measure one candidate."""

from optuna_softprune.evaluation._metric import METRIC, Metric, measure, not_finite

__all__ = ["METRIC", "Metric", "measure", "not_finite"]
