"""The exported graph, run at the sizes of any candidate."""

from optuna_softprune.program._program import Program, Step, placement, program
from optuna_softprune.program._sizes import Sizes, counted

__all__ = ["Program", "Sizes", "Step", "counted", "placement", "program"]
