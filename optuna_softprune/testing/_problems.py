"""Analytic problems whose constrained optimum is known, for samplers.

Each is a quadratic bowl over coefficients, cut by a surface of equal sparsity:

    minimise  f(c) = 1/2 (c - o) K (c - o)   with   s(c) = target   and   0 <= c <= highest

Where K is diagonal and the surface a plane, s(c) = w . c, the optimum is c_g = clip(o_g - lambda w_g / k_g, 0,
highest_g), with lambda such that the plane is met. Problems of many groups are made the other way around, from an
optimum that is drawn: see `problem_of_many_groups`.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from optuna_softprune.coefficients import Count, Lattice, SparsityConstraint

if TYPE_CHECKING:
    from collections.abc import Sequence

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class CountedGroups:
    """Groups without a network: their lattice and how their parameters are counted."""

    lattice: Lattice
    formula: Count

    def count(self, of: str) -> Count:
        """Return the formula, whatever is counted."""
        return self.formula

    @classmethod
    def with_own_parameters(cls, lattice: Lattice, parameters: NDArray[np.int64]) -> CountedGroups:
        """Return groups of which each unit holds so many parameters (G,) of its own."""
        groups = len(parameters)
        formula = Count(
            constant=0,
            lengths=np.hstack([np.zeros((groups, 1), np.int64), np.eye(groups, dtype=np.int64)]),
            monomials=tuple((int(each), (g,)) for g, each in enumerate(parameters)),
        )
        return cls(lattice=lattice, formula=formula)


@dataclass(frozen=True, slots=True, kw_only=True)
class AnalyticProblem:
    """A problem with a known optimum.

    Attributes:
        name: What is special about it.
        space: The groups, without a network.
        constraint: The sparsity, on a lattice.
        hessian: Shape (G, G): K.
        center: Shape (G,): o, where the loss would be lowest without the constraint.
        optimum: Shape (G,): where the loss is lowest with it; it need not be a lattice point.
        noise: Standard deviation of what is added to the loss; the same whenever a point is asked for.
    """

    name: str
    space: CountedGroups
    constraint: SparsityConstraint
    hessian: FloatArray
    center: FloatArray
    optimum: FloatArray
    noise: float = 0.0

    def loss(self, c: FloatArray) -> float:
        """Return f, with noise, at a point (G,)."""
        exact = self.exact(c)
        if not self.noise:
            return exact
        seed = zlib.crc32(np.rint(c * np.array(self.constraint.sizes)).astype(np.int64).tobytes())
        return exact + self.noise * float(np.random.default_rng(seed).standard_normal())

    def exact(self, c: FloatArray) -> float:
        """Return f at a point (G,)."""
        return 0.5 * float((c - self.center) @ self.hessian @ (c - self.center))


def _on_plane(constraint: SparsityConstraint, curvature: FloatArray, center: FloatArray) -> FloatArray:
    """Return the optimum (G,) of a sum of parabolas on a plane of equal sparsity."""
    normal = constraint.gradient(np.zeros(len(center)))

    def at(multiplier: float) -> FloatArray:
        c: FloatArray = np.clip(center - multiplier * normal / curvature, 0, constraint.highest)
        return c

    reach = float((curvature / normal).max())
    return at(brentq(lambda each: constraint.residual(at(each)), -reach, reach, xtol=1e-15, rtol=1e-14))


def analytic_problem(
    name: str,
    sizes: Sequence[int],
    *,
    target: float = 0.5,
    tolerance: float = 0.005,
    condition: float = 1.0,
    spread: float = 0.2,
    noise: float = 0.0,
    seed: int = 0,
) -> AnalyticProblem:
    """Return a problem with parameters, curvatures and center drawn from `seed`.

    Args:
        name: What is special about it.
        sizes: Units of each group.
        target: The sparsity to reach.
        tolerance: How far off it a point may be.
        condition: The largest curvature over the smallest.
        spread: How far the center is from coefficients that are all `target`, 0 to 1: far ones have optima on bounds.
        noise: Standard deviation of what is added to the loss.
        seed: Of what is drawn.
    """
    random = np.random.default_rng(seed)
    groups = len(sizes)
    names = [f"group{g}" for g in range(groups)]
    lattice = Lattice.of(dict(zip(names, sizes, strict=True)), round_to=1, min_units=1)
    space = CountedGroups.with_own_parameters(lattice, random.integers(10, 1000, groups))
    constraint = SparsityConstraint(space, target, tolerance=tolerance)
    curvature = random.permutation(condition ** np.linspace(0, 1, groups))
    center = target + spread * random.uniform(-1, 1, groups)
    return AnalyticProblem(
        name=name,
        space=space,
        constraint=constraint,
        hessian=np.diag(curvature),
        center=center,
        optimum=_on_plane(constraint, curvature, center),
        noise=noise,
    )


def analytic_problems() -> dict[str, AnalyticProblem]:
    """Return problems of 2 to 50 variables by name: interior, on a bound, coarse, ill-conditioned, noisy."""
    problems = [
        analytic_problem("two variables", (64, 48)),
        analytic_problem("interior", (64, 48, 32, 80, 56)),
        analytic_problem("on a bound", (64, 48, 32, 80, 56), target=0.3, spread=0.9, seed=4),
        analytic_problem("coarse lattice", (6, 8, 5, 12, 9), tolerance=0.03),
        analytic_problem("ill-conditioned", (256, 128, 512, 64, 256), condition=1e3),
        analytic_problem("noisy", (64, 48, 32, 80, 56), noise=1e-3),
        analytic_problem("twenty variables", (64, 48, 32, 80, 56) * 4, condition=10),
        analytic_problem("fifty variables", (64, 48, 32, 80, 56) * 10),
    ]
    return {problem.name: problem for problem in problems}
