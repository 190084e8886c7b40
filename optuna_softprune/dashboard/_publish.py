"""What a study shows in the dashboard."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from optuna.exceptions import ExperimentalWarning

from optuna_softprune import visualization
from optuna_softprune.coefficients import COUNTED
from optuna_softprune.objective import CANDIDATE, CONSTRAINT, COUNTS_OF_DENSE, DENSE, FEASIBLE, OBJECTIVE, PREFIX

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from optuna_softprune._space import PruningSpace

# Rows of a Pareto front that a note shows.
FRONT_ROWS = 20
BOUNDS = {"at_least": "at least", "at_most": "at most"}
FIGURES = {
    "coefficients": visualization.plot_coefficients,
    "sparsity": visualization.plot_sparsity,
    "convergence": visualization.plot_convergence,
    "sensitivity": visualization.plot_sensitivity,
    "widths": visualization.plot_widths,
}
# Those that there is nothing to draw in before a trial is feasible.
OF_FEASIBLE = ("coefficients", "sensitivity", "widths")


def publish(study: optuna.Study, space: PruningSpace) -> None:
    """Write note, metric names and figures of a search into its study, where optuna-dashboard shows them.

    Args:
        study: A study of a `PruningObjective` with a complete trial.
        space: Its search space.

    Raises:
        ImportError: If optuna-dashboard or plotly is not installed.
        ValueError: If the study is not one of ours, or no trial is complete.
    """
    try:
        from optuna_dashboard import save_note, save_plotly_graph_object
    except ImportError as error:
        raise ImportError('The dashboard is not installed: pip install "optuna-softprune[dashboard]".') from error
    text = note(study, space)
    names = study.user_attrs[OBJECTIVE]["names"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(names)
    save_note(study, text)
    feasible = any(trial.user_attrs.get(FEASIBLE, 1) for trial in study.get_trials(deepcopy=False) if trial.values)
    figures = {name: plot for name, plot in FIGURES.items() if feasible or name not in OF_FEASIBLE}
    for metric in names if len(names) > 1 else [None]:
        for name, plot in figures.items():
            place = name if metric is None else f"{name}-{metric}"
            save_plotly_graph_object(study, plot(study, metric=metric), graph_object_id=place)


def note(study: optuna.Study, space: PruningSpace) -> str:
    """Return, as Markdown, what the search is about and what it found.

    Raises:
        ValueError: If the study is not one of ours.
    """
    held = study.user_attrs
    objective = held.get(OBJECTIVE)
    if objective is None:
        raise ValueError(
            f"Expected a study of a `PruningObjective`, but {study.study_name!r} holds no search of this package."
        )
    constraint: dict[str, Any] | None = held[CONSTRAINT]
    of = "parameters" if constraint is None else constraint["of"]
    lines = [f"**{study.study_name}**: structured pruning, {len(space.groups)} groups."]
    if constraint is not None:
        lines.append(f"Target: sparsity {constraint['target']:g} +- {constraint['tolerance']:g} of the {COUNTED[of]}.")
    if objective["requirements"]:
        lines.append("Requirements: " + "; ".join(map(_requirement, objective["requirements"])) + ".")
    counts = ", ".join(f"{count:,} {COUNTED[of]}" for of, count in held[COUNTS_OF_DENSE].items())
    lines.append(f"Dense network: {_values(held.get(DENSE, {}))}; {counts}.")
    best = None
    if len(objective["names"]) > 1:
        lines.append(_front(study, objective, of))
    elif (best := _best(study)) is None:
        lines.append("No network is feasible yet.")
    else:
        found = best.user_attrs
        lines.append(
            f"**Best feasible candidate: trial {best.number}**, {_values(found[CANDIDATE]['metrics'])}, "
            f"sparsity {found[f'{PREFIX}sparsity']:.4f} of the {COUNTED[of]}, {found[f'{PREFIX}parameters']:,} "
            f"parameters, {found[f'{PREFIX}macs']:,} MACs."
        )
    lines.append(
        "The dashboard's own *best trial* does not look at constraints: it may be a network of another size. Feasible "
        "trials have 1 in the column `softprune:feasible`."
    )
    return "\n\n".join([*lines, _groups(space, best), *([] if best is None else [_components(space, best)])]) + "\n"


def _best(study: optuna.Study) -> FrozenTrial | None:
    try:
        return study.best_trial
    except ValueError:
        return None


def _values(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()) or "not measured yet"


def _requirement(described: dict[str, Any]) -> str:
    bounds = [f"{word} {described[key]:g}" for key, word in BOUNDS.items() if described[key] is not None]
    return f"{described['metric']} {' and '.join(bounds)}"


def _front(study: optuna.Study, objective: dict[str, Any], of: str) -> str:
    """Return the feasible networks that no other is better than in every objective, along the first objective."""
    sign = -1 if objective["directions"][0] == "maximize" else 1
    front = sorted(study.best_trials, key=lambda trial: sign * trial.values[0])
    if not front:
        return "No network is feasible yet."
    names = objective["names"]
    columns = [*names, *(name for name in ("parameters", "macs") if name not in names)]
    head = [COUNTED.get(name, f"sparsity of the {COUNTED[of]}" if name == "sparsity" else name) for name in columns]
    rows = [f"| trial | {' | '.join(head)} |", "| ---: |" + " ---: |" * len(columns)]
    for trial in front[:FRONT_ROWS]:
        counts = [f"{trial.user_attrs[f'{PREFIX}{name}']:,}" for name in columns[len(names) :]]
        cells = [
            f"{value:,.6g}" if name not in COUNTED else f"{value:,.0f}"
            for name, value in zip(names, trial.values, strict=True)
        ]
        rows.append(f"| {trial.number} | {' | '.join([*cells, *counts])} |")
    wanted = ", ".join(f"{name} ({way})" for name, way in zip(names, objective["directions"], strict=True))
    shown = f", the first {FRONT_ROWS} shown" if len(front) > FRONT_ROWS else ""
    networks = "1 feasible network" if len(front) == 1 else f"{len(front)} feasible networks"
    return f"**Pareto front** of {wanted}: {networks}{shown}.\n\n" + "\n".join(rows)


def _groups(space: PruningSpace, best: FrozenTrial | None) -> str:
    if best is None:
        rows = ["| group | component | units |", "| --- | --- | ---: |"]
        return "\n".join([*rows, *(f"| {g.name} | {' + '.join(g.components)} | {g.size} |" for g in space.groups)])
    rows = ["| group | component | units | kept by the best | coefficient |", "| --- | --- | ---: | ---: | ---: |"]
    for group, units in zip(space.groups, best.user_attrs[CANDIDATE]["kept"], strict=True):
        component = " + ".join(group.components)
        rows.append(f"| {group.name} | {component} | {group.size} | {units} | {1 - units / group.size:.3f} |")
    return "\n".join(rows)


def _components(space: PruningSpace, best: FrozenTrial) -> str:
    c = space.coefficients(best.params)
    counted = [space.component_counts(c, "parameters"), space.component_counts(c, "macs")]
    rows = [
        "| component | parameters | kept by the best | sparsity | MACs | kept by the best | sparsity |",
        "| --- |" + " ---: |" * 6,
    ]
    for name in dict.fromkeys([*counted[0], *counted[1]]):
        counts = [found.get(name, (0, 0)) for found in counted]
        if any(dense for dense, _ in counts):
            rows.append(f"| {name} | {' | '.join(map(_removed, counts))} |")
    totals = [(sum(dense for dense, _ in f.values()), sum(kept for _, kept in f.values())) for f in counted]
    rows.append(f"| **total** | {' | '.join(map(_removed, totals))} |")
    return "\n".join(rows)


def _removed(counts: tuple[int, int]) -> str:
    dense, kept = counts
    return f"{dense:,} | {kept:,} | {1 - kept / dense:.3f}" if dense else "0 | 0 | "
