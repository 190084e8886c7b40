"""Sentences of documentation that ships with Python packages, and how well a network keeps their neighbours.

| symbol | meaning | shape |
| --- | --- | --- |
| tokens | numbers of a sentence's word pieces, 0 behind its end | (N, 24) |
| mask | 1 where a sentence has a token | (N, 24) |
| embeddings | what a network makes of sentences, of length 1 | (N, wide) |
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy.stats import rankdata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

PACKAGES = {"calibration": ("numpy",), "validation": ("scipy",), "test": ("sklearn", "optuna")}
WORDS = (6, 40)
NEAREST = 10


@functools.cache
def pool(packages: tuple[str, ...]) -> tuple[str, ...]:
    """Return all different sentences of packages that have 6 to 40 words."""
    found = dict.fromkeys(text for package in packages for text in _documented(package))
    return tuple(text for text in found if WORDS[0] <= len(text.split()) <= WORDS[1])


def _documented(package: str) -> Iterator[str]:
    """Yield the first sentence of every docstring of a package, file by file, without importing it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    root = Path(spec.submodule_search_locations[0])
    for file in sorted(root.rglob("*.py")):
        if {"tests", "testing", "_vendor"} & set(file.relative_to(root).parts):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
                yield " ".join(re.split(r"\n\s*\n|\. ", ast.get_docstring(node) or "")[0].split())


def drawn(packages: tuple[str, ...], count: int, seed: int) -> list[str]:
    """Return some of the sentences of packages."""
    texts = pool(packages)
    return [texts[place] for place in sorted(np.random.default_rng(seed).permutation(len(texts))[:count])]


def embeddings(network: nn.Module, tokens: Tensor, mask: Tensor) -> Tensor:
    """Return embeddings (N, wide)."""
    with torch.no_grad():
        found: Tensor = network(tokens, mask)
    return found


def _cosines(found: Tensor) -> Tensor:
    """Return the cosines of all pairs (N, N); a sentence is no neighbour of itself."""
    return (found @ found.T).fill_diagonal_(-2.0)


def recall(found: Tensor, dense: Tensor) -> float:
    """Return recall@10: what share of a sentence's ten nearest by the dense network are among its ten nearest."""
    a, b = (_cosines(each).topk(NEAREST).indices for each in (found, dense))
    return (a.unsqueeze(2) == b.unsqueeze(1)).any(2).float().mean().item()


def rank_correlation(found: Tensor, dense: Tensor) -> float:
    """Return Spearman's rank correlation of a sentence's cosines to all others, the mean over sentences."""
    ranks = (rankdata(_cosines(each).numpy(), axis=1) for each in (found, dense))
    a, b = (each - each.mean(1, keepdims=True) for each in ranks)
    return float(np.mean((a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))))
