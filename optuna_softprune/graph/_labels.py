"""Labels: which indices of which axes are removed together.

| symbol | meaning | shape |
| --- | --- | --- |
| label | a number for "this index may be removed"; 0 cannot be removed, below 0 it is not settled yet | scalar |
| layer | the labels of a tensor's elements: an element goes when its label goes | the tensor's |
| value | the layers of a tensor, one for each of its axes that can shrink | tuple of layers |

Labels that are united are one unit in the end. The first labels are those of the indices of parameters, buffers
and module attributes, an axis at a time; operations carry them on.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from optuna_softprune.graph._reasons import Reason, told

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from numpy.typing import NDArray
    from torch.fx import Node


class Layer(NamedTuple):
    """Labels of a tensor's elements, int64, of the tensor's shape, and the axes along which they vary."""

    labels: Tensor
    axes: tuple[int, ...]


Value = tuple[Layer, ...]
Place = tuple[int, int]  # of labels: the first, and the one behind the last


def layer(labels: Tensor) -> Layer:
    """Return `labels` with stride 0 on every axis along which they do not vary."""
    short = once(labels)
    axes = tuple(axis for axis, length in enumerate(short.shape) if length > 1 and not _constant(short, axis))
    return Layer(flat(short, [a for a in range(short.dim()) if a not in axes], labels.shape), axes)


def _constant(labels: Tensor, axis: int) -> bool:
    return torch.equal(labels, labels.narrow(axis, 0, 1).expand(labels.shape))


def _at_first(labels: Tensor, axes: Collection[int]) -> Tensor:
    """Return `labels` at index 0 of `axes`, which have length 1 then: a view, made in one step."""
    short = [1 if axis in axes else length for axis, length in enumerate(labels.shape)]
    return labels.as_strided(short, labels.stride(), labels.storage_offset())


def once(labels: Tensor) -> Tensor:
    """Return `labels` with length 1 on every axis that stride 0 repeats."""
    sizes = zip(labels.stride(), labels.shape, strict=True)
    repeated = [axis for axis, (stride, length) in enumerate(sizes) if stride == 0 and length > 1]
    return _at_first(labels, repeated) if repeated else labels


def flat(labels: Tensor, axes: Iterable[int], shape: Sequence[int]) -> Tensor:
    """Return `labels` at index 0 of `axes`, spread over `shape` (same number of axes)."""
    return _at_first(labels, set(axes)).expand(tuple(shape))


def vector(labels: Tensor, axis: int) -> Tensor:
    """Return the labels along one axis, at index 0 of all others."""
    return labels.as_strided((labels.shape[axis],), (labels.stride(axis),), labels.storage_offset())


def alike(one: Layer, other: Layer) -> bool:
    """Whether two layers of one tensor are the same."""
    return one.axes == other.axes and torch.equal(once(one.labels), once(other.labels))


def is_open(found: Layer) -> bool:
    """Whether a layer depends on a choice that is not made yet."""
    return bool((once(found.labels) < 0).any())


def along(labels: Tensor, axis: int, shape: Sequence[int]) -> Layer:
    """Return the layer of `shape` that has the vector `labels` along `axis`."""
    view = [1] * len(shape)
    view[axis] = -1
    return layer(labels.reshape(view).expand(tuple(shape)))


class Labels:
    """All labels, the unions and protections found, and the classes found by the passes before."""

    def __init__(self) -> None:
        self.tensors: dict[tuple[str, int], Place] = {}
        self.attributes: dict[tuple[str, str, int | None], Place] = {}
        self.made: dict[tuple[Node, int], Place] = {}
        self.representative: NDArray[np.int64] = np.zeros(1, np.int64)
        self._count = 1
        self._edges: list[NDArray[np.int64]] = []
        self._united: list[tuple[NDArray[np.int64], Reason, Reason]] = []
        self._why_united: dict[int, list[Reason]] = {}
        self._moved: NDArray[np.int64] = np.zeros(1, np.int64)
        self._protected: dict[Node | None, list[tuple[NDArray[np.int64], Reason]]] = {}
        self.on_behalf_of(None, [])

    def on_behalf_of(self, node: Node | None, places: list[Place]) -> None:
        """Note in `places` which labels are read from now on, and that what is protected is protected for `node`."""
        self._places, self._owner = places, self._protected.setdefault(node, [])

    def begin(self, node: Node | None) -> None:
        """Forget what was protected for `node`."""
        self._protected[node].clear()

    def of_tensor(self, name: str, axis: int, length: int) -> Tensor:
        """Return the labels (length,) of an axis of a parameter or buffer, new ones when it is met first."""
        if (name, axis) not in self.tensors:
            self.tensors[name, axis] = self._new(length)
        return self._of(self.tensors[name, axis])

    def of_attribute(self, module: str, name: str, index: int | None, length: int) -> Tensor:
        """Return labels (length,) that an integer attribute of a module counts."""
        if (module, name, index) not in self.attributes:
            self.attributes[module, name, index] = self._new(length)
        return self._of(self.attributes[module, name, index])

    def of_made(self, node: Node, axis: int, length: int) -> Tensor:
        """Return labels (length,) of an axis of a tensor that the forward pass makes."""
        if (node, axis) not in self.made:
            self.made[node, axis] = self._new(length)
        return self._of(self.made[node, axis])

    def _new(self, length: int) -> Place:
        start, self._count = self._count, self._count + length
        known = len(self.representative)
        if self._count > known:  # grow by doubling: the cost of all places together stays linear
            fresh = np.arange(known, max(self._count, 2 * known))
            self.representative = np.concatenate([self.representative, fresh])
        return start, self._count

    def _of(self, place: Place) -> Tensor:
        self._places.append(place)
        return torch.from_numpy(self.representative[slice(*place)])

    def has_moved(self, place: Place) -> bool:
        """Whether labels became those of other classes by the last unions."""
        first, stop = place
        return stop < len(self._moved) and bool(self._moved[stop] > self._moved[first])

    def unite(self, first: Tensor, second: Tensor, reason: Reason) -> None:
        """Make one unit of the labels that face each other (broadcast); a label that faces 0 is protected."""
        shape = np.broadcast_shapes(first.shape, second.shape)
        first, second = first.expand(shape), second.expand(shape)
        repeated = [
            a for a, strides in enumerate(zip(first.stride(), second.stride(), strict=True)) if strides == (0, 0)
        ]
        a, b = (_at_first(each, repeated).numpy().ravel() for each in (first, second))
        if (a == b).all():
            return
        both = (a > 0) & (b > 0)
        self._edges.append(np.stack([a[both & (a != b)], b[both & (a != b)]]))
        self.protect(torch.from_numpy((a + b)[(a == 0) | (b == 0)]), reason)

    def unite_along(self, labels: Tensor, head: Tensor, reason: Reason, place: Reason) -> None:
        """Make one unit of the labels of a tensor along some axes, at index 0 of which they are `head`.

        Of units that are all one it is then said that this is why: for `reason`, at `place`.
        """
        self._united.append((np.unique(once(head).numpy()), reason, place))
        self.unite(labels, head, reason)

    def why_united(self, labels: Tensor) -> str:
        """Return why labels that are all one were united, and where, or an empty string."""
        one = int(self.representative[int(once(labels).flatten()[0])])
        return " by ".join(filter(None, map(told, self._why_united.get(one, ()))))

    def protect(self, labels: Tensor, reason: Reason) -> None:
        """Keep `labels`: what carries them cannot be removed, for `reason`."""
        found = np.unique(once(labels).numpy())
        found = found[found > 0]
        if found.size:
            self._owner.append((found, reason))

    @property
    def protected(self) -> NDArray[np.int64]:
        """The labels that are protected as things stand."""
        found = itertools.chain(*self._protected.values())
        return np.concatenate([np.zeros(0, np.int64), *(labels for labels, _ in found)])

    def merge(self) -> bool:
        """Make classes of the unions met so far; return whether there were any."""
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        edges = np.concatenate([np.zeros((2, 0), np.int64), *self._edges], axis=1)
        self._edges = []
        if not edges.size:
            self._moved = np.zeros(1, np.int64)
            return False
        labels = len(self.representative)
        links = coo_array((np.ones(edges.shape[1], bool), (edges[0], edges[1])), shape=(labels, labels))
        _, component = connected_components(links, directed=False)
        smallest = np.full(component.max() + 1, labels)
        np.minimum.at(smallest, component, np.arange(labels))
        before, self.representative = self.representative, smallest[component][self.representative]
        self._moved = np.concatenate([[0], np.cumsum(self.representative != before)])
        return True

    def classes(self) -> tuple[NDArray[np.int64], dict[int, str]]:
        """Return label -> class (0 if protected), and representative label -> reason for the protected ones."""
        found: dict[int, Reason] = {}
        for labels, reason in itertools.chain(*self._protected.values()):
            for label in np.unique(self.representative[labels]).tolist():
                found.setdefault(label, reason)
        for united, *why in reversed(self._united):
            self._why_united.update(dict.fromkeys(np.unique(self.representative[np.abs(united)]).tolist(), why))
        texts = {id(reason): told(reason) for reason in found.values()}
        reasons = {label: texts[id(reason)] for label, reason in found.items()}
        classes = self.representative.copy()
        classes[np.isin(classes, list(reasons))] = 0
        return classes, reasons
