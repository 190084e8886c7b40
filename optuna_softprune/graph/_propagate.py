"""What rules read and do: the layers of all nodes, and which labels they unite, protect or leave to a choice."""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from optuna_softprune.graph._choices import Choice, Choices, Kind, opened
from optuna_softprune.graph._labels import Labels, Layer, Value, alike, along, flat, is_open, layer, vector
from optuna_softprune.graph._reasons import made_by, why_fixed
from optuna_softprune.graph._stated import Statement, is_stating, statements, stating_pieces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from optuna_softprune.graph._export import ExportedGraph
    from optuna_softprune.graph._labels import Place
    from optuna_softprune.graph._reasons import Reason
    from optuna_softprune.graph._stated import Held, StatedSize

    Rule = Callable[..., Value | list[Value] | None]

INDEX_OF_ONE = "its only index"


class Read(NamedTuple):
    """What the layers of a node were made of.

    Attributes:
        nodes: Nodes whose layers were read.
        places: Labels of tensors and sizes that were read.
        stated: One thing if it was asked which sizes modules state.
    """

    nodes: set[Node]
    places: list[Place]
    stated: set[bool]


class Propagation:
    """The layers of all nodes, and what rules do with them.

    A rule is called with this object, the node and the node's arguments. It unites and protects labels and returns
    the layers of the node's output.
    """

    def __init__(self, model: nn.Module, exported: ExportedGraph, training: ExportedGraph | None = None) -> None:
        self.exported = exported
        both = [exported] if training is None else [exported, training]
        self.nodes = [node for each in both for node in each.graph.nodes]
        self._tensors = {node: name for each in both for node, name in each.tensors.items()}
        self.labels = Labels()
        self.choices = Choices()
        self.macs: dict[Node, Sequence[Sequence[tuple[Node, int]]]] = {}
        self.read: set[tuple[str, int]] = set()
        self.made: set[tuple[str, int]] = set()
        self.values: dict[Node, Value | list[Value]] = {}
        self.without_rule: dict[Node, str] = {}
        self.stated: Mapping[StatedSize, Held] = {}
        self.known_sizes: set[tuple[str, str]] = set()
        self._uncertain: dict[Node | None, list[Statement]] = {}
        self._reads: dict[Node, Read] = {}
        self._changed: set[Node] = set()
        self._node: Node | None = None
        self._modules = dict(model.named_modules(remove_duplicate=False))
        self._first_path = {id(m): path for path, m in reversed(self._modules.items())}

    # What is made anew in a pass: the layers of nodes that have read what is no longer the same.

    def begin(self) -> None:
        """Begin a pass."""
        self._changed = set()

    def is_current(self, node: Node) -> bool:
        """Whether all that the layers of `node` were made of is as it was when they were made."""
        if node not in self._reads:
            return False
        read = self._reads[node]
        moved = any(map(self.labels.has_moved, read.places))
        return not (moved or read.nodes & self._changed or self.choices.has_made(node))

    def forget_what_asked_for_sizes(self) -> None:
        """Let the nodes whose layers depend on stated sizes be made anew."""
        self._reads = {node: read for node, read in self._reads.items() if not read.stated}

    def make(self, node: Node, layers: Callable[[], Value | list[Value]]) -> None:
        """Let `layers` make the layers of `node`, and with them what is united, protected and left open for it."""
        outer = self._node
        self._node, self._reads[node] = node, Read(set(), [], set())
        self._take_up(node)
        self.without_rule.pop(node, None)
        self._uncertain[node] = []
        self.choices.begin(node)
        self.labels.begin(node)
        made = layers()
        before = self.values.get(node)
        if before is None or not _same(made, before):
            self.values[node] = made
            self._changed.add(node)
        self._node = outer
        self._take_up(outer)

    def _take_up(self, node: Node | None) -> None:
        """Note what is read and protected on behalf of `node`."""
        places = self._reads[node].places if node in self._reads else []
        self.labels.on_behalf_of(node, places)

    def settled(self, value: Value) -> Value:
        """Leave one layer for each axis, none that holds a whole tensor, and only such as leave it a box."""
        kept: list[Layer] = []
        for found in value:
            if not found.axes:
                self.labels.protect(found.labels, partial(self._whole, self._node, found))
                continue
            twin = next((other for other in kept if set(other.axes) & set(found.axes)), None)
            if twin is None:
                kept.append(found)
            elif is_open(twin) and not is_open(found):
                kept = [found if other is twin else other for other in kept]
            elif not is_open(found):
                kept = [self._one_of(twin, found) if other is twin else other for other in kept]
        return tuple(self._box(found) for found in kept)

    def _whole(self, node: Node | None, found: Layer) -> str:
        """Say what made one unit of all that a tensor holds."""
        if why := self.labels.why_united(found.labels):
            return f"{why}, which leaves one unit"
        return "one unit is all of a tensor" + (f" that {made_by(node)} makes" if node is not None else "")

    def _one_of(self, first: Layer, second: Layer) -> Layer:
        """Return which of two layers that vary along one axis can shrink; it is open until that is known."""
        options = [(each, frozenset(each.axes)) for each in (first, second)]
        if first.axes == second.axes and torch.equal(first.labels, second.labels):
            return first
        chosen = self._ask(Kind.TWIN, options)
        if chosen is None:
            return first._replace(labels=opened(first.labels))
        self.labels.protect(options[1 - chosen][0].labels, "meets what varies along the same axis")
        return options[chosen][0]

    def _box(self, found: Layer) -> Layer:
        """Let a layer vary along one axis only, where that is chosen."""
        if len(found.axes) == 1 or is_open(found):
            return found
        chosen = self._ask(Kind.BOX, [(found, frozenset([axis])) for axis in found.axes])
        if chosen is None or self._node is None:
            return found
        others = [axis for i, axis in enumerate(found.axes) if i != chosen]
        left = self.fix_along([found], others, f"a tensor of `{self.module_path(self._node)}` must stay a box")
        return next(iter(left), found)

    def _ask(self, kind: Kind, options: Sequence[tuple[Layer, frozenset[int]]]) -> int | None:
        """Return which of some layers goes on to vary, and along which axes; None: not known yet."""
        assert self._node is not None
        key = (self._node, kind, *((found.axes, kept) for found, kept in options))
        return self.choices.ask(self._node, Choice(kind, key, options))

    # What rules read.

    def value(self, node: Node | Any) -> Value:
        """Return the layers of `node`; of a parameter or buffer one for each axis; of anything else none."""
        if not isinstance(node, Node):
            return ()
        found = self._read(node)
        assert isinstance(found, tuple)
        return found

    def outputs(self, node: Node) -> list[Value]:
        """Return the layers of each output of a node, of most nodes one."""
        found = self._read(node)
        return found if isinstance(found, list) else [found]

    def _read(self, node: Node) -> Value | list[Value]:
        if self._node is not None:
            self._reads[self._node].nodes.add(node)
        if node not in self.values:  # parameters and buffers are labelled in the order in which they are met
            self.make(node, partial(self.of_tensor, node))
        return self.values[node]

    def of_tensor(self, node: Node) -> Value:
        """Return the layers of a parameter or buffer."""
        name = self._tensors.get(node.name)
        return () if name is None else self._of_tensor(name, self.shape(node))

    def _of_tensor(self, name: str, shape: tuple[int, ...]) -> Value:
        layers = []
        for axis, length in enumerate(shape):
            labels = self.labels.of_tensor(name, axis, length)
            if length > 1:
                layers.append(along(labels, axis, shape))
            else:
                self.labels.protect(labels, INDEX_OF_ONE)
        return self.settled(tuple(layers))

    @staticmethod
    def shape(node: Node) -> tuple[int, ...]:
        """Return the shape of the node's output."""
        value = node.meta.get("val")
        return tuple(value.shape) if isinstance(value, Tensor) else ()

    def origin(self, node: Node | Any) -> Reason:
        """Say why `node` has a width that cannot shrink."""
        if not isinstance(node, Node):
            return "a constant"
        exported = self.exported
        known = (self._tensors, exported.constants, exported.held_at, self.without_rule)
        return partial(why_fixed, node, self._known_value, *known)

    def _known_value(self, node: Node) -> Value:
        """Return the layers of a node, of several outputs all, when labels have settled."""
        found = self.values.get(node, ())
        return tuple(itertools.chain(*found)) if isinstance(found, list) else found

    def module_path(self, node: Node) -> str:
        """Return the qualified name of the module whose forward pass made `node`."""
        stack = node.meta.get("nn_module_stack")
        path: str = list(stack.values())[-1][0] if stack else ""
        first: str = self._first_path.get(id(self._modules.get(path)), path)
        return first

    # What rules do.

    def unite(self, first: Tensor | None, second: Tensor | None, reason: Reason) -> None:
        """Unite labels that face each other; None stands for a width that cannot shrink, for `reason`."""
        if first is None or second is None:
            for labels in (first, second):
                if labels is not None:
                    self.labels.protect(labels, reason)
        else:
            self.labels.unite(first, second, reason)

    def fix(self, value: Iterable[Layer], reason: Reason) -> None:
        """Protect all that `value` carries."""
        for found in value:
            self.labels.protect(found.labels, reason)

    def fix_along(self, value: Iterable[Layer], axes: Iterable[int], reason: Reason) -> Value:
        """Let `axes` keep their length: labels are united along them, or protected if they vary along nothing else.

        Returns the layers that are left; they do not vary along `axes`.
        """
        axes = set(axes)
        left = []
        for found in value:
            inside = axes.intersection(found.axes)
            if not inside:
                left.append(found)
            elif inside == set(found.axes):
                self.labels.protect(found.labels, reason)
            else:
                head = flat(found.labels, inside, found.labels.shape)
                place = "" if self._node is None else partial(made_by, self._node)
                self.labels.unite_along(found.labels, head, reason, place)
                left.append(layer(head))
        return tuple(left)

    def summed(self, value: Value, axes: Iterable[int]) -> Value:
        """Return what is left of `value` when `axes` are reduced to one number made of what is kept along them.

        A layer that varies along other axes too loses whole slices.
        """
        axes = set(axes)
        left: list[Layer] = []
        for found in value:
            inside = axes.intersection(found.axes)
            outside = frozenset(found.axes) - inside
            if not outside:
                continue
            if not inside:
                left.append(found)
            elif is_open(found) or self._ask(Kind.SUM, [(found, outside)]) is None:
                left.append(layer(opened(flat(found.labels, inside, found.labels.shape))))
            else:
                left += self.fix_along([found], inside, "whole slices of a sum")
        return tuple(found for found in left if found.axes)

    def channel(self, value: Value, axis: int, reason: Reason) -> tuple[Tensor | None, Value]:
        """Split `value` into the labels (length,) along `axis` and the layers that do not vary along it."""
        labels: Tensor | None = None
        for found in value:
            if axis not in found.axes:
                continue
            (alone,) = self.fix_along([found], [a for a in found.axes if a != axis], reason)
            width = vector(alone.labels, axis)
            if labels is not None:
                self.labels.unite(labels, width, reason)
            labels = width if labels is None else labels
        return labels, tuple(found for found in value if axis not in found.axes)

    def labels_of(self, weight: Node, axis: int, reason: Reason) -> Tensor:
        """Return the labels (length,) along an axis of a weight; zeros where it cannot shrink."""
        found, _ = self.channel(self.value(weight), axis, reason)
        return torch.zeros(self.shape(weight)[axis], dtype=torch.int64) if found is None else found

    def elementwise(self, operands: Sequence[Node | Any], shape: tuple[int, ...]) -> Value:
        """Unite the layers of operands that are broadcast to `shape` and combined element by element."""
        return self.combine([(self.value(o), self.shape(o), self.origin(o)) for o in operands], shape)

    def combine(
        self, operands: Sequence[tuple[Value, tuple[int, ...], Reason]], shape: tuple[int, ...], *, choose: bool = True
    ) -> Value:
        """Do what `elementwise` does for operands given as (layers, shape, why what has no layer cannot shrink).

        Where a layer meets one that varies along fewer axes, it is a choice along which of them it goes on to vary;
        without `choose` along those fewer.
        """
        spread: list[tuple[int, Layer]] = []
        for i, (value, own, _) in enumerate(operands):
            lead = len(shape) - len(own)
            for found in value:
                labels = found.labels.expand(shape)
                spread.append((i, Layer(labels, tuple(a + lead for a in found.axes))))
        result: list[Layer] = []
        for members in _by_shared_axes(spread):
            result += self._combine_cluster(members, operands, shape, choose=choose)
        return tuple(result)

    def _combine_cluster(
        self,
        members: list[tuple[int, Layer]],
        operands: Sequence[tuple[Value, tuple[int, ...], Reason]],
        shape: tuple[int, ...],
        *,
        choose: bool,
    ) -> Value:
        owners = [i for i, _ in members]
        twice = len(set(owners)) < len(owners)
        first = max((found for _, found in members), key=lambda found: (not is_open(found), len(found.axes)))
        fewer = [found for _, found in members if set(found.axes) < set(first.axes) and not is_open(found)]
        joined: Value = (first,)
        if fewer and (choose or twice) and not is_open(first):
            joined = self._meet(first, fewer)
        elif twice and not is_open(first):
            self.fix([found for _, found in members], "several axes of one tensor meet one axis of another")
            return ()
        else:
            fewer = []
        met = {id(found) for found in fewer}
        for _, found in members:
            if id(found) not in met:
                self.labels.unite(first.labels, found.labels, "coupled to a width that cannot shrink")
        axes = sorted({axis for _, found in members for axis in found.axes})
        for i, (_, own, origin) in enumerate(operands):
            if i not in owners:
                lead = len(shape) - len(own)
                full = [axis for axis in axes if axis >= lead and own[axis - lead] > 1]
                joined = self.fix_along(joined, full, origin)
        return joined

    def _meet(self, first: Layer, fewer: Sequence[Layer]) -> Value:
        """Return what goes on of a layer that meets some that vary along fewer axes."""
        reason = "meets what varies along another axis"
        options = list(dict.fromkeys(frozenset(found.axes) for found in fewer))
        chosen = self._ask(Kind.MEET, [(first, kept) for kept in options])
        if chosen is None:
            return (first,)
        kept = options[chosen]
        for found in fewer:
            if kept.issuperset(found.axes):
                self.labels.unite(first.labels, found.labels, reason)
            else:
                self.labels.protect(found.labels, reason)
        return self.fix_along([first], [axis for axis in first.axes if axis not in kept], reason)

    def follow(self, node: Node, value: Value) -> None:
        """Let integers that modules hold follow the axes of `value` whose length the operation states."""
        if not is_stating(node):
            return
        sizes = self._sizes_read(node)
        if not sizes:
            return
        widths = {found.axes[0]: vector(found.labels, found.axes[0]) for found in value if len(found.axes) == 1}
        there = [axis for axis, labels in widths.items() if self._was_there(node, labels)]
        module = self._modules.get(self.module_path(node))
        if isinstance(module, nn.MultiheadAttention):  # which checks the width of its inputs
            there = []
        for each in statements(node, widths, there, sizes):
            if each.certain:
                self._state(each)
            else:
                self._uncertain[self._node].append(each)

    def follow_pieces(self, node: Node, value: Value, axis: int, lengths: Sequence[int]) -> bool:
        """Let sizes that a module holds follow the pieces into which an axis is cut; return whether they state them."""
        found = stating_pieces(self._sizes_read(node), lengths)
        width = next((vector(each.labels, axis) for each in value if each.axes == (axis,)), None)
        if found is None or width is None:
            return False
        for size, start, length in found:
            self._state(Statement(size, width[None, start : start + length], certain=True))
        return True

    def follow_number(self, node: Node, labels: Tensor) -> None:
        """Let a size that a module holds follow the number of `labels` (length,) that an operation states."""
        for size, _, _ in stating_pieces(self._sizes_read(node), [len(labels)]) or ():
            self._state(Statement(size, labels[None], certain=True))

    def _sizes_read(self, node: Node) -> dict[StatedSize, int]:
        """Return the sizes that the forward pass in which `node` is made reads, in the order of reading."""
        if self._node is not None:
            self._reads[self._node].stated.add(True)
        path = self.module_path(node)
        return {size: held.length for size, held in self.stated.items() if path in held.readers}

    def _state(self, each: Statement) -> None:
        own = self.labels.of_attribute(*each.size, self.stated[each.size].length)
        self.unite(each.labels, own, "a size that a module states")

    def state_what_is_left(self) -> None:
        """Let sizes follow that were read for certain nowhere, and may have been read for one width only."""
        places: dict[StatedSize, list[Statement]] = {}
        for each in itertools.chain(*self._uncertain.values()):
            places.setdefault(each.size, []).append(each)
        for size, found in places.items():
            if size not in self.labels.attributes and all(torch.equal(each.labels, found[0].labels) for each in found):
                self._state(found[0])

    def _was_there(self, node: Node, labels: Tensor) -> bool:
        """Whether an axis of the first operand has these labels: its length is there to be read from the shape."""
        known = self.value(node.args[0]) if node.args else ()
        own = [vector(found.labels, found.axes[0]) for found in known if len(found.axes) == 1]
        return any(torch.equal(labels, each) for each in own)

    def take_sides(self, weight: Node, read: int, made: int) -> None:
        """Note that axis `read` of a weight reads activations and axis `made` makes them."""
        name = self._tensors.get(weight.name)
        if name is not None:
            self.read.add((name, read))
            self.made.add((name, made))

    def attribute(self, node: Node, name: str, labels: Tensor | None, index: int | None = None) -> None:
        """Let an integer attribute of the module behind `node` follow the number of `labels` (length,) kept.

        A module attribute that holds another number is the user's own affair and left alone.
        """
        path = self.module_path(node)
        self.known_sizes.add((path, name))
        held = getattr(self._modules.get(path), name, None)
        if index is not None and isinstance(held, tuple) and index < len(held):
            held = held[index]
        if labels is not None and held == len(labels) and isinstance(held, int):
            self.unite(labels, self.labels.of_attribute(path, name, index, held), "a size that a module states")


def _same(one: Value | list[Value], other: Value | list[Value]) -> bool:
    if isinstance(one, list) or isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))  # type: ignore[arg-type]
    return len(one) == len(other) and all(map(alike, one, other))


def _by_shared_axes(layers: Sequence[tuple[int, Layer]]) -> list[list[tuple[int, Layer]]]:
    """Collect layers that vary along a common axis, directly or through others."""
    clusters: list[tuple[set[int], list[tuple[int, Layer]]]] = []
    for member in layers:
        axes, members = set(member[1].axes), [member]
        apart = []
        for other_axes, others in clusters:
            if axes & other_axes:
                axes, members = axes | other_axes, others + members
            else:
                apart.append((other_axes, others))
        clusters = [*apart, (axes, members)]
    return [members for _, members in clusters]
