"""All feasible points of a grid, without walking the whole product.

A count that never rises with what is removed bounds what a part of a point can become: with the other groups at their
lowest levels it is as large as it gets, at their highest as small. Parts that cannot reach the band any more are
dropped, group by group.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

IntArray = NDArray[np.int64]

# Parts of points that are carried on at once: about 10 MB for each ten groups.
CHUNK = 100_000


def feasible_points(
    levels: Sequence[IntArray],
    excess: Callable[[NDArray[Any]], NDArray[np.float64]],
    width: float,
    most: float = np.inf,
) -> IntArray:
    """Return all points (N, G) of the product of `levels` with |excess| <= width, the last group varying fastest.

    Args:
        levels: For each of G groups the units that may be removed, ascending.
        excess: Units removed (..., G) -> (...); falls as they rise.
        width: Half the width of the band.
        most: Where there are more points, no more are looked for than it takes to know that.
    """
    lowest = np.array([level[0] for level in levels])
    highest = np.array([level[-1] for level in levels])
    found, number = [np.zeros((0, len(levels)), np.int64)], 0
    waiting = [(0, lowest[None])]
    while waiting and number <= most:
        group, points = waiting.pop()
        if group == len(levels):
            found.append(points)
            number += len(points)
            continue
        tried = np.repeat(points, len(levels[group]), axis=0)
        tried[:, group] = np.tile(levels[group], len(points))
        fullest = tried.copy()
        fullest[:, group + 1 :] = highest[group + 1 :]
        tried = tried[(excess(tried) >= -width) & (excess(fullest) <= width)]
        parts = [tried[i : i + CHUNK] for i in range(0, len(tried), CHUNK)]
        waiting += [(group + 1, part) for part in reversed(parts)]
    return np.concatenate(found)
