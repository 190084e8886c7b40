"""A search in optuna-dashboard: a note, figures and pictures beside what the dashboard shows by itself."""

from optuna_softprune.dashboard._callback import DashboardCallback
from optuna_softprune.dashboard._publish import note, publish

__all__ = ["DashboardCallback", "note", "publish"]
