"""The table that a search space prints, as text and as HTML."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optuna_softprune._errors import shorten

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from optuna_softprune.coefficients import Count
    from optuna_softprune.graph import Network

COLUMNS = ("group", "component", "units", "parameters", "MACs")


@dataclass(frozen=True, slots=True)
class Totals:
    """One way to count a network.

    Attributes:
        dense: The count of the dense network.
        touched: For each group what would go if all of it could go.
        highest: The largest sparsity.
    """

    dense: int
    touched: list[int]
    highest: float

    @staticmethod
    def of(count: Count, sizes: NDArray[np.int64], fewest: NDArray[np.int64]) -> Totals:
        """Return the totals of a count, of widths from the dense network's down to the `fewest` units."""
        dense = int(count(sizes))
        return Totals(dense, count.touched(sizes).tolist(), 1 - int(count(fewest)) / dense if dense else 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceTable:
    """What is said of a search space.

    Attributes:
        model: The name of the model's class.
        network: The groups.
        parameters: Qualified names of the parameters; axes of buffers are not listed.
        counts: Parameters and multiply-accumulates.
        weights: What is said of where weights come from.
        tied: Coefficient -> the groups that share it.
    """

    model: str
    network: Network
    parameters: set[str]
    counts: tuple[Totals, Totals]
    weights: Sequence[str]
    tied: Mapping[str, Sequence[str]]

    def title(self) -> str:
        """Return how many groups, units, parameters and multiply-accumulates there are, and how many can go."""
        groups = len(self.network.groups)
        parameters, macs = self.counts
        return (
            f"{self.model}: {groups} group{'s' * (groups != 1)}, {self.network.units:,} units, "
            f"{parameters.dense:,} parameters (sparsity up to {parameters.highest:.3f}), "
            f"{macs.dense:,} MACs (up to {macs.highest:.3f})"
        )

    def rows(self) -> list[tuple[str, ...]]:
        """Return a row of text for each group."""
        return [
            (group.name, " + ".join(group.components) or "-", f"{group.size:,}", f"{parameters:,}", f"{macs:,}")
            for group, parameters, macs in zip(
                self.network.groups, *(count.touched for count in self.counts), strict=True
            )
        ]

    def protected(self) -> list[tuple[str, str]]:
        """Return the reasons why axes are protected, and the first axes of each."""
        by_reason: dict[str, dict[str, list[int]]] = {}
        for each in self.network.protected:
            if each.tensor in self.parameters:
                by_reason.setdefault(each.reason, {}).setdefault(each.tensor, []).append(each.axis)
        found = []
        for reason, axes in by_reason.items():
            first, *more = [f"{tensor} axis {', '.join(map(str, along))}" for tensor, along in axes.items()]
            found.append((reason, first + (f" and {len(more)} more" if more else "")))
        return found

    def bounded(self) -> list[str]:
        """Return which groups may not keep any number of units, and why."""
        found = []
        for group in self.network.groups:
            rules = [f"at least {group.least} units"] * (group.least > 1)
            rules += [f"all units or a multiple of {group.multiple}"] * (group.multiple > 1)
            found += [f"{group.name} keeps {' and '.join(rules)}: {group.why_bounded}"] * bool(rules)
        return found

    def traced(self) -> list[str]:
        """Return which submodules run their own graphs, by the line of code that states a size."""
        by_line: dict[str, list[str]] = {}
        for path, part in self.network.traced.items():
            by_line.setdefault(part.line, []).append(path)
        return [
            f"{first}{f' and {len(more)} more' if more else ''} runs its own graph, in eval mode, as its code states a "
            f"size: {line}"
            for line, (first, *more) in by_line.items()
        ]

    def ambiguous(self) -> list[str]:
        """Return which integers of modules stay as they are, though they may mean a width."""
        names = list(self.network.ambiguous)
        said = "what they count is not known, and no forward pass reads them; set them if a method does"
        return [f"{shorten(names)}: {said}"] if names else []

    def shared(self) -> list[str]:
        """Return which groups share a coefficient."""
        return [f"{name}: {len(groups)} groups, {shorten(list(groups))}" for name, groups in self.tied.items()]

    def sections(self) -> list[tuple[str, list[str]]]:
        """Return what is said of groups and sizes, under a head each."""
        return [
            ("tied", self.shared()),
            ("bounded", self.bounded()),
            ("traced", self.traced()),
            ("stays as it is", self.ambiguous()),
        ]

    def text(self) -> str:
        """Return the table as aligned text."""
        protected = [f"  {reason}: {axes}" for reason, axes in self.protected()]
        table = aligned([COLUMNS, *self.rows()], "<<>>>")
        said = [line for head, lines in self.sections() if lines for line in (head, *(f"  {each}" for each in lines))]
        return "\n".join([self.title(), *table, *said, "protected", *protected, *self.weights])

    def html(self) -> str:
        """Return the table for a notebook."""
        protected = "".join(f"<li>{html.escape(reason)}: {html.escape(axes)}</li>" for reason, axes in self.protected())
        said = [line for _, lines in [*self.sections(), ("", self.weights)] for line in lines]
        weights = "".join(f"<br>{html.escape(line)}" for line in said)
        return (
            f"<p>{html.escape(self.title())}{weights}</p>{html_table([COLUMNS, *self.rows()])}"
            f"<details><summary>protected</summary><ul>{protected}</ul></details>"
        )


def aligned(rows: Sequence[tuple[str, ...]], sides: str) -> list[str]:
    """Return rows of text in columns, each to the left (`<`) or to the right (`>`)."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in rows
    ]


def html_table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows of text, the first of them the head, as a table for a notebook."""
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = "".join(f"<tr><td>{'</td><td>'.join(row)}</td></tr>" for row in body)
    return f"<table><thead><tr><th>{'</th><th>'.join(head)}</th></tr></thead><tbody>{lines}</tbody></table>"
