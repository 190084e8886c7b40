"""The figures."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from optuna_softprune.coefficients import COUNTED
from optuna_softprune.visualization import _numbers as numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import optuna
    import plotly.graph_objects as go

# What samplers of this package evaluate on their way; everything else is somebody's own candidate.
ON_THE_WAY = ("candidate", "start", "probe", "step", "extra", "grid")
# Colours that are told apart in print and by people who see few.
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#b0b0b0"
OWN = ("#cc79a7", "#e69f00", "#56b4e9", "#785ef0", "#000000", "#8c564b")
SYMBOLS = ("diamond", "square", "triangle-up", "triangle-down", "pentagon", "hexagon")
# Room of an axis on each side of what is on it, as a share of its range.
MARGIN = 0.08
# Trials of a heat map that are numbered, so that numbers of five digits do not touch at 800 pixels.
NUMBERED_TRIALS = 12
# Pixels between the rows of a heat map, so that groups of one colour are told apart.
GAP = 2
# Pixels in which a bar and what is written behind it can be read.
HEIGHT_OF_A_GROUP = 26


def plot_coefficients(study: optuna.Study, *, metric: str | None = None, count: int = 50) -> go.Figure:
    """Draw the coefficients of the best feasible trials as a heat map: which groups a good network keeps.

    Args:
        study: A study of a `PruningObjective`.
        metric: One of the metrics that it names; default: its only objective.
        count: How many trials, at most.

    Raises:
        ImportError: If plotly is not installed.
        ValueError: If the study is not one of ours, no trial is feasible, or the metric is not known.
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
        zmax=float(found.coefficients.max(initial=0)) or 1.0,
        colorscale="Viridis_r",
        ygap=GAP,
        colorbar={"title": {"text": "fraction removed", "side": "right"}, "tickformat": ".0%"},
    )
    figure = go.Figure(heat)
    one = len(found.trials) == 1
    networks, leave = ("network", "leaves") if one else (f"{len(found.trials)} networks", "leave")
    _lay_out(figure, f"What the {networks} with the {_best(found.name)} {leave} out", "trial, best first", "")
    figure.update_xaxes(type="category", nticks=min(len(found.trials), NUMBERED_TRIALS), tickangle=0)
    _of_groups(figure, found.groups)
    return figure


def plot_sparsity(study: optuna.Study, *, metric: str | None = None) -> go.Figure:
    """Draw the metric of every complete trial against its sparsity; arguments as in `plot_coefficients`.

    The target is a band, the dense network a point at 0. Trials that were enqueued with a role of their own
    (`user_attrs={"softprune:role": "uniform"}`) are named.

    Raises:
        ImportError: If plotly is not installed.
        ValueError: If the study is not one of ours, no trial is complete, or the metric is not known.
    """
    go = _plotly()
    found = numbers.sparsity(study, metric=metric)
    figure = go.Figure()
    if found.target is not None:
        target, tolerance = found.target
        figure.add_vrect(
            x0=target - tolerance, x1=target + tolerance, fillcolor=GREEN, opacity=0.25, line_width=0, layer="below"
        )
        figure.add_annotation(
            x=target, y=1, yref="paper", yanchor="bottom", text=f"target {target:.0%}", showarrow=False
        )
    own = np.array([role not in ON_THE_WAY for role in found.roles])
    for name, chosen, color in (
        ("infeasible", ~found.feasible & ~own, GREY),
        ("feasible", found.feasible & ~own, BLUE),
    ):
        if chosen.any():
            figure.add_scatter(
                x=found.sparsity[chosen],
                y=found.metric[chosen],
                mode="markers",
                name=name,
                text=[f"trial {number}" for number in found.trials[chosen]],
                marker={"color": color, "size": 6, "opacity": 0.6},
            )
    for i, place in enumerate(np.flatnonzero(own)):
        figure.add_scatter(
            x=[found.sparsity[place]],
            y=[found.metric[place]],
            mode="markers",
            name=found.roles[place],
            text=[f"trial {found.trials[place]}"],
            marker={"size": 11, "symbol": SYMBOLS[i % len(SYMBOLS)], "color": OWN[i % len(OWN)]},
        )
    if found.best is not None:
        figure.add_scatter(
            x=[found.sparsity[found.best]],
            y=[found.metric[found.best]],
            mode="markers",
            name=f"best: {_number(found.metric[found.best])}",
            text=[f"trial {found.trials[found.best]}"],
            marker={"size": 16, "symbol": "star", "color": ORANGE, "line": {"color": "white", "width": 1}},
        )
    if found.dense is not None:
        figure.add_scatter(
            x=[0.0],
            y=[found.dense],
            mode="markers",
            name=f"dense: {_number(found.dense)}",
            marker={"size": 12, "symbol": "circle", "color": "black"},
        )
        figure.add_hline(y=found.dense, line_dash="dot", line_color="black", line_width=1)
    what = COUNTED[found.of]
    _lay_out(figure, f"{found.name} against {what} removed", f"{what} removed", found.name)
    right = max(float(found.sparsity.max()), found.target[0] + found.target[1] if found.target else 0.0)
    figure.update_xaxes(tickformat=".0%", range=[-MARGIN * right, (1 + MARGIN) * right])
    return figure


