"""From units removed to a new, smaller module, and the proof that it is the right one."""

from optuna_softprune.removal._remove import remove
from optuna_softprune.removal._verify import Verifier, protect_what_fails, random_parts, tolerance

__all__ = [
    "Verifier",
    "protect_what_fails",
    "random_parts",
    "remove",
    "tolerance",
]
