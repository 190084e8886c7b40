"""Figures of a search, drawn from its study alone: no model is needed.

Each `plot_*(study)`, and `plot_front(studies)`, returns a `plotly.graph_objects.Figure`; needs `pip install
"optuna-softprune[visualization]"`. The numbers behind each are in a function of the same name without `plot_`, which
needs nothing.
"""

from optuna_softprune.visualization._numbers import (
    Coefficients,
    Convergence,
    Front,
    Sensitivity,
    Sparsity,
    Widths,
    coefficients,
    convergence,
    front,
    sensitivity,
    sparsity,
    widths,
)
from optuna_softprune.visualization._plots import (
    plot_coefficients,
    plot_convergence,
    plot_front,
    plot_sensitivity,
    plot_sparsity,
    plot_widths,
)

__all__ = [
    "Coefficients",
    "Convergence",
    "Front",
    "Sensitivity",
    "Sparsity",
    "Widths",
    "coefficients",
    "convergence",
    "front",
    "plot_coefficients",
    "plot_convergence",
    "plot_front",
    "plot_sensitivity",
    "plot_sparsity",
    "plot_widths",
    "sensitivity",
    "sparsity",
    "widths",
]