def plot_convergence(study: optuna.Study, *, metric: str | None = None) -> go.Figure:
    """Draw the best feasible metric so far against metric calls; arguments and errors as in `plot_sparsity`."""
    go = _plotly()
    found = numbers.convergence(study, metric=metric)
    figure = go.Figure()
    own = np.array([role not in ON_THE_WAY for role in found.roles])
    figure.add_scatter(
        x=found.evaluations[~own],
        y=found.metric[~own],
        mode="markers",
        name="feasible networks",
        marker={"color": GREY, "size": 5},
    )
    for i, place in enumerate(np.flatnonzero(own)):
        figure.add_scatter(
            x=[found.evaluations[place]],
            y=[found.metric[place]],
            mode="markers",
            name=found.roles[place],
            marker={"size": 11, "symbol": SYMBOLS[i % len(SYMBOLS)], "color": OWN[i % len(OWN)]},
        )
    figure.add_scatter(
        x=found.evaluations,
        y=found.best,
        mode="lines" if len(found.best) > 1 else "markers",
        name="best so far",
        marker={"color": ORANGE},
        line={"shape": "hv", "color": ORANGE, "width": 2.5},
    )
    last = int(found.evaluations[-1])
    ends = (0.9, 1.1 * last)
    if found.dense is not None:
        figure.add_scatter(
            x=ends,
            y=[found.dense] * 2,
            mode="lines",
            name=f"dense: {_number(found.dense)}",
            line={"dash": "dot", "color": "black", "width": 1},
        )
    _lay_out(figure, f"{_begun(_best(found.name))} so far", "networks evaluated", found.name)
    ticks = [n for power in range(len(str(last))) for n in (10**power, 2 * 10**power, 5 * 10**power) if n <= last]
    figure.update_xaxes(
        type="log",
        tickvals=ticks,
        ticktext=[f"{n:,}" for n in ticks],
        range=np.log10(ends),
    )
    return figure


def plot_sensitivity(study: optuna.Study, *, metric: str | None = None, ranges: int = 10) -> go.Figure:
    """Draw, for ranges of each group's coefficient, the best feasible metric that was found with it there.

    A group that matters shows a steep edge; one that does not is as good wherever its coefficient is. Empty where
    nothing was evaluated. Arguments and errors as in `plot_coefficients`.
    """
    go = _plotly()
    found = numbers.sensitivity(study, metric=metric, ranges=ranges)
    best, edges = _best(found.name), np.round(100 * found.edges)
    labels = [f"{low:.0f} to {high:.0f}" for low, high in itertools.pairwise(edges)]
    heat = go.Heatmap(
        z=found.best,
        x=edges,
        y=found.groups,
        customdata=np.broadcast_to(labels, found.best.shape),
        colorscale="Viridis",
        colorbar={"title": {"text": best, "side": "right"}},
        hovertemplate=f"%{{y}}, %{{customdata}} % removed: {best} %{{z:.4g}}<extra></extra>",
        hoverongaps=False,
        ygap=GAP,
    )
    figure = go.Figure(heat)
    _lay_out(figure, f"{_begun(best)} by how much of each group is removed", "% of the group removed", "")
    figure.update_xaxes(tick0=0, dtick=edges[1], tickangle=0)
    _of_groups(figure, found.groups)
    return figure


