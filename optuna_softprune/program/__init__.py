"""The exported graph, run or written out at the sizes of any candidate."""

from optuna_softprune.program._forward import TracedForward, install
from optuna_softprune.program._program import Program, Step, placement, program
from optuna_softprune.program._reading import read
from optuna_softprune.program._sizes import Sizes, counted
from optuna_softprune.program._written import Record, follows_units, written

__all__ = [
    "Program",
    "Record",
    "Sizes",
    "Step",
    "TracedForward",
    "counted",
    "follows_units",
    "install",
    "placement",
    "program",
    "read",
    "written",
]
