"""What a study shows in the dashboard."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from optuna.exceptions import ExperimentalWarning

from optuna_softprune import visualization
from optuna_softprune.objective import CANDIDATE, CONSTRAINT, DENSE, OBJECTIVE, PREFIX

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from optuna_softprune._space import PruningSpace

FIGURES = {
    "coefficients": visualization.plot_coefficients,
    "sparsity": visualization.plot_sparsity,
    "convergence": visualization.plot_convergence,
    "sensitivity": visualization.plot_sensitivity,
}


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
    names = study.user_attrs[OBJECTIVE]["names"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(names)
    save_note(study, note(study, space))
    for metric in names if len(names) > 1 else [None]:
        for name, plot in FIGURES.items():
            place = name if metric is None else f"{name}-{metric}"
            save_plotly_graph_object(study, plot(study, metric=metric), graph_object_id=place)


def note(study: optuna.Study, space: PruningSpace) -> str:
    """Return, as Markdown, what the search is about and the best feasible candidate."""
    held = study.user_attrs
    names = held[OBJECTIVE]["names"]
    constraint: dict[str, Any] | None = held[CONSTRAINT]
    lines = [f"**{study.study_name}**: structured pruning, {len(space.groups)} groups."]
    if constraint is not None:
        lines.append(
            f"Target: sparsity {constraint['target']:g} +- {constraint['tolerance']:g} of the {constraint['of']}."
        )
    lines.append("Dense network: " + _values(held.get(DENSE, {})) + ".")
    best = _best(study) if len(names) == 1 else None
    if best is None:
        lines.append("No best candidate: no trial is feasible yet, or the study has several objectives.")
    else:
        found = best.user_attrs
        lines.append(
            f"**Best feasible candidate: trial {best.number}**, {_values(found[CANDIDATE]['metrics'])}, "
            f"sparsity {found[f'{PREFIX}sparsity']:.4f}, {found[f'{PREFIX}parameters']:,} parameters."
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


def _groups(space: PruningSpace, best: FrozenTrial | None) -> str:
    rows = ["| group | component | units | kept by the best | coefficient |", "| --- | --- | ---: | ---: | ---: |"]
    kept = [None] * len(space.groups) if best is None else best.user_attrs[CANDIDATE]["kept"]
    for group, units in zip(space.groups, kept, strict=True):
        found = "| |" if units is None else f"{units} | {1 - units / group.size:.3f} |"
        rows.append(f"| {group.name} | {' + '.join(group.components)} | {group.size} | {found}")
    return "\n".join(rows)


def _components(space: PruningSpace, best: FrozenTrial) -> str:
    rows = ["| component | parameters | kept by the best | sparsity |", "| --- | ---: | ---: | ---: |"]
    for name, (dense, kept) in space.component_parameters(space.coefficients(best.params)).items():
        if dense:
            rows.append(f"| {name} | {dense:,} | {kept:,} | {1 - kept / dense:.3f} |")
    return "\n".join(rows)
