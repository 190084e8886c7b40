"""The table that a search space prints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna_softprune.graph import Network


def describe(
    model: str,
    network: Network,
    touched: Sequence[int],
    parameters: set[str],
    dense: int,
    fewest: int,
    weights: Sequence[str],
) -> str:
    """Return the groups and the protected axes as text.

    Args:
        model: The name of the model's class.
        network: The groups.
        touched: Parameters that each group takes part in.
        parameters: Qualified names of the parameters; axes of buffers are not listed.
        dense: Parameters of the dense network.
        fewest: Parameters when as much as possible is removed.
        weights: What is said of where weights come from.
    """
    rows = [("group", "component", "units", "parameters")]
    rows += [
        (group.name, " + ".join(group.components) or "-", str(group.size), f"{count:,}")
        for group, count in zip(network.groups, touched, strict=True)
    ]
    groups = len(network.groups)
    lines = [
        f"{model}: {groups} group{'s' * (groups != 1)}, {network.units:,} units, {dense:,} parameters, "
        f"sparsity up to {1 - fewest / dense:.3f}",
        *_aligned(rows, "<<>>"),
    ]
    by_reason: dict[str, dict[str, list[int]]] = {}
    for each in network.protected:
        if each.tensor in parameters:
            by_reason.setdefault(each.reason, {}).setdefault(each.tensor, []).append(each.axis)
    lines.append("protected")
    for reason, axes in by_reason.items():
        first, *more = [f"{tensor} axis {', '.join(map(str, found))}" for tensor, found in axes.items()]
        lines.append(f"  {reason}: {first}" + (f" and {len(more)} more" if more else ""))
    return "\n".join([*lines, *weights])


def _aligned(rows: Sequence[tuple[str, ...]], sides: str) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]
