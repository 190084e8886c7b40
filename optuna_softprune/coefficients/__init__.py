"""From coefficients to units removed, parameters, multiply-accumulates and constraints; no torch here."""

from optuna_softprune.coefficients._constraint import COUNTED, CountedSpace, Of, SparsityConstraint
from optuna_softprune.coefficients._counts import Count, mac_count, parameter_count
from optuna_softprune.coefficients._feasible import feasible_points
from optuna_softprune.coefficients._lattice import Lattice, removable
from optuna_softprune.coefficients._protocol import LatticeConstraint

__all__ = [
    "COUNTED",
    "Count",
    "CountedSpace",
    "Lattice",
    "LatticeConstraint",
    "Of",
    "SparsityConstraint",
    "feasible_points",
    "mac_count",
    "parameter_count",
    "removable",
]
