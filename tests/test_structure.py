"""Arrows point downwards only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import optuna_softprune

ROOT = Path(optuna_softprune.__file__).parent
# Folder -> what it must not import.
FORBIDDEN = {
    "graph": ("optuna", "optuna_softprune.importance", "optuna_softprune.coefficients", "optuna_softprune.removal"),
    "program": (
        "optuna",
        "optuna_softprune.importance",
        "optuna_softprune.coefficients",
        "optuna_softprune.reconstruction",
        "optuna_softprune.plan",
        "optuna_softprune.removal",
        "optuna_softprune.evaluation",
    ),
    "calibration": ("optuna", "optuna_softprune.importance", "optuna_softprune.coefficients"),
    "importance": ("optuna", "optuna_softprune.coefficients", "optuna_softprune.reconstruction"),
    "coefficients": ("optuna", "torch", "optuna_softprune.importance", "optuna_softprune.removal"),
    "reconstruction": ("optuna", "optuna_softprune.importance", "optuna_softprune.removal"),
    "plan": ("optuna", "optuna_softprune.importance", "optuna_softprune.coefficients", "optuna_softprune.removal"),
    "shipping": ("optuna", "optuna_softprune.objective", "optuna_softprune.samplers", "optuna_softprune.evaluation"),
    "removal": ("optuna", "optuna_softprune.importance", "optuna_softprune.objective", "optuna_softprune.evaluation"),
    "evaluation": (
        "optuna",
        "optuna_softprune.importance",
        "optuna_softprune.coefficients",
        "optuna_softprune.objective",
    ),
    "report": ("optuna", "optuna_softprune.objective", "optuna_softprune.samplers", "optuna_softprune.evaluation"),
    "visualization": ("torch", "optuna_softprune.samplers", "optuna_softprune.dashboard"),
    "numerics": ("optuna", "torch", "optuna_softprune.samplers", "optuna_softprune.storage"),
    "samplers": ("torch", "optuna_softprune.graph", "optuna_softprune.removal", "optuna_softprune.objective"),
    "storage": ("torch", "optuna_softprune.samplers", "optuna_softprune.objective"),
    "": ("torchvision", "torch_pruning", "sklearn", "matplotlib"),
}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize(("folder", "forbidden"), FORBIDDEN.items())
def test_imports_point_downwards(folder: str, forbidden: tuple[str, ...]) -> None:
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    wrong = [
        (path.name, name)
        for path in files
        for name in imports(path)
        for no in forbidden
        if name == no or name.startswith(f"{no}.")
    ]
    assert not wrong


def test_import_leaves_to_their_users_what_takes_long_to_import() -> None:
    said = "import sys, optuna_softprune.samplers; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True).stdout.split()
    heavy = ("sqlalchemy", "scipy.optimize", "scipy.linalg", "scipy.sparse", "plotly", "matplotlib", "triton")
    already = subprocess.run(
        [sys.executable, "-c", "import sys, torch, optuna; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert [name for name in heavy if name in loaded and name not in already] == []


def test_public_names_are_there_and_documented() -> None:
    for name in optuna_softprune.__all__:
        assert getattr(optuna_softprune, name).__doc__
