"""Forward passes of a smaller network without data: which sizes fit, and which lines of code decide by sizes."""

from __future__ import annotations

import functools
import operator
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from optuna_softprune.graph import (
    FIXED,
    NotTraceableError,
    Tracing,
    first_line,
    map_tensors,
    meta_copy,
    returned,
    shortcut,
    tensors,
    to_working,
    user_line,
)
from optuna_softprune.plan import set_length
from optuna_softprune.program import install, written
from optuna_softprune.removal._answers import VALUES, answers_of
from optuna_softprune.removal._widths import Expression, Notes, Ratio, Width, calling_line, primes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from optuna_softprune.graph import Network, TracedPart, Units
    from optuna_softprune.removal._widths import IntArray

    Call = tuple[Any, tuple[Any, ...], dict[str, Any]]

# Above what most sizes of a network are that are no widths.
LEAST_PRIME = 4099
DRAWS = 16  # of primes, until all lengths differ
_SHAPE: Any = torch.Tensor.shape
SHAPES = frozenset({_SHAPE.__get__, torch.Tensor.size})
NUMBERS = frozenset({torch.Tensor.numel, torch.Tensor.nelement, torch.numel})
SLICES = frozenset({torch.Tensor.__getitem__, torch.Tensor.__setitem__})
ARITHMETIC = frozenset(
    ["add", "sub", "mul", "div", "truediv", "rtruediv", "rmul", "radd", "rsub", "pow", "rpow", "tensor"]
)


class Pass(NamedTuple):
    """What a forward pass without data showed.

    Attributes:
        problem: Why it failed; empty if it did not.
        groups: Groups (positions) whose widths the operation that failed was given.
        operations: How many operations were called.
        alike: Whether they are the operations of the dense network.
        given: Number of an operation -> groups whose widths it was given; holds until the next pass.
        notes: What the code did with widths.
        line: The line of code at which it failed.
        modules: Paths of the submodules in whose forward passes it failed, the outermost first.
    """

    problem: str
    groups: frozenset[int]
    operations: int
    alike: bool
    given: Callable[[int], frozenset[int]]
    notes: Notes
    line: str = ""
    modules: tuple[str, ...] = ()


