"""Ways to choose the coefficients of an autoencoder at a target sparsity."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from torch import nn

from optuna_softprune import (
    ActivationEnergy,
    Calibration,
    LeastSquares,
    Magnitude,
    PruningSpace,
    ReconstructionError,
    SparsityConstraint,
    Taylor,
)
from optuna_softprune.samplers import (
    FeasibleGridSampler,
    FiniteDifferenceSampler,
    ProjectedSampler,
    SLSQPSampler,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from optuna_softprune import Importance

CALLS = {"fully connected": 300, "convolutional": 200, "fully convolutional": 200}
# A GP's own time grows with the cube of the trials.
GP_CALLS = 100
LEVELS = 11
# Searches of every network and target, and those of the fully connected one at 50 and 70 %.
SEARCHES = ("random", "TPE", "finite differences", "SLSQP")
MORE_SEARCHES = ("CMA-ES", "GP", "exhaustive grid")
# All others evaluate the heuristics, and the feasible network nearest to the dense one, first.
WITHOUT_START = ("random", "exhaustive grid")
# The search that judges refitted networks, and what reconstruction is damped by.
REFITTED = "finite differences, refitted"
RIDGE = {"fully connected": 1e-4, "convolutional": 1e-3, "fully convolutional": 1e-3}


def orders(calibration: Tensor) -> dict[str, Importance]:
    """Return the importances that rank units, by name; those that need data get the calibration images."""

    def error(network: nn.Module, batch: Tensor) -> Tensor:
        return nn.functional.mse_loss(network(batch), batch)

    return {
        "magnitude L1": Magnitude(p=1),
        "magnitude L2": Magnitude(p=2),
        "activation energy": ActivationEnergy(Calibration([(calibration,)])),
        "Taylor": Taylor(list(calibration.split(100)), error),  # type: ignore[no-untyped-call]
    }


def refitting(model: nn.Module, calibration: Tensor, ridge: float) -> PruningSpace:
    """Return the space of refitted networks, units in the order that belongs to it."""
    data = Calibration([(calibration,)])
    return PruningSpace(
        model,
        (calibration[:2],),
        importance=ReconstructionError(data),
        reconstruction=LeastSquares(data, ridge=ridge),
    )


def sampler_of(name: str, space: PruningSpace, constraint: SparsityConstraint, seed: int, levels: int) -> BaseSampler:
    """Return a search's sampler; all of them propose networks of the wanted size only."""
    samplers: dict[str, Callable[[], BaseSampler]] = {
        "random": lambda: ProjectedSampler(RandomSampler(seed=seed), constraint),
        "TPE": lambda: ProjectedSampler(TPESampler(seed=seed), constraint),
        "CMA-ES": lambda: ProjectedSampler(CmaEsSampler(seed=seed), constraint),
        "GP": lambda: ProjectedSampler(GPSampler(seed=seed), constraint),
        "finite differences": lambda: FiniteDifferenceSampler(constraint),
        REFITTED: lambda: FiniteDifferenceSampler(constraint),
        "SLSQP": lambda: SLSQPSampler(constraint),
        "exhaustive grid": lambda: FeasibleGridSampler(space, constraint, levels=levels),
    }
    return samplers[name]()
