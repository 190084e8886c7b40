"""What is handed over by mistake is named, with what to write instead; what is shown says what it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import optuna
import pytest
import torch
from torch import nn

from optuna_softprune import (
    Magnitude,
    PruningObjective,
    PruningSpace,
    SparsityConstraint,
    compare,
    load_pruned,
    open_storage,
    save_pruned,
    summary,
    visualization,
)
from optuna_softprune.samplers import FeasibleGridSampler, ProjectedSampler
from optuna_softprune.shipping import read_plan

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
MODEL = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
SPACE = PruningSpace(MODEL, (X,))
CONSTRAINT = SparsityConstraint(SPACE, 0.5, tolerance=0.05)
SMALL = SPACE.prune({"0": 0.5, "2": 0.5})


def size(network: nn.Module) -> float:
    return network(X).abs().mean().item()


def searched_with(metric: Callable[[nn.Module], Any]) -> None:
    optuna.create_study(direction="maximize").optimize(PruningObjective(SPACE, metric), n_trials=1)


def returning(value: Any) -> Callable[[nn.Module], Any]:
    def metric(network: nn.Module) -> Any:
        network(X)
        return value

    return metric


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (lambda: SparsityConstraint(MODEL, 0.5), r"Expected `space` to be a `PruningSpace`, but got Sequential"),
        (lambda: PruningSpace(MODEL, (X,), components=[MODEL[0]]), r"Expected `components` to be a mapping.*got list"),
        (lambda: PruningSpace(MODEL, (X,), ignored=(MODEL[0],)), r"Expected `ignored` to be.*names, but got.*Linear"),
        (lambda: PruningSpace(MODEL, (X,), ignored=MODEL[0]), r"Expected `ignored` to be.*names, but got.*Linear"),
        (lambda: PruningSpace(MODEL, (X,), tied=(MODEL[0],)), r"Expected `tied` to be.*names, but got.*Linear"),
        (lambda: PruningSpace(MODEL, (X,), importance=Magnitude), r"but got the class Magnitude: write `Magnitude\("),
        (lambda: PruningSpace(nn.ReLU, (X,)), r"but got the class ReLU: write `ReLU\("),
        (lambda: load_pruned("small.safetensors", nn.ReLU), r"but got the class ReLU: write `ReLU\("),
        (lambda: save_pruned("small.safetensors", SMALL), r"Expected `small` to be a `torch.nn.Module`, but got str"),
        (
            lambda: ProjectedSampler(optuna.samplers.TPESampler, CONSTRAINT),
            r"but got the class TPESampler: write `TPESampler\(",
        ),
        (lambda: open_storage(None), r"Expected `url_or_path` to be an address or a path, but got None"),
        (lambda: visualization.plot_sparsity("autoencoder"), r"Expected `study` to be an Optuna study, but got 'auto"),
        (lambda: searched_with(returning({})), r"a mapping of names to floats, but got \{\}: name what is measured"),
        (lambda: searched_with(returning({1: 0.5})), r"but got \{1: 0.5\}: names are texts"),
        (lambda: searched_with(returning({"a": "0.5"})), r"`a` is a str: return the number that it was made of"),
        (lambda: searched_with(returning({"a": X.mean()})), r"`a` is a Tensor: write `.item\(\)` behind the tensor"),
    ],
)
def test_what_is_of_another_kind_is_named(mistake: Callable[[], Any], words: str) -> None:
    with pytest.raises(TypeError, match=words):
        mistake()


def test_networks_in_the_wrong_order_are_said() -> None:
    with pytest.raises(ValueError, match=r"Expected `small` to have no more parameters than `dense`.*other order"):
        summary(SMALL, MODEL, (X,))


def test_a_file_that_cannot_be_written_is_named_as_it_was_given(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no/small.safetensors'$"):
        save_pruned(SMALL, tmp_path / "no/small.safetensors")
    with pytest.raises(IsADirectoryError, match=rf"{tmp_path.name}'$"):
        save_pruned(SMALL, tmp_path)
    assert not [*tmp_path.parent.glob("*.partial"), *tmp_path.glob("*")]


def test_what_is_shown_in_a_notebook_says_what_it_is() -> None:
    grid = FeasibleGridSampler(SPACE, CONSTRAINT, levels=5)
    objective = PruningObjective(SPACE, size, CONSTRAINT, directions=("minimize",))
    assert repr(objective) == f"PruningObjective(metric=size, minimize metric, constraint={CONSTRAINT!r})"
    assert repr(grid) == f"FeasibleGridSampler({len(grid)} points, constraint={CONSTRAINT!r})"
    assert repr(FeasibleGridSampler(SPACE, levels=3)) == "FeasibleGridSampler(9 points, constraint=None)"
    base = optuna.samplers.RandomSampler(seed=0)
    assert repr(ProjectedSampler(base, CONSTRAINT)) == f"ProjectedSampler({base}, {CONSTRAINT!r})"


def test_every_report_is_a_table_in_a_notebook(tmp_path: Path) -> None:
    save_pruned(SMALL, tmp_path / "small.safetensors")
    plan = read_plan(tmp_path / "small.safetensors")
    reports: list[Any] = [SPACE, summary(MODEL, SMALL, (X,)), compare(MODEL, SMALL, (X,), repetitions=1), plan]
    cells = ["<td>8</td><td>80</td>", "<td>4 / 8</td>", "<td>small</td>", "<td>4 of 8</td>"]
    for report, cell in zip(reports, cells, strict=True):
        shown = report._repr_html_()
        assert cell in shown
        assert shown.count("<table>") == shown.count("</table>") == 1
        assert shown.count("<tr>") == shown.count("</tr>")
