"""Rules of contractions: sums of products over index letters, from linear layers to attention.

A contraction is an element by element product in the space of all its letters, and a sum over those that the output
has not. In the product layers meet as they do in any other; of a sum nothing is left but what varies along letters
that stay. So where heads and the positions in them are removed from both factors, whole heads go.
"""

from __future__ import annotations

import itertools
import string
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from optuna_softprune.graph._labels import Layer, Value, layer, vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor
    from torch.fx import Node

    from optuna_softprune.graph._propagate import Propagation
    from optuna_softprune.graph._reasons import Reason


ROUTED = "experts to which rows are routed"


class Factor(NamedTuple):
    """One factor of a contraction.

    Attributes:
        value: Its layers.
        shape: Its shape.
        letters: The letter of each of its axes.
        origin: Why what has no layer cannot shrink.
        node: Where its lengths are to be found.
    """

    value: Value
    shape: tuple[int, ...]
    letters: str
    origin: Reason
    node: Node


def factor(p: Propagation, node: Node, letters: str) -> Factor:
    """Return a node's value as a factor."""
    return Factor(p.value(node), p.shape(node), letters, p.origin(node), node)


def contract(p: Propagation, factors: Sequence[Factor], out: str, *, sums: bool = True) -> Value:
    """Return the layers of a contraction whose axes are the letters `out`.

    Without `sums` the letters that are summed keep their length, but for what goes with whole slices.
    """
    lengths: dict[str, int] = {}
    for each in factors:
        for letter, length in zip(each.letters, each.shape, strict=True):
            lengths[letter] = max(length, lengths.get(letter, 1))
    space, shape = "".join(lengths), tuple(lengths.values())
    product = p.combine([_in_space(each, space) for each in factors], shape, choose=False)
    axes = [i for i, letter in enumerate(space) if letter not in out]
    if not sums:
        for found in product:
            if set(found.axes) <= set(axes):
                p.labels.protect(found.labels, "the scale of attention is derived from this width")
    left = p.summed(product, axes)
    return tuple(_out_of_space(found, space, out, [lengths[letter] for letter in out]) for found in left)


def _in_space(each: Factor, space: str) -> tuple[Value, tuple[int, ...], Reason]:
    """Return a factor with an axis for every letter of the space, of length 1 where it has none."""
    order = sorted(range(len(each.letters)), key=lambda axis: space.index(each.letters[axis]))
    missing = [i for i, letter in enumerate(space) if letter not in each.letters]

    def spread(labels: Tensor) -> Tensor:
        labels = labels.permute(order)
        for i in missing:
            labels = labels.unsqueeze(i)
        return labels

    value = tuple(
        Layer(spread(found.labels), tuple(sorted(space.index(each.letters[axis]) for axis in found.axes)))
        for found in each.value
    )
    own = dict(zip(each.letters, each.shape, strict=True))
    return value, tuple(own.get(letter, 1) for letter in space), each.origin


def _out_of_space(found: Layer, space: str, out: str, shape: Sequence[int]) -> Layer:
    labels = found.labels
    for i in reversed([i for i, letter in enumerate(space) if letter not in out]):
        labels = labels.select(i, 0)
    left = [letter for letter in space if letter in out]
    return layer(labels.permute([left.index(letter) for letter in out]).expand(tuple(shape)))


def product_of(factors: Iterable[Factor]) -> list[tuple[Node, int]]:
    """Return (node, axis) of every letter: the multiply-accumulates are the product of their lengths."""
    places: dict[str, tuple[int, tuple[Node, int]]] = {}
    for each in factors:
        for axis, (letter, length) in enumerate(zip(each.letters, each.shape, strict=True)):
            if letter not in places or places[letter][0] == 1:
                places[letter] = (length, (each.node, axis))
    return [place for _, place in places.values()]


def linear(p: Propagation, node: Node, x: Node, weight: Node, bias: Node | None = None) -> Value:
    """Compute y = x W^T + b, W (output, input)."""
    lead = string.ascii_lowercase[: len(p.shape(x)) - 1]
    out = "O" if len(p.shape(weight)) == 2 else ""
    value = _mapped(p, node, factor(p, x, f"{lead}I"), factor(p, weight, f"{out}I"), f"{lead}{out}")
    return _plus(p, node, value, p.origin(weight), bias)


def _mapped(p: Propagation, node: Node, x: Factor, weight: Factor, out: str) -> Value:
    """Contract with a weight that has the letters I (input) and O (output)."""
    if sorted(weight.letters) == ["I", "O"]:
        read, made = weight.letters.index("I"), weight.letters.index("O")
        p.take_sides(weight.node, read, made)
        p.attribute(node, "in_features", _width(weight.value, read))
        p.attribute(node, "out_features", _width(weight.value, made))
    p.macs[node] = [product_of([x, weight])]
    return contract(p, [x, weight], out)


def _width(value: Value, axis: int) -> Tensor | None:
    """Return the labels along an axis of a weight, if it alone shrinks."""
    return next((vector(found.labels, axis) for found in value if found.axes == (axis,)), None)


