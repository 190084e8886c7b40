"""From units removed to a new, smaller module, and the proof that it is the right one."""

from optuna_softprune.removal._draws import random_part
from optuna_softprune.removal._prove import prove
from optuna_softprune.removal._remove import remove
from optuna_softprune.removal._verify import Verifier

__all__ = [
    "Verifier",
    "prove",
    "random_part",
    "remove",
]
