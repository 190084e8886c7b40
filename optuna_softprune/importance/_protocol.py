"""What an importance is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from optuna_softprune.graph import Group

Scores = NDArray[np.float64]


@runtime_checkable
class Importance(Protocol):
    """Scores the units of groups; the units with the lowest scores are removed first.

    Any object with a method `scores` of this form can be given as `importance` to a search space.
    """

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> Sequence[Scores]:
        """Return one vector (group.size,) of finite scores for each group.

        Args:
            model: The dense network in eval mode: a copy that shares its weights with the user's and must not
                write to them.
            groups: The groups; `group.slices` names the parameters and the indices that go with each unit.
        """
        ...
