"""Where the weights of a smaller network come from: sliced, or refitted to what the dense network computes."""

from optuna_softprune.reconstruction._least_squares import LeastSquares
from optuna_softprune.reconstruction._refitted import Refitted
from optuna_softprune.reconstruction._sliced import Sliced
from optuna_softprune.reconstruction._statistics import Statistics
from optuna_softprune.reconstruction._weights import Solutions, Weights

__all__ = ["LeastSquares", "Refitted", "Sliced", "Solutions", "Statistics", "Weights"]
