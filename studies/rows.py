"""The rows of a study: a CSV file that knows what it has, so that a study that was killed goes on."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Row: TypeAlias = dict[str, Any]


class Rows:
    """Rows of text and numbers under the same columns.

    Args:
        columns: Their names; the first `keys` of them tell rows apart.
        file: Where they are kept; None keeps them in memory.
    """

    def __init__(self, columns: Sequence[str], keys: int, file: Path | None) -> None:
        self.columns, self._keys, self._file = tuple(columns), keys, file
        self._rows: dict[tuple[Any, ...], Row] = {}
        if file is not None and file.exists():
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
            self._take({name: round(v, 5) if isinstance(v := row.get(name, ""), float) else v for name in self.columns})
        if self._file is not None:
            write(list(self), self._file)

    def _take(self, row: Row) -> None:
        self._rows[tuple(row[name] for name in self.columns[: self._keys])] = row


def write(rows: Sequence[Row], file: Path) -> None:
    """Write rows under the columns of the first, the whole file or nothing."""
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(file)


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
