"""The scores that an importance gives, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from optuna_softprune.graph import copy_with

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from optuna_softprune.graph import Group
    from optuna_softprune.importance._protocol import Importance

FloatArray = NDArray[np.float64]


def checked_scores(importance: Importance, model: nn.Module, groups: Sequence[Group]) -> tuple[FloatArray, ...]:
    """Return for each group the checked scores of its units."""
    readable = copy_with(model, lambda _, tensor: tensor).eval()
    given = importance.scores(readable, groups)
    if isinstance(given, (Mapping, str)) or not hasattr(given, "__iter__"):
        raise TypeError(
            f"Expected `importance.scores` to return a vector for each group in the order of `groups`, but got "
            f"{type(given).__name__}: write `return [found[group.name] for group in groups]`."
        )
    vectors = list(given)
    if len(vectors) != len(groups):
        raise ValueError(
            f"Expected `importance` to give scores for each of the {len(groups)} groups, but got {len(vectors)}."
        )
    scores = [_numbers(group, vector) for group, vector in zip(groups, vectors, strict=True)]
    for group, values in zip(groups, scores, strict=True):
        if values.shape != (group.size,) or not np.isfinite(values).all():
            raise ValueError(
                f"Expected the scores of `{group.name}` to be finite and of shape ({group.size},), but got shape "
                f"{values.shape} with {int((~np.isfinite(values)).sum())} values that are not finite."
            )
    return tuple(scores)


def _numbers(group: Group, vector: object) -> FloatArray:
    """Return the scores of a group, however they are held."""
    held = vector.detach().double().cpu().numpy() if isinstance(vector, torch.Tensor) else np.asarray(vector)
    if held.dtype.kind not in "biuf":
        raise TypeError(
            f"Expected the scores of `{group.name}` to be real numbers, but got a {type(vector).__name__} of "
            f"{held.dtype}."
        )
    return held.astype(np.float64)
