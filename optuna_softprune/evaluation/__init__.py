"""Measure one candidate."""

from optuna_softprune.evaluation._metric import METRIC, Metric, measure, not_finite, takes_trial

__all__ = ["METRIC", "Metric", "measure", "not_finite", "takes_trial"]
