"""The search algorithms, as straight-line code over points and losses; no Optuna and no torch here."""

from optuna_softprune.numerics._additive import Curve, curves_alone, least_sum
from optuna_softprune.numerics._finite_differences import FiniteDifferences, descend
from optuna_softprune.numerics._largest import Sparsities, enlarge
from optuna_softprune.numerics._probes import Scheme
from optuna_softprune.numerics._restarts import beside, nearest_to_dense, ray, with_restarts
from optuna_softprune.numerics._search import Batch, Evaluation, Report, Role, Search
from optuna_softprune.numerics._simultaneous import descend_simultaneously
from optuna_softprune.numerics._slsqp import SLSQP, minimise

__all__ = [
    "SLSQP",
    "Batch",
    "Curve",
    "Evaluation",
    "FiniteDifferences",
    "Report",
    "Role",
    "Scheme",
    "Search",
    "Sparsities",
    "beside",
    "curves_alone",
    "descend",
    "descend_simultaneously",
    "enlarge",
    "least_sum",
    "minimise",
    "nearest_to_dense",
    "ray",
    "with_restarts",
]
