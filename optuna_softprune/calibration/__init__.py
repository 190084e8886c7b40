"""The user's unlabelled inputs, and what the dense network's layers read when it runs on them."""

from optuna_softprune.calibration._calibration import PATIENCE_S, Calibration, expect_calibration, on_device_of
from optuna_softprune.calibration._contraction import Contraction
from optuna_softprune.calibration._moments import RIDGE, Moments, expect_ridge
from optuna_softprune.calibration._norms import Correction, Pooled, normalisation

__all__ = [
    "PATIENCE_S",
    "RIDGE",
    "Calibration",
    "Contraction",
    "Correction",
    "Moments",
    "Pooled",
    "expect_calibration",
    "expect_ridge",
    "normalisation",
    "on_device_of",
]