class Shapes:
    """The network on torch's meta device, where tensors have sizes but no values.

    Args:
        model: The dense network in working precision, in eval mode; it is only read.
        args: The example's positional inputs.
        kwargs: Its keyword inputs.
        network: The groups.

    Attributes:
        network: The groups.
        traced: Path -> a submodule that runs its own graph.
        refusals: Line of code -> why a submodule around it cannot run its own graph.

    Raises:
        Exception: What the dense network raises there.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], network: Network) -> None:
        self.network = network
        self.sizes = np.array([group.size for group in network.groups], np.int64)
        self._group_of = np.repeat(np.arange(len(self.sizes)), self.sizes)
        self._axes = {place: self._form(units) for place, units in network.tensors.items()}
        self._attributes = {place: self._form(units) for place, units in network.attributes.items()}
        forms = [*self._axes.values(), *self._attributes.values()]
        forms += [self._form(units) for axes in network.nodes.values() for _, units in axes]
        self._forms = np.array(list({form.tobytes(): form for form in forms}.values()))
        self._dense_lengths = (self._forms @ self._ones(self.sizes)).tolist()
        self._primes = self._distinguishing()
        self._model = model
        dtype = network.exported.dtype
        inputs = map_tensors((args, dict(kwargs)), functools.partial(to_working, dtype=dtype))
        self._tracing = Tracing(model, inputs, network.exported)
        self.traced: dict[str, TracedPart] = {}
        self.refusals: dict[str, str] = {}
        self._answers: list[Any] = []
        try:
            self._begin(inputs)
        except Exception:  # the forward pass asks for values: they are then those of the example
            self._answers = answers_of(model, network, inputs)
            self._begin(inputs)

    def _begin(self, inputs: tuple[Any, Any]) -> None:
        """Run the dense network."""
        self._inputs = map_tensors(inputs, lambda tensor: tensor.to("meta"))
        self._changes = False
        self._module = self._on_meta()
        before = _state(self._module)
        try:
            longer = self._longer()
            self._calls, self._returned = self._dense(longer)
            self._inputs = longer
        except Exception:  # the example's batch is fixed in the forward pass
            self._module = self._on_meta()
            before = _state(self._module)
            self._calls, self._returned = self._dense(self._inputs)
        self._changes = _state(self._module) != before

    def trace(self, path: str, line: str) -> Callable[[], None]:
        """Let a submodule run its own graph from now on; those inside of it are a part of it.

        Args:
            path: Its qualified name.
            line: The line of code that states a size.

        Returns:
            What makes all as it was.

        Raises:
            NotTraceableError: If it cannot; all is as it was.
        """
        before, calls, shapes = self.traced, self._calls, self._returned

        def undo() -> None:
            self._become(before)
            self._calls, self._returned = calls, shapes

        part = self._tracing.part(path, line)
        inside = [each for each in before if each.startswith(f"{path}.")]
        self._become({each: found for each, found in before.items() if each not in inside} | {path: part})
        try:
            self._calls, self._returned = self._dense(self._inputs)
        except Exception as error:
            undo()
            raise NotTraceableError(f"the graph of `{path}` does not run ({first_line(error)})") from error
        return undo

    def module(self, path: str) -> nn.Module:
        """Return the submodule with a qualified name."""
        return self._module.get_submodule(path)

    def is_torchs(self, path: str) -> bool:
        """Whether a submodule is one of torch's layers: what does not fit it was made around it."""
        module = self.module(path)
        return type(module).__module__.startswith("torch.nn.") and next(module.children(), None) is None

    def _become(self, traced: dict[str, TracedPart]) -> None:
        self.traced = traced
        self._module = self._on_meta()

    def generic(self, free: Iterable[int], leader: Sequence[int]) -> Pass:
        """Run at widths that no group has: of two groups once one is the wider, once the other.

        Args:
            free: Groups (positions) whose width is a prime; all others are as in the dense network.
            leader: Group -> the group whose width it has.

        Returns:
            The first pass if it fails, else the second.
        """
        free = list(free)
        leaders = np.array(leader, np.int64)[free]
        found = self._generic(free, self._primes[leaders])
        if found.problem or len(set(leaders.tolist())) < 2:
            return found
        return self._generic(free, _opposite(self._primes)[leaders])  # an end beyond a width cuts nothing off

    def _generic(self, free: Sequence[int], primes: IntArray) -> Pass:
        widths = self.sizes.copy()
        widths[free] = primes
        lengths = (self._forms @ self._ones(widths)).tolist()
        meaning = {
            length: (dense, _linear(form))
            for form, length, dense in zip(self._forms, lengths, self._dense_lengths, strict=True)
            if length != dense
        }
        return self._run(widths, _Recorder(meaning, self._calls, self._answers))

    def at(self, kept: IntArray) -> Pass:
        """Run at the widths of a candidate, by units kept (groups,)."""
        return self._run(kept, _Recorder({}, None, self._answers))

    def _run(self, widths: IntArray, recorder: _Recorder) -> Pass:
        def given(number: int) -> frozenset[int]:
            return _groups(recorder.calls[number], recorder.notes.meaning) if recorder.calls else frozenset()

        def ended(problem: str, groups: frozenset[int]) -> Pass:
            alike = [each[0] for each in recorder.calls] == [each[0] for each in self._calls]
            return Pass(problem, groups, len(recorder.calls), alike, given, recorder.notes)

        try:
            outputs = self._outputs(widths, recorder, self._inputs)
        except _DivergedError as other:
            problem = f"the forward pass takes another branch before {other}"
            return ended(problem, given(-1))._replace(line=str(other), modules=self._around(other))
        except Exception as failure:
            line = user_line(failure)
            problem = f"the removed network fails{f' at {line}' if line else ''}: {first_line(failure)}"
            return ended(problem, given(-1))._replace(line=line, modules=self._around(failure))
        for shape, expected in zip(_shapes(outputs), self._returned, strict=True):
            if shape != expected:
                return ended(f"the removed network returns shape {shape} instead of {expected}", frozenset())
        for number, line in recorder.failed.items():
            if groups := given(number):
                return ended(f"the forward pass goes on though an operation fails at {line}", groups)
        return ended("", frozenset())

    def _around(self, failure: Exception) -> tuple[str, ...]:
        """Return the paths of the submodules that were called when something failed, the outermost first."""
        paths = {id(module): path for path, module in self._module.named_modules() if path}
        called = [
            id(frame.f_locals.get("self"))
            for frame, _ in traceback.walk_tb(failure.__traceback__)
            if frame.f_code is nn.Module._call_impl.__code__
        ]
        return tuple(dict.fromkeys(paths[each] for each in called if each in paths))

    def _dense(self, inputs: Any) -> tuple[list[Call], list[Any]]:
        recorder = _Recorder({}, None, self._answers)
        returned = _shapes(self._outputs(self.sizes, recorder, inputs))
        return recorder.calls, returned

    def _longer(self) -> Any:
        """Return the inputs with one example more."""
        flat = self.network.exported.flatten_inputs(self._inputs)
        first = next((each for each in flat if isinstance(each, Tensor) and each.dim()), None)

        def longer(tensor: Tensor) -> Tensor:
            if first is None or not tensor.dim() or tensor.shape[0] != first.shape[0]:
                return tensor
            return tensor.new_empty((tensor.shape[0] + 1, *tensor.shape[1:]))

        return map_tensors(self._inputs, longer)

    def _outputs(self, widths: IntArray, recorder: _Recorder, inputs: Any) -> list[Any]:
        if self._changes:  # what a forward pass leaves behind in the network must not reach the next
            self._module = self._on_meta()
        self._module.eval()  # some modules keep what they have looked up until their mode is said again
        ones = self._ones(widths)
        shapes: dict[str, list[int]] = {}
        for (name, axis), form in self._axes.items():
            shapes.setdefault(name, list(self.network.shapes[name]))[axis] = int(form @ ones)
        for name, shape in shapes.items():
            held = self._held[name]
            if list(held.shape) != shape:
                held.data = torch.empty(shape, dtype=held.dtype, device="meta")
        for (path, name, index), form in self._attributes.items():
            set_length(self._module.get_submodule(path), name, index, recorder.notes.marked(int(form @ ones)))
        for path, part in self.traced.items():
            record = written(self.network, part, lambda units: int(self._form(units) @ ones))
            install(self._module.get_submodule(path), record)
        args, kwargs = inputs
        found = returned(self._module, args, kwargs, recorder)
        flat: list[Any] = self.network.exported.flatten_outputs(found)
        return flat

    def _on_meta(self) -> nn.Module:
        module = meta_copy(self._model)
        self._held = dict(tensors(module))
        return module

    def _form(self, units: Units) -> IntArray:
        """Return what an axis is made of: its fixed indices, then its indices per unit of each group."""
        inside = np.bincount(self._group_of[units[units != FIXED]], minlength=len(self.sizes)) // self.sizes
        return np.concatenate([[(units == FIXED).sum()], inside])

    @staticmethod
    def _ones(widths: IntArray) -> IntArray:
        return np.concatenate([[1], widths])

    def _distinguishing(self) -> IntArray:
        """Return a prime for each group; as far as possible no two lengths of axes are then equal."""
        table = primes(4 * len(self.sizes) + 64, LEAST_PRIME)
        for seed in range(DRAWS):
            drawn: IntArray = np.random.default_rng(seed).permutation(table)[: len(self.sizes)]
            lengths = [self._forms @ self._ones(widths) for widths in (drawn, _opposite(drawn))]
            if all(len(np.unique(each)) == len(each) for each in lengths):
                break
        return drawn


