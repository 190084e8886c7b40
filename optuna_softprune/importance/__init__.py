"""Scores that say which units of a group go first."""

from optuna_softprune.importance._data import ActivationEnergy, Taylor
from optuna_softprune.importance._protocol import Importance, Scores
from optuna_softprune.importance._reconstruction_error import ReconstructionError
from optuna_softprune.importance._scores import checked_scores
from optuna_softprune.importance._weights import Magnitude, Random

__all__ = [
    "ActivationEnergy",
    "Importance",
    "Magnitude",
    "Random",
    "ReconstructionError",
    "Scores",
    "Taylor",
    "checked_scores",
]
