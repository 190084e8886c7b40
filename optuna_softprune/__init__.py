"""Structured pruning of PyTorch networks as an Optuna search space."""

from importlib.metadata import version

from optuna_softprune._errors import (
    CalibrationWarning,
    ComponentWarning,
    CountWarning,
    ExportError,
    InfeasibleTargetError,
    ModeWarning,
    NothingToPruneError,
    PrunedFileError,
    SettingsWarning,
    SoftPruneError,
    SoftPruneWarning,
    StorageError,
    StudyMismatchError,
    UnusedParameterWarning,
    VerificationWarning,
)
from optuna_softprune._space import PruningSpace
from optuna_softprune.calibration import Calibration
from optuna_softprune.coefficients import LatticeConstraint, SparsityConstraint
from optuna_softprune.graph import Group, Protected, Side, Slices
from optuna_softprune.importance import ActivationEnergy, Importance, Magnitude, Random, ReconstructionError, Taylor
from optuna_softprune.objective import PruningObjective, Requirement
from optuna_softprune.reconstruction import LeastSquares
from optuna_softprune.report import compare, latency_ms, summary
from optuna_softprune.shipping import distill, load_pruned, save_pruned
from optuna_softprune.storage import open_storage, recover, remaining_trials

__version__ = version("optuna-softprune")

__all__ = [
    "ActivationEnergy",
    "Calibration",
    "CalibrationWarning",
    "ComponentWarning",
    "CountWarning",
    "ExportError",
    "Group",
    "Importance",
    "InfeasibleTargetError",
    "LatticeConstraint",
    "LeastSquares",
    "Magnitude",
    "ModeWarning",
    "NothingToPruneError",
    "Protected",
    "PrunedFileError",
    "PruningObjective",
    "PruningSpace",
    "Random",
    "ReconstructionError",
    "Requirement",
    "SettingsWarning",
    "Side",
    "Slices",
    "SoftPruneError",
    "SoftPruneWarning",
    "SparsityConstraint",
    "StorageError",
    "StudyMismatchError",
    "Taylor",
    "UnusedParameterWarning",
    "VerificationWarning",
    "compare",
    "distill",
    "latency_ms",
    "load_pruned",
    "open_storage",
    "recover",
    "remaining_trials",
    "save_pruned",
    "summary",
]
