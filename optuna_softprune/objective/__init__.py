"""The objective of a study, and what the study keeps."""

from optuna_softprune._keys import CONSTRAINT, OBJECTIVE, PREFIX
from optuna_softprune.objective._objective import COUNTS, PruningObjective
from optuna_softprune.objective._record import (
    CANDIDATE,
    COUNTS_OF_DENSE,
    DENSE,
    FEASIBLE,
    FORMULA,
    GROUPS,
    METRIC_NAME,
    ROLE,
    WEIGHTS,
)
from optuna_softprune.objective._requirement import Requirement

__all__ = [
    "CANDIDATE",
    "CONSTRAINT",
    "COUNTS",
    "COUNTS_OF_DENSE",
    "DENSE",
    "FEASIBLE",
    "FORMULA",
    "GROUPS",
    "METRIC_NAME",
    "OBJECTIVE",
    "PREFIX",
    "ROLE",
    "WEIGHTS",
    "PruningObjective",
    "Requirement",
]