class _DivergedError(Exception):
    """The forward pass runs another operation than in the dense network, at the line that it says."""


class _Recorder(TorchFunctionMode):
    """Keeps a record of the operations, and lets lengths say what they follow.

    Attributes:
        calls: The operations, in execution order.
        failed: Number of an operation that raised -> its line of code.
        notes: What was done with widths.
    """

    def __init__(
        self, meaning: Mapping[int, tuple[int, Expression]], expected: Sequence[Call] | None, answers: Sequence[Any]
    ) -> None:
        super().__init__()
        self._expected = expected
        self._answers = iter(answers)
        self.calls: list[Call] = []
        self.failed: dict[int, str] = {}
        self.notes = Notes(meaning)

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in SHAPES:
            found = function(*args, **kwargs)
            return self.notes.marked(found) if isinstance(found, int) else torch.Size(map(self.notes.marked, found))
        if function in NUMBERS:
            return functools.reduce(operator.mul, map(self.notes.marked, args[0].shape), 1)
        if function in VALUES and (answer := next(self._answers, None)) is not None:
            return answer
        self.calls.append((function, args, kwargs))
        number = len(self.calls) - 1
        if self._expected is not None:
            if number >= len(self._expected) or self._expected[number][0] != function:
                raise _DivergedError(calling_line())
            if getattr(function, "__name__", "").strip("_") in ARITHMETIC:
                self.notes.use(*args)
            if function in SLICES:
                self._compare_ends(args[0], args[1])
        if self.notes.uses:  # what torch itself compares is no decision of the network's
            args, kwargs = pytree.tree_map_only(Ratio, float, (args, kwargs))
        try:
            return shortcut(function, args, kwargs)
        except Exception:
            self.failed[number] = calling_line()
            raise

    def _compare_ends(self, sliced: Tensor, index: Any) -> None:
        """Note of each end of a slice whether it is beyond the axis: it is then the axis' own."""
        index = index if isinstance(index, tuple) else (index,)
        if any(isinstance(each, (Tensor, list)) for each in index):
            return
        rest = sliced.dim() - sum(each is not None and each is not ... for each in index)
        axis = 0
        for each in index:
            if isinstance(each, slice):
                length = self.notes.marked(sliced.shape[axis])
                for end in (each.start, each.stop):
                    if isinstance(end, int):
                        _ = (end if end >= 0 else -end) < length  # noted by comparing
            axis += rest if each is ... else each is not None


