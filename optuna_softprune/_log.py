"""Where this package logs: below Optuna's own logger, so that its handler, level and propagation hold for both."""

from __future__ import annotations

import optuna

LOGGER = optuna.logging.get_logger("optuna.softprune")
