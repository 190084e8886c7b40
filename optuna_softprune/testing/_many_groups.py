"""Analytic problems of as many groups as are wanted: what is lost grows from the dense network on.

    minimise  f(c) = 1/2 c K c   with   s(c) >= target - tolerance

| symbol | meaning | shape |
| --- | --- | --- |
| c* | the optimum, drawn, a point of the lattice | (G,) |
| a | gradient of s at c* | (G,) |
| S | second derivatives of s, which are constant: it is a plane, or a sum of products of two widths | (G, G) |
| M | what groups add to or take from each other's loss: K without its diagonal | (G, G) |

The diagonal of K is what makes K c* = a. So c* is a stationary point of f(c) - s(c), and since K - S is positive
definite its only minimum: no point of at least the sparsity of c* has a lower loss. The target is a tolerance above it.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.coefficients import Count, Lattice, SparsityConstraint
from optuna_softprune.testing._problems import AnalyticProblem, CountedGroups

FloatArray = NDArray[np.float64]

SIZES = (64, 48, 32, 80, 56)
# Of the coefficients of the optimum: with them s is near 0.5 where widths are multiplied, and 0.3 where not.
LEAST, MOST = 0.1, 0.5
# How far a group acts on the losses of others, and how much at most, beside the smaller of what the two lose alone.
REACH, STRENGTH = 2, 0.3


def problem_of_many_groups(
    groups: int,
    *,
    chained: bool = False,
    interactions: bool = False,
    noise: float = 0.0,
    tolerance: float = 0.005,
    seed: int = 0,
) -> AnalyticProblem:
    """Return a problem whose optimum, of loss 1, is a lattice point; no feasible point has a lower loss.

    Args:
        groups: How many groups there are.
        chained: Whether parameters are products of neighbouring widths, as in a chain of layers, or each unit has its
            own.
        interactions: Whether groups near each other change each other's loss, as much as leaves one optimum.
        noise: Standard deviation of what is added to the loss; the same whenever a point is asked for.
        tolerance: How far off the target a point may be.
        seed: Of what is drawn.
    """
    random = np.random.default_rng(seed)
    names = [f"group{g}" for g in range(groups)]
    sizes = np.array(list(itertools.islice(itertools.cycle(SIZES), groups)))
    lattice = Lattice.of(dict(zip(names, sizes.tolist(), strict=True)), round_to=1, min_units=1)
    optimum = lattice.snap(random.uniform(LEAST, MOST, groups))
    space = (
        CountedGroups(lattice=lattice, formula=_chain(groups))
        if chained
        else CountedGroups.with_own_parameters(lattice, random.integers(10, 1000, groups))
    )
    around = SparsityConstraint(space, 0.5, tolerance=0.5)
    a = around.gradient(optimum)
    # Of a plane the slopes are the same everywhere; of products each changes in proportion to its neighbours.
    bend = np.array([around.gradient(each) - around.gradient(np.zeros(groups)) for each in np.eye(groups) * 0.5]) * 2
    coupling = np.zeros((groups, groups))
    if interactions:
        alone = a * optimum  # what a group would lose
        for i, j in itertools.combinations(range(groups), 2):
            if j - i <= REACH:
                share = random.uniform(-STRENGTH, STRENGTH) * min(alone[i], alone[j])
                coupling[i, j] = coupling[j, i] = share / (optimum[i] * optimum[j])
    while True:
        hessian = np.diag((a - coupling @ optimum) / optimum) + coupling
        if np.linalg.eigvalsh(hessian - bend)[0] > 0:
            break
        coupling /= 2  # without it, diagonals are larger than what is beside them, with coefficients of up to 1/2
    hessian *= 2 / (optimum @ hessian @ optimum)
    name = (
        f"{'chained' if chained else 'separable'}{', interactions' * interactions}{', noisy' * bool(noise)}, {groups}"
    )
    target = around.residual(optimum) + around.target + (1 - 1e-9) * tolerance
    return AnalyticProblem(
        name=name,
        space=space,
        constraint=SparsityConstraint(space, target, tolerance=tolerance),
        hessian=hessian,
        center=np.zeros(groups),
        optimum=optimum,
        noise=noise,
    )


def _chain(groups: int) -> Count:
    """Return the count of a chain of layers with as many inputs and outputs as the first group has units."""
    lengths = np.hstack([np.zeros((groups, 1), np.int64), np.eye(groups, dtype=np.int64)])
    ends = ((SIZES[0], (0,)), (SIZES[0], (groups - 1,)))
    return Count(constant=0, lengths=lengths, monomials=(*ends, *((1, (g, g + 1)) for g in range(groups - 1))))
