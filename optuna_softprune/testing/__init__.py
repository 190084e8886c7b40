"""What tests of pruning need: networks that state their groups, random networks, and problems with known optima."""

from optuna_softprune.testing._many_groups import problem_of_many_groups
from optuna_softprune.testing._problems import AnalyticProblem, analytic_problem, analytic_problems
from optuna_softprune.testing._random_network import RandomNetwork
from optuna_softprune.testing._random_step import Step
from optuna_softprune.testing._weights import randomise
from optuna_softprune.testing._zoo import ZOO
from optuna_softprune.testing._zoo_network import ZooNetwork

__all__ = [
    "ZOO",
    "AnalyticProblem",
    "RandomNetwork",
    "Step",
    "ZooNetwork",
    "analytic_problem",
    "analytic_problems",
    "problem_of_many_groups",
    "randomise",
]
