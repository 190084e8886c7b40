"""The rows of a study: a CSV file that knows what it has, so that a study that was killed goes on."""

from __future__ import annotations

import csv
import itertools
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

Row: TypeAlias = dict[str, Any]


class Rows:
    """Rows of text and numbers under the same columns.

    Args:
        columns: Their names; the first `keys` of them tell rows apart.
        file: Where they are kept.
    """

    def __init__(self, columns: Sequence[str], keys: int, file: Path) -> None:
        self.columns, self._keys, self.file = tuple(columns), keys, file
        self._rows: dict[tuple[Any, ...], Row] = {}
        if file.exists():
            with file.open(newline="") as lines:
                for row in csv.DictReader(lines):
                    self._take({name: _value(text) for name, text in row.items()})

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows.values())

    def __contains__(self, key: tuple[Any, ...]) -> bool:
        return key in self._rows

    def __getitem__(self, key: tuple[Any, ...]) -> Row:
        return self._rows[key]

    def where(self, **values: Any) -> list[Row]:
        """Return the rows with these values."""
        return [row for row in self if all(row[name] == value for name, value in values.items())]

    def keep(self, *rows: Row) -> None:
        """Add rows, in place of those with the same key, and write the file."""
        for row in rows:
            self._take({name: _short(row.get(name, "")) for name in self.columns})
        partial = self.file.with_suffix(".partial")
        with partial.open("w", newline="") as lines:
            writer = csv.DictWriter(lines, self.columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self)
        partial.replace(self.file)  # the whole file or nothing

    def _take(self, row: Row) -> None:
        self._rows[tuple(row[name] for name in self.columns[: self._keys])] = row


def markdown(rows: Iterable[Row]) -> list[str]:
    """Return rows as the lines of a table, under the columns of the first."""
    found = list(rows)
    lines = [found[0], itertools.repeat("---", len(found[0])), *(row.values() for row in found)] if found else []
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def _short(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
