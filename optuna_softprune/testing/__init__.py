"""What tests of pruning need: a zoo of tiny networks that state their groups, and random networks."""

from optuna_softprune.testing._random_network import RandomNetwork, Step
from optuna_softprune.testing._weights import randomise
from optuna_softprune.testing._zoo import ZOO, ZooNetwork

__all__ = ["ZOO", "RandomNetwork", "Step", "ZooNetwork", "randomise"]