def plot_widths(study: optuna.Study, *, metric: str | None = None) -> go.Figure:
    """Draw what the best feasible network keeps of each group, in execution order: units, and parameters with them.

    A weight between two groups counts with both. Arguments and errors as in `plot_coefficients`.
    """
    go = _plotly()
    found = numbers.widths(study, metric=metric)
    panels = [("units", found.dense, found.kept)]
    if found.dense_parameters is not None and found.parameters is not None:
        panels.append(("parameters", found.dense_parameters, found.parameters))
    figure = go.Figure()
    for i, (name, dense, kept) in enumerate(panels, 1):
        axis = {"xaxis": f"x{i}" if i > 1 else "x"}
        bars = {"y": found.groups, "orientation": "h", "showlegend": i == 1, **axis}
        figure.add_bar(
            x=dense,
            name="dense",
            marker={"color": GREY},
            text=[f"{small:,} of {large:,}" for small, large in zip(kept, dense, strict=True)],
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{y}}: %{{text}} {name}<extra></extra>",
            **bars,
        )
        figure.add_bar(x=kept, name="kept", marker={"color": BLUE}, width=0.4, hoverinfo="skip", **bars)
    title = f"Widths with the {_best(found.name)} (trial {found.trial}, {_number(found.metric)})"
    _lay_out(figure, title, "units", "")
    share = 1 / len(panels)
    for i, (name, dense, _) in enumerate(panels):
        # Room for what is written behind the longest bar.
        settings = {"title": name, "domain": [i * share, (i + 1) * share - 0.04], "range": [0, 1.55 * dense.max()]}
        figure.update_layout({f"xaxis{i + 1 if i else ''}": {**settings, "nticks": 5}})
    figure.update_layout(
        barmode="overlay",
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 1.0, "xanchor": "right"},
        height=max(450, 150 + HEIGHT_OF_A_GROUP * len(found.groups)),
    )
    _of_groups(figure, found.groups)
    return figure


def plot_front(studies: Sequence[optuna.Study], *, metric: str | None = None, against: str = "parameters") -> go.Figure:
    """Draw the metric of the best feasible network of each study, by its size: one study for each target.

    Args:
        studies: Studies of a `PruningObjective`, of the same network.
        metric: One of the metrics that they name; default: their only objective.
        against: "parameters", "macs", "sparsity", or another metric that they name, such as a latency.

    Raises:
        ImportError: If plotly is not installed.
        ValueError: As `plot_coefficients`; if there is no study, one is of another network or has no feasible trial, or
            `against` is not known.
    """
    go = _plotly()
    found = numbers.front(studies, metric=metric)
    if against not in found.values:
        raise ValueError(f"Expected `against` to be one of {list(found.values)}, but got {against!r}.")
    figure = go.Figure()
    figure.add_scatter(
        x=found.values[against],
        y=found.metric,
        mode="lines+markers",
        name="best of each study",
        text=[f"{study}, trial {number}" for study, number in zip(found.studies, found.trials, strict=True)],
        customdata=100 * found.values["sparsity"],
        hovertemplate=f"%{{text}}<br>%{{customdata:.1f}} % removed, {found.name} %{{y:.4g}}<extra></extra>",
        marker={"color": ORANGE, "size": 10},
        line={"color": ORANGE, "width": 2.5},
    )
    if found.dense_metric is not None and against in found.dense:
        figure.add_scatter(
            x=[found.dense[against]],
            y=[found.dense_metric],
            mode="markers",
            name=f"dense: {_number(found.dense_metric)}",
            marker={"size": 12, "symbol": "circle", "color": "black"},
        )
        figure.add_hline(y=found.dense_metric, line_dash="dot", line_color="black", line_width=1)
    what = COUNTED.get(against, against)
    _lay_out(figure, f"{found.name} against {what}", what, found.name)
    if against == "sparsity":
        figure.update_xaxes(tickformat=".0%")
    return figure


def _best(name: str) -> str:
    """Return what is sought, in words."""
    return f"fewest {name}" if name in COUNTED.values() else f"best {name}"


def _begun(words: str) -> str:
    """Return words as a title begins with them."""
    return words[:1].upper() + words[1:]


def _number(value: float) -> str:
    """Return a number for people: counts in full, and no minus before nothing."""
    whole = float(value).is_integer() and abs(value) >= 1e3
    return f"{value:,.0f}" if whole else f"{value + 0.0:.4g}"


def _lay_out(figure: go.Figure, title: str, x: str, y: str) -> None:
    figure.update_layout(
        title={"text": title, "x": 0.02, "xanchor": "left"},
        xaxis={"title": x, "automargin": True},
        yaxis={"title": y, "automargin": True},
        template="plotly_white",
        font={"size": 14},
        margin={"t": 70, "r": 20, "b": 60, "l": 60},
    )


def _of_groups(figure: go.Figure, groups: Sequence[str]) -> None:
    """Show groups along the vertical axis, in execution order from the top, each with its name."""
    figure.update_yaxes(title="group", autorange="reversed", type="category", tickvals=list(groups))


def _plotly() -> Any:
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ImportError(
            'Figures need plotly: pip install "optuna-softprune[visualization]". The numbers behind them do not: see '
            "`optuna_softprune.visualization`."
        ) from error
    return go
