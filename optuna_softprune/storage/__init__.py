"""Studies that outlive crashes."""

from optuna_softprune.storage._history import History, Point
from optuna_softprune.storage._lease import lease
from optuna_softprune.storage._open import open_storage
from optuna_softprune.storage._optuna import (
    Claim,
    PerStudy,
    all_trials,
    as_run,
    claim_of,
    enqueued_params,
    known_of,
    mirror_constraints,
    note_known,
    owner_of,
    write_claim,
    write_owner,
)
from optuna_softprune.storage._recover import FAILURE, Recovery, give_up, recover, remaining_trials
from optuna_softprune.storage._worker import this_worker

__all__ = [
    "FAILURE",
    "Claim",
    "History",
    "PerStudy",
    "Point",
    "Recovery",
    "all_trials",
    "as_run",
    "claim_of",
    "enqueued_params",
    "give_up",
    "known_of",
    "lease",
    "mirror_constraints",
    "note_known",
    "open_storage",
    "owner_of",
    "recover",
    "remaining_trials",
    "this_worker",
    "write_claim",
    "write_owner",
]
