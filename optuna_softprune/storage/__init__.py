"""Studies that outlive crashes."""

from optuna_softprune.storage._open import open_storage
from optuna_softprune.storage._optuna import PerStudy, all_trials, claim_point, claimed_point, mirror_constraints
from optuna_softprune.storage._recover import FAILURE, is_left, metric_failed, recover, remaining_trials
from optuna_softprune.storage._worker import OWNER, this_worker

__all__ = [
    "FAILURE",
    "OWNER",
    "PerStudy",
    "all_trials",
    "claim_point",
    "claimed_point",
    "is_left",
    "metric_failed",
    "mirror_constraints",
    "open_storage",
    "recover",
    "remaining_trials",
    "this_worker",
]
