"""Tables in the READMEs are those that the studies make of their results."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from studies.classifier import run as classifier
from studies.controller import run as controller
from studies.evaluation_speed import looks
from studies.evaluation_speed import run as evaluation_speed
from studies.families import run as families
from studies.mnist_autoencoder import tables as mnist_autoencoder
from studies.peers import run as peers
from studies.pitch import run as pitch
from studies.reconstruction import run as reconstruction
from studies.rows import Rows, markdown
from studies.samplers import analytic
from studies.training_on import run as training_on
from studies.widths import run as widths

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).parents[1]


def missing(lines: list[str], readme: Path) -> list[str]:
    text = readme.read_text().splitlines()
    return [line for line in lines if line.startswith("|") and line not in text]


def test_tables_of_the_autoencoders_are_made_of_the_results() -> None:
    folder = ROOT / "studies/mnist_autoencoder"
    tables = mnist_autoencoder.tables_in(folder)
    assert not missing(mnist_autoencoder.summary(tables), folder / "README.md")
    chosen = [row for row in tables.results if row["target"] and ":" not in row["method"]]
    assert all(abs(row["sparsity"] - row["target"]) <= 0.005 + 1e-5 for row in chosen)


def test_tables_of_the_peers_are_made_of_the_results() -> None:
    rows = Rows(peers.COLUMNS, 4, ROOT / "studies/peers/results.csv")
    assert not missing([*peers.summary(rows), *peers.leads(rows)], ROOT / "studies/peers/README.md")


def test_tables_of_the_pitch_tracker_are_made_of_the_results() -> None:
    rows = Rows(pitch.COLUMNS, 3, pitch.FILE)
    assert not missing(pitch.tables(rows), ROOT / "studies/pitch/README.md")
    assert not missing(pitch.first_screen(rows), ROOT / "README.md")


def test_tables_of_searches_of_many_groups_are_made_of_the_results() -> None:
    lines = analytic.tables(Rows(analytic.COLUMNS, len(analytic.KEYS), analytic.FILE))
    assert len(lines) > 40
    assert not missing(lines, analytic.FILE.parent / "README.md")


def test_tables_of_reconstruction_are_made_of_the_results() -> None:
    rows = Rows(reconstruction.COLUMNS, len(reconstruction.KEYS), reconstruction.FILE)
    assert not missing(reconstruction.tables(rows), ROOT / "studies/reconstruction/README.md")
    assert all(
        abs(row["sparsity"] - row["target"]) <= 0.005 + 1e-5 for row in rows if row["method"].startswith("search")
    )


def test_tables_of_the_families_are_made_of_the_results() -> None:
    rows = Rows(families.COLUMNS, 1, families.FILE)
    lines = families.tables(rows)
    assert not missing(lines, ROOT / "studies/families/README.md")
    assert not [row["network"] for row in rows if row["verdict"] == "wrong"]


@pytest.mark.parametrize("study", [controller, classifier, widths], ids=["controller", "classifier", "widths"])
def test_tables_of_other_studies_are_made_of_the_results(study: ModuleType) -> None:
    lines = study.tables(Rows(study.COLUMNS, study.KEYS, study.FILE))
    assert len(lines) > 20
    assert not missing(lines, study.FILE.parent / "README.md")


def test_tables_of_evaluation_speed_are_made_of_the_results() -> None:
    folder = ROOT / "studies/evaluation_speed"
    lines = evaluation_speed.tables(evaluation_speed.speeds_in(folder))
    lines += markdown(Rows(looks.COLUMNS, 2, looks.FILE))
    assert len(lines) > 28
    assert not missing(lines, folder / "README.md")


def test_tables_of_training_on_are_made_of_the_results() -> None:
    lines = training_on.tables(Rows(training_on.COLUMNS, len(training_on.KEYS), training_on.FILE))
    assert len(lines) > 15
    assert not missing(lines, training_on.FILE.parent / "README.md")