def _opposite(values: IntArray) -> IntArray:
    """Return distinct values so that the largest stands where the smallest stood."""
    order = np.argsort(values)
    opposite = values.copy()
    opposite[order] = values[order[::-1]]
    return opposite


def _linear(form: IntArray) -> Expression:
    groups = frozenset(np.flatnonzero(form[1:]).tolist())
    return Expression(groups, lambda kept: form[0] + kept @ form[1:])


def _groups(value: Any, meaning: Mapping[int, tuple[int, Expression]]) -> frozenset[int]:
    """Return the groups that sizes follow, of all tensors and widths in nested arguments."""
    if isinstance(value, Width):
        return value.of.groups
    if isinstance(value, Tensor):
        return frozenset().union(*(meaning[length][1].groups for length in value.shape if length in meaning))
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return frozenset().union(*(_groups(each, meaning) for each in value))
    return frozenset()


def _shapes(outputs: Sequence[Any]) -> list[Any]:
    return [tuple(each.shape) if isinstance(each, Tensor) else None for each in outputs]


def _state(model: nn.Module) -> list[tuple[str, Any]]:
    """Return what identifies the attributes of all modules."""
    return [
        (name, value if isinstance(value, (int, float, str, tuple)) else id(value))
        for module in model.modules()
        for name, value in vars(module).items()
    ]
