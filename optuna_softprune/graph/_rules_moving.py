"""Rules of operations that only move elements: what they do with the tensor they do with its labels.

The removed network runs the user's own code. So where that code counts positions along an axis that shrinks (a
slice, an index, a roll), what it counts must not move; where it may have computed the count from the shape (half
of the channels), equal pieces must shrink alike. Verification tells which it was.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from optuna_softprune.graph._labels import Layer, Value, along, flat, is_open, layer, vector
from optuna_softprune.graph._operation import operation_name
from optuna_softprune.graph._rules_mixing import COUNTED

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor
    from torch.fx import Node

    from optuna_softprune.graph._propagate import Propagation

PIECES = "pieces that must stay alike"


def _map(value: Value, operation: Callable[[Tensor], Tensor]) -> Value:
    return tuple(layer(operation(found.labels)) for found in value)


def same_on_labels(p: Propagation, node: Node, x: Node, *args: Any, **kwargs: Any) -> Value:
    """Run the operation itself on the labels."""
    operation: Any = node.target
    return _map(p.value(x), lambda labels: operation(labels, *args, **kwargs))


def channel_shuffle(p: Propagation, node: Node, x: Node, groups: int) -> Value:
    """Deal the channels (axis 1) of `groups` equal pieces out in turn; the pieces shrink alike."""
    _unite_pieces(p, p.value(x), 1, p.shape(x)[1] // groups)
    return same_on_labels(p, node, x, groups)


def reshape(p: Propagation, node: Node, x: Node, *args: Any, **kwargs: Any) -> Value:
    """Give the labels the new shape; along leading axes that stay they are not spread."""
    shape = p.shape(node)
    return _map(p.value(x), lambda labels: _reshaped(labels, shape))


def _reshaped(labels: Tensor, shape: tuple[int, ...]) -> Tensor:
    if labels.dim() > 1 and len(shape) > 1 and labels.shape[0] == shape[0] and labels.stride(0) == 0:
        return _reshaped(labels[0], shape[1:]).expand(shape)
    return labels.reshape(shape)


def unflatten(p: Propagation, node: Node, x: Node, dim: int, sizes: Sequence[int]) -> Value:
    """Unflatten an axis; the sizes that `nn.Unflatten` states follow."""
    value = reshape(p, node, x)
    start = dim % len(p.shape(x))
    for found in value:
        if len(found.axes) == 1 and start <= found.axes[0] < start + len(sizes):
            p.attribute(node, "unflattened_size", vector(found.labels, found.axes[0]), found.axes[0] - start)
    return value


def expand(p: Propagation, node: Node, x: Node, *args: Any, **kwargs: Any) -> Value:
    """Broadcast to the shape of the output; the axes that this makes longer follow whatever they meet."""
    shape = p.shape(node)
    own = [1] * (len(shape) - len(p.shape(x))) + list(p.shape(x))
    follow = [along(-torch.arange(1, shape[a] + 1), a, shape) for a in range(len(shape)) if own[a] == 1 < shape[a]]
    return (*_map(p.value(x), lambda labels: labels.expand(shape)), *follow)


def cat(p: Propagation, node: Node, sources: Sequence[Node], dim: int = 0) -> Value:
    """Join along `dim`: there each source keeps its labels, what has none gets 0."""
    shapes = [p.shape(source) for source in sources]
    parts = [p.value(source) for source in sources]
    axis = dim % len(p.shape(node))
    return _joined(p, parts, shapes, axis)


def stack(p: Propagation, node: Node, sources: Sequence[Node], dim: int = 0) -> Value:
    """Join along a new axis."""
    axis = dim % len(p.shape(node))
    shapes = [(*p.shape(s)[:axis], 1, *p.shape(s)[axis:]) for s in sources]
    parts = [_map(p.value(source), lambda labels: labels.unsqueeze(axis)) for source in sources]
    return _joined(p, parts, shapes, axis)


def _joined(p: Propagation, parts: Sequence[Value], shapes: Sequence[tuple[int, ...]], axis: int) -> Value:
    layers: list[dict[int, Layer]] = []
    for i, value in enumerate(parts):
        taken: set[int] = set()
        for found in value:
            meets = [
                k
                for k, known in enumerate(layers)
                if k not in taken and any(set(found.axes) & set(other.axes) for other in known.values())
            ]
            if not meets:
                layers.append({})
                meets = [len(layers) - 1]
            layers[meets[0]][i] = found
            taken.add(meets[0])
    joined = []
    for known in layers:
        if len(known) < len(parts) and any(is_open(found) for found in known.values()):
            continue
        pieces = [
            known[i].labels if i in known else torch.zeros(1, dtype=torch.int64).expand(shape)
            for i, shape in enumerate(shapes)
        ]
        joined.append(layer(_cat_compact(pieces, axis)))
    return tuple(joined)


def _cat_compact(pieces: Sequence[Tensor], axis: int) -> Tensor:
    """Concatenate, with axes along which no piece varies left at length 1 until the end."""
    still = [a for a in range(pieces[0].dim()) if a != axis and all(piece.stride(a) == 0 for piece in pieces)]
    shape = list(pieces[0].shape)
    shape[axis] = sum(piece.shape[axis] for piece in pieces)
    for a in still:
        pieces = [piece.narrow(a, 0, 1) for piece in pieces]
    return torch.cat(list(pieces), axis).expand(shape)


def split(p: Propagation, node: Node, x: Node, sizes: Any, dim: int = 0) -> list[Value]:
    """Cut into pieces; equal pieces along an axis that shrinks shrink alike, unequal ones keep their length."""
    lengths = [out.shape[dim] for out in node.meta["val"]]
    value = p.value(x)
    axis = dim % len(p.shape(x))
    ends = list(itertools.accumulate(lengths))
    places = [(end - length, length) for length, end in zip(lengths, ends, strict=True)]
    listed = isinstance(sizes, (list, tuple))
    if listed and p.follow_pieces(node, value, axis, lengths):
        pass
    elif len(set(lengths)) > 1:
        # A submodule that states such lengths can be traced.
        value = value if listed and p.module_path(node) else p.fix_along(value, [axis], COUNTED)
    elif len(lengths) > 1:
        _unite_pieces(p, value, axis, lengths[0])
        if isinstance(sizes, int) and operation_name(node) == "split":  # the length of a piece, or a part of all
            any(p.follow_pieces(node, value, axis, [stated]) for stated in (lengths[0], sum(lengths)))
    return [_piece(value, axis, *place) for place in places]


def _piece(value: Value, axis: int, start: int, length: int) -> Value:
    return _map(value, lambda labels: labels.narrow(axis, start, length))


def _unite_pieces(p: Propagation, value: Value, axis: int, length: int) -> None:
    for found in value:
        if axis in found.axes:
            shape = found.labels.shape
            pieces = found.labels.reshape(*shape[:axis], -1, length, *shape[axis + 1 :])
            p.labels.unite(pieces, pieces.narrow(axis, 0, 1), PIECES)


def glu(p: Propagation, node: Node, x: Node, dim: int = -1) -> Value:
    """Multiply one half with the gate that the other half is."""
    axis = dim % len(p.shape(x))
    half = p.shape(x)[axis] // 2
    _unite_pieces(p, p.value(x), axis, half)
    return _piece(p.value(x), axis, 0, half)


def unbind(p: Propagation, node: Node, x: Node, dim: int = 0) -> list[Value]:
    """Cut into slices of length 1 and drop the axis."""
    value = p.fix_along(p.value(x), [dim % len(p.shape(x))], COUNTED)
    return [_map(value, lambda labels: labels.select(dim, 0)) for _ in node.meta["val"]]


def select(p: Propagation, node: Node, x: Node, dim: int, index: int) -> Value:
    """Take one index of an axis: it stays where it is, so it and what is counted before it is kept."""
    axis = dim % len(p.shape(x))
    length = p.shape(x)[axis]
    first, stop = (0, index + 1) if index >= 0 else (length + index, length)
    for found in p.value(x):
        if axis in found.axes:
            p.labels.protect(found.labels.narrow(axis, first, stop - first), COUNTED)
    return _map(p.value(x), lambda labels: labels.select(axis, index))


def slice_(
    p: Propagation, node: Node, x: Node, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Value:
    """Take a range of an axis: a fraction of it (then all such pieces shrink alike), or counted positions."""
    axis = dim % len(p.shape(x))
    length = p.shape(x)[axis]
    first, stop, _ = slice(start, end).indices(length)
    value = p.value(x)
    if step != 1:
        value = p.fix_along(value, [axis], COUNTED)
    elif (first, stop) != (0, length) and stop > first:
        piece = stop - first
        cuts = [bound for bound in (first, stop) if 0 < bound < length]
        stated = len(cuts) == 1 and min(start or 0, end or 0) >= 0
        if stated and p.follow_pieces(node, value, axis, cuts):
            pass
        elif length % piece == 0 and first % piece == 0:
            _unite_pieces(p, value, axis, piece)
        else:
            for found in value:
                if axis in found.axes:
                    _protect_counted(p, found.labels, axis, start or 0, end)
    return _map(value, lambda labels: labels[(slice(None),) * axis + (slice(first, stop, step),)])


def _protect_counted(p: Propagation, labels: Tensor, axis: int, start: int, end: int | None) -> None:
    """Keep what stands between a bound of a slice and the end of the axis from which the bound counts."""
    length = labels.shape[axis]
    for bound in (start, end):
        if bound is not None and -length < bound < length:
            first, stop = (0, bound) if bound >= 0 else (length + bound, length)
            p.labels.protect(labels.narrow(axis, first, stop - first), COUNTED)


def index(p: Propagation, node: Node, x: Node, indices: Sequence[Node | None]) -> Value:
    """Index axes with tensors: the indexed axes keep their length, the others pass."""
    for each in indices:
        if each is not None:
            p.fix(p.value(each), "positions that the forward pass reads by index")
    axes = [axis for axis, each in enumerate(indices) if each is not None]
    value = p.fix_along(p.value(x), axes, COUNTED)
    # The layers that are left do not vary along the indexed axes: any index of the same shape reads the same.
    zeros = [None if each is None else torch.zeros(p.shape(each), dtype=torch.int64) for each in indices]
    operation = torch.ops.aten.index.Tensor
    return _map(value, lambda labels: operation(labels, zeros))


def index_put(p: Propagation, node: Node, x: Node, indices: Sequence[Node], values: Node, *settings: Any) -> Value:
    """Write values at places of the leading axes of `x`, each read by an index or all by a mask; the others pass."""
    if None in indices:
        raise ValueError("places of axes behind one that is written whole")
    for each in indices:
        p.fix(p.value(each), "positions that the forward pass writes by index")
    masks = [each.meta["val"].dim() if each.meta["val"].dtype in (torch.bool, torch.uint8) else 1 for each in indices]
    leading, shape, own = sum(masks), p.shape(x), p.shape(values)
    value = p.fix_along(p.value(x), range(leading), COUNTED)
    lead = max(0, len(own) - len(shape) + leading)  # axes of the values that run over places
    written = p.fix_along(p.value(values), range(lead), COUNTED)
    once = _map(written, lambda labels: labels[(0,) * lead])
    return p.combine([(value, shape, p.origin(x)), (once, own[lead:], p.origin(values))], shape)


def index_select(p: Propagation, node: Node, x: Node, dim: int, indices: Node) -> Value:
    """Index one axis with a vector."""
    return index(p, node, x, [None] * (dim % len(p.shape(x))) + [indices])


def gather(p: Propagation, node: Node, x: Node, dim: int, indices: Node, **more: Any) -> Value:
    """Read along `dim` at indices (as many axes as `x`) that follow `x` along all other axes."""
    axis, shape = dim % len(p.shape(x)), p.shape(node)
    cut = [a for a, length in enumerate(p.shape(x)) if a != axis and length != shape[a]]
    value = p.fix_along(p.value(x), [axis, *cut], COUNTED)
    read = _map(value, lambda labels: flat(labels, [axis, *cut], shape))
    once = tuple(1 if a == axis else length for a, length in enumerate(shape))
    return p.combine([(read, once, p.origin(x)), (p.value(indices), shape, p.origin(indices))], shape)


def unfold(p: Propagation, node: Node, x: Node, dim: int, size: int, step: int) -> Value:
    """Cut an axis, which keeps its length, into windows along a new last axis."""
    value = p.fix_along(p.value(x), [dim % len(p.shape(x))], COUNTED)
    return _map(value, lambda labels: labels.unfold(dim, size, step))


def embedding(p: Propagation, node: Node, weight: Node, indices: Node, *settings: Any) -> Value:
    """Look up rows of a table."""
    value = index(p, node, weight, [indices])
    for found in value:
        if len(found.axes) == 1:
            p.attribute(node, "embedding_dim", vector(found.labels, found.axes[0]))
    return value


def roll(p: Propagation, node: Node, x: Node, shifts: Any, dims: Sequence[int] = ()) -> Value:
    """Roll along axes, which keep their length; without axes along all."""
    rank = len(p.shape(x))
    return p.fix_along(p.value(x), [axis % rank for axis in dims] or range(rank), COUNTED)


def pad(p: Propagation, node: Node, x: Node, amounts: Sequence[int], mode: Any = "constant", fill: Any = None) -> Value:
    """Pad or crop; padding with a constant adds positions that stay, any other needs the axis as it is."""
    shape, rank = p.shape(node), len(p.shape(x))
    constant = mode == "constant" or not isinstance(mode, str)
    pairs = {rank - 1 - i: amounts[2 * i : 2 * i + 2] for i in range(len(amounts) // 2)}
    touched = [axis for axis, pair in pairs.items() if any(pair)]
    kept_long = [axis for axis in touched if not constant or min(pairs[axis]) < 0]
    value = p.fix_along(p.value(x), kept_long, COUNTED)
    result = []
    for found in value:
        labels = found.labels
        for axis in touched:
            if axis in found.axes:
                labels = F.pad(labels, [*[0, 0] * (rank - 1 - axis), *pairs[axis]], value=0)
            else:
                wide = [*labels.shape[:axis], shape[axis], *labels.shape[axis + 1 :]]
                labels = labels.narrow(axis, 0, 1).expand(wide)
        result.append(layer(labels))
    return tuple(result)
