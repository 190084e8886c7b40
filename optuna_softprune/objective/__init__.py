"""The objective of a study, and what the study keeps."""

from optuna_softprune.objective._objective import PruningObjective
from optuna_softprune.objective._requirement import Requirement

__all__ = ["PruningObjective", "Requirement"]