def _plus(p: Propagation, node: Node, value: Value, origin: Reason, bias: Node | None) -> Value:
    if bias is None:
        return value
    shape = p.shape(node)
    return p.combine([(value, shape, origin), (p.value(bias), p.shape(bias), p.origin(bias))], shape)


def matmul(p: Propagation, node: Node, x: Node, y: Node) -> Value:
    """Multiply matrices, in batches over the axes before the last two; vectors are matrices of one row or column."""
    own, other = len(p.shape(x)), len(p.shape(y))
    batch = string.ascii_lowercase[: max(own, other, 2) - 2]
    first = (batch[len(batch) - own + 2 :] + "RI")[-own:] if own > 1 else "I"
    second = batch[len(batch) - other + 2 :] + "IO" if other > 1 else "I"
    out = batch + ("R" if own > 1 else "") + ("O" if other > 1 else "")
    return _mapped(p, node, factor(p, x, first), factor(p, y, second), out)


def addmm(p: Propagation, node: Node, bias: Node, x: Node, y: Node, **scales: Any) -> Value:
    """Compute b + x y with matrices, or with batches of them."""
    value = matmul(p, node, x, y)
    p.attribute(node, "nf", _width(value, 1))  # the width that `Conv1D` of GPT-2 states
    return _plus(p, node, value, p.origin(y), bias)


def grouped_product(p: Propagation, node: Node, x: Node, weights: Node, ends: Node) -> Value:
    """Multiply rows of x (n, input) with one matrix of a stack (experts, input, output) each; the experts stay."""
    p.fix(p.value(ends), ROUTED)
    stack = factor(p, weights, "EIO")
    p.fix([found for found in stack.value if 0 in found.axes], ROUTED)
    value = tuple(
        Layer(found.labels.select(0, 0), tuple(axis - 1 for axis in found.axes))
        for found in stack.value
        if 0 not in found.axes
    )
    one = Factor(value, stack.shape[1:], "IO", stack.origin, weights)
    p.take_sides(weights, 1, 2)
    p.macs[node] = [[(x, 0), (x, 1), (weights, 2)]]
    return contract(p, [factor(p, x, "RI"), one], "RO")


def einsum(p: Propagation, node: Node, equation: str, operands: Sequence[Node], **more: Any) -> Value:
    """Contract by letters."""
    read, _, out = equation.replace(" ", "").partition("->")
    factors = [factor(p, x, letters) for x, letters in zip(operands, read.split(","), strict=True)]
    if any(letter not in out for each in factors for letter in each.letters):  # else it is a product by elements
        p.macs[node] = [product_of(factors)]
    for weight, x in (factors, factors[::-1]):
        reads = [axis for axis, letter in enumerate(weight.letters) if letter not in out]
        makes = [axis for axis, letter in enumerate(weight.letters) if letter in out and letter not in x.letters]
        for axis, made in itertools.product(reads, makes):
            p.take_sides(weight.node, axis, made)
    return contract(p, factors, out)


def is_plain(equation: str) -> bool:
    """Whether an equation is one product: two terms, no ellipsis, no letter twice, none summed in one term alone."""
    read, arrow, out = equation.replace(" ", "").partition("->")
    terms = [set(term) for term in read.split(",")]
    distinct = sum(map(len, terms)) + 1 == len(read) and "." not in read
    return bool(arrow) and len(terms) == 2 and distinct and terms[0] ^ terms[1] <= set(out)


def attention(
    p: Propagation,
    node: Node,
    query: Node,
    key: Node,
    value: Node,
    attn_mask: Node | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Compute softmax(q k^T scale + mask) v; q (*batch, t, d), k (*batch, s, d), v (*batch, s, e).

    Whole heads go: their axis is one of the batch. The scale is derived from d where it is not stated, so d stays
    then; e may shrink alone.
    """
    batch = string.ascii_lowercase[: len(p.shape(query)) - 2]
    q = factor(p, query, f"{batch}TD")
    k, v = (_repeated(p, each, q, letters) for each, letters in ((key, f"{batch}SD"), (value, f"{batch}SE")))
    scores = contract(p, [q, k], f"{batch}TS", sums=scale is not None)
    shape = (*p.shape(query)[:-1], p.shape(key)[-2])
    if attn_mask is not None:
        mask = (p.value(attn_mask), p.shape(attn_mask), p.origin(attn_mask))
        scores = p.combine([(scores, shape, p.origin(query)), mask], shape)
    weights = Factor(scores, shape, f"{batch}TS", p.origin(query), node)
    rows = q._replace(letters=f"{batch}T", shape=q.shape[:-1])
    p.macs[node] = [product_of([q, k]), product_of([rows, v])]
    return contract(p, [weights, v], f"{batch}TE")


def _repeated(p: Propagation, node: Node, query: Factor, letters: str) -> Factor:
    """Return keys or values with each head repeated for the queries that share it."""
    each = factor(p, node, letters)
    heads = len(letters) - 3
    if heads < 0 or each.shape[heads] in (1, query.shape[heads]):
        return each
    times = query.shape[heads] // each.shape[heads]
    repeated = tuple(layer(torch.repeat_interleave(found.labels, times, heads)) for found in each.value)
    return each._replace(value=repeated, shape=(*query.shape[: heads + 1], *each.shape[heads + 1 :]))
