"""The user's unlabelled inputs, and what the dense network's layers read when it runs on them."""

from optuna_softprune.calibration._calibration import PATIENCE_S, Calibration, expect_calibration
from optuna_softprune.calibration._contraction import Contraction
from optuna_softprune.calibration._moments import RIDGE, Moments, expect_ridge

__all__ = ["PATIENCE_S", "RIDGE", "Calibration", "Contraction", "Moments", "expect_calibration", "expect_ridge"]
