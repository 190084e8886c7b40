"""From units removed to a new, smaller module, and the proof that it is the right one."""

from optuna_softprune.removal._remove import Kept, remove
from optuna_softprune.removal._verify import Verifier, protect_what_fails, tolerance

__all__ = ["Kept", "Verifier", "protect_what_fails", "remove", "tolerance"]
