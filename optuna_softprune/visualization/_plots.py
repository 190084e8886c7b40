"""The figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from optuna_softprune.visualization import _numbers as numbers

if TYPE_CHECKING:
    import optuna
    import plotly.graph_objects as go

# What samplers of this package evaluate on their way; everything else is somebody's own candidate.
ON_THE_WAY = ("candidate", "start", "probe", "step", "extra", "grid")


def plot_coefficients(study: optuna.Study, *, metric: str | None = None, count: int = 50) -> go.Figure:
    """Draw the coefficients of the best feasible trials as a heat map: which groups a good network keeps.

    Args:
        study: A study of a `PruningObjective`.
        metric: One of the metrics that it names; default: its only objective.
        count: How many trials, at most.

    Raises:
        ImportError: If plotly is not installed.
        ValueError: If the study is not one of ours, no trial is complete, or the metric is not known.
    """
    go = _plotly()
    found = numbers.coefficients(study, metric=metric, count=count)
    heat = go.Heatmap(
        z=found.coefficients,
        y=found.groups,
        x=[str(number) for number in found.trials],
        customdata=np.broadcast_to(found.metric, found.coefficients.shape),
        hovertemplate=f"%{{y}}: %{{z:.1%}} removed<br>trial %{{x}}, {found.name} %{{customdata:.4g}}<extra></extra>",
        zmin=0,
        zmax=1,
        colorscale="Viridis_r",
        colorbar={"title": "coefficient"},
    )
    figure = go.Figure(heat)
    figure.update_layout(
        title=f"Coefficients of the {len(found.trials)} best feasible trials, best first",
        xaxis={"title": "trial", "type": "category"},
        yaxis={"title": "group", "autorange": "reversed", "type": "category"},
    )
    return figure


def plot_sparsity(study: optuna.Study, *, metric: str | None = None) -> go.Figure:
    """Draw the metric of every complete trial against its sparsity; arguments and errors as in `plot_coefficients`.

    Trials that were enqueued with a role of their own (`user_attrs={"softprune:role": "uniform"}`) are named.
    """
    go = _plotly()
    found = numbers.sparsity(study, metric=metric)
    figure = go.Figure()
    own = np.array([role not in ON_THE_WAY for role in found.roles])
    for name, chosen, color in (
        ("infeasible", ~found.feasible & ~own, "#bbbbbb"),
        ("feasible", found.feasible & ~own, "#1f77b4"),
    ):
        figure.add_scatter(
            x=found.sparsity[chosen],
            y=found.metric[chosen],
            mode="markers",
            name=name,
            text=[f"trial {number}" for number in found.trials[chosen]],
            marker={"color": color, "size": 6, "opacity": 0.7},
        )
    for place in np.flatnonzero(own):
        figure.add_scatter(
            x=[found.sparsity[place]],
            y=[found.metric[place]],
            mode="markers",
            name=found.roles[place],
            text=[f"trial {found.trials[place]}"],
            marker={"size": 11, "symbol": "diamond"},
        )
    if found.dense is not None:
        figure.add_hline(y=found.dense, line_dash="dot", annotation_text="dense network")
    figure.update_layout(
        title=f"{found.name} against sparsity",
        xaxis={"title": "sparsity"},
        yaxis={"title": found.name},
    )
    return figure


def plot_convergence(study: optuna.Study, *, metric: str | None = None) -> go.Figure:
    """Draw the best feasible metric so far against metric calls; arguments and errors as in `plot_coefficients`."""
    go = _plotly()
    found = numbers.convergence(study, metric=metric)
    figure = go.Figure()
    figure.add_scatter(
        x=found.evaluations,
        y=found.metric,
        mode="markers",
        name="feasible trials",
        marker={"color": "#bbbbbb", "size": 5},
    )
    figure.add_scatter(
        x=found.evaluations, y=found.best, mode="lines", name="best so far", line={"shape": "hv", "color": "#d62728"}
    )
    figure.update_layout(
        title=f"Best feasible {found.name} so far",
        xaxis={"title": "metric calls", "type": "log"},
        yaxis={"title": found.name},
    )
    return figure


def plot_sensitivity(study: optuna.Study, *, metric: str | None = None, ranges: int = 10) -> go.Figure:
    """Draw, for ranges of each group's coefficient, the best feasible metric that was found with it there.

    A group that matters shows a steep edge; one that does not is as good wherever its coefficient is. Empty where
    nothing was evaluated. Arguments and errors as in `plot_coefficients`.
    """
    go = _plotly()
    found = numbers.sensitivity(study, metric=metric, ranges=ranges)
    labels = [f"{a:.0%} to {b:.0%}" for a, b in zip(found.edges[:-1], found.edges[1:], strict=True)]
    heat = go.Heatmap(
        z=found.best,
        x=labels,
        y=found.groups,
        colorscale="Viridis",
        colorbar={"title": found.name},
        hovertemplate=f"%{{y}}, %{{x}} removed: best {found.name} %{{z:.4g}}<extra></extra>",
        hoverongaps=False,
    )
    figure = go.Figure(heat)
    figure.update_layout(
        title=f"Best feasible {found.name} with a group's coefficient in a range",
        xaxis={"title": "coefficient", "type": "category"},
        yaxis={"title": "group", "autorange": "reversed", "type": "category"},
    )
    return figure


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ImportError(
            'Figures need plotly: pip install "optuna-softprune[visualization]". The numbers behind them do not: see '
            "`optuna_softprune.visualization`."
        ) from error
    return go
