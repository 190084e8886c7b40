"""How a study is run: its arguments, what it prints, and that nothing is measured twice."""

from __future__ import annotations

import argparse
import inspect
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import optuna
import torch

from studies.rows import Rows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Kept = TypeVar("Kept")


def command(
    measure: Callable[[Rows, bool], None],
    tables: Callable[[Rows], list[str]],
    *,
    columns: Sequence[str],
    keys: int,
    file: Path,
    quick: str,
) -> None:
    """Measure what is missing in a file of rows, and print the tables that they make.

    Args:
        measure: `(rows, quick)`: keeps the rows that are missing.
        tables: Lines in Markdown from rows.
        columns: Names of the columns.
        keys: So many of the first columns tell rows apart.
        file: Where rows are kept.
        quick: What `--quick` does; its rows are not kept.
    """
    run(measure, tables, lambda folder: Rows(columns, keys, folder / file.name), folder=file.parent, quick=quick)


def run(
    measure: Callable[[Kept, bool], None],
    tables: Callable[[Kept], list[str]],
    kept_in: Callable[[Path], Kept],
    *,
    folder: Path,
    quick: str,
) -> None:
    """Measure what is missing in what a study keeps, its files in a folder; with `--quick` in one that goes away."""
    parser = argparse.ArgumentParser(description=inspect.getmodule(measure).__doc__)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--tables", action="store_true", help="print the tables of what was measured, and nothing else")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    torch.set_num_threads(1)  # a second one gains nothing in networks this small
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    with tempfile.TemporaryDirectory() as temporary:
        kept = kept_in(Path(temporary) if arguments.quick else folder)
        start = time.perf_counter()
        if not arguments.tables:
            measure(kept, arguments.quick)
        print("\n".join(tables(kept)))
        print(f"{(time.perf_counter() - start) / 60:.1f} minutes in this run")
