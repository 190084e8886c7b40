"""Evaluate many candidates of one network: what a forward pass has in common with earlier ones is looked up."""

from __future__ import annotations

import functools
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from optuna_softprune.evaluation._lazy import LazyCandidate, Watch, lazy_class, lazy_module
from optuna_softprune.evaluation._memory import Memory
from optuna_softprune.evaluation._program import NotSharedError, Operation, Program, program
from optuna_softprune.evaluation._sizes import Sizes
from optuna_softprune.graph import map_tensors, tensors
from optuna_softprune.removal import random_parts, remove, smaller

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from numpy.typing import NDArray

    from optuna_softprune.graph import Network
    from optuna_softprune.removal import Kept

# Passes in a row that had nothing in common with others, after which none is remembered for a while.
BARREN = 16
# Passes in a row with unknown inputs after which inputs are no longer compared.
PATIENCE = 64
WHOLE = "Forward passes are not shared, each candidate is evaluated whole: "


class Candidate(NamedTuple):
    """Units kept: of each group how many, and of all units which."""

    counts: tuple[int, ...]
    kept: Kept


class Place(NamedTuple):
    """The how manieth call of a metric, and the precision of autocast."""

    call: int
    autocast: torch.dtype | None


class Evaluator:
    """Makes removed networks whose forward passes share what they have in common.

    A value inside a network depends on the input and on the units kept in the groups upstream of it. It is looked up
    by these, or computed on the kept weights and remembered. The module that a metric is given is of the user's own
    class, and returns what the removed module returns; whatever else is asked of it is answered by the removed module
    itself, which is made then. The n-th call's input is compared with the n-th that is remembered, element by element.

    Where passes cannot be shared, `say` is told once why, and the removed module does all the work.

    Args:
        model: The dense network; it is only read, and must not change.
        network: Its groups.
        budget: Bytes that remembered inputs, values and weights may take.
        say: Is told why something is not shared.
    """

    def __init__(self, model: nn.Module, network: Network, budget: int, say: Callable[[str], None]) -> None:
        self._model, self._network, self._say = model, network, say
        self.memory = Memory(budget)
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._inputs: dict[Place, list[Any]] = {}
        self._unknown = self._barren = 0
        self._recent: deque[Hashable] = deque(maxlen=512)
        self._proven: dict[Hashable, str] = {}
        self._weights = dict(tensors(model))
        self._names: dict[int, tuple[str, ...]] = {}
        for name, tensor in tensors(model, aliases=True):
            self._names[id(tensor)] = (*self._names.get(id(tensor), ()), name)
        devices = {tensor.device for tensor in self._weights.values()}
        self._device = devices.pop() if len(devices) == 1 else None
        self._grows = any(parameter.requires_grad for parameter in model.parameters())
        self._kind = lazy_class(type(model)) if budget else None
        self._program = self._made_program() if budget else None

    def module(self, candidate: Candidate, watch: Watch | None = None) -> nn.Module:
        """Return the removed network of a candidate, in eval mode; nobody else uses it.

        Args:
            candidate: The units that it keeps.
            watch: Is told when it is called.
        """
        watch = watch or Watch()
        make = functools.partial(self._removed, candidate)
        if self._program is not None and _has_hooks(self._model):
            self.tell(f"{WHOLE}the network has hooks, which may look at its inside.")
            self._program = None
        if self._program is None or self._kind is None:
            module = make()
            watch.on(module)
            return module
        first = next(self._model.named_parameters(), None)
        shown = first and (self._names[id(first[1])], functools.partial(self._copied, *first, candidate))
        passes = _Passes(self, self._program, candidate)
        return lazy_module(self._kind, LazyCandidate(make, passes, self._device, shown, watch))

    def _removed(self, candidate: Candidate) -> nn.Module:
        return remove(self._model, self._network, candidate.kept, share=False).eval()

    def _copied(self, name: str, dense: nn.Parameter, candidate: Candidate) -> nn.Parameter:
        small = smaller(self._network, name, dense.detach(), candidate.kept)
        return nn.Parameter(small.clone(), requires_grad=dense.requires_grad)

    def _made_program(self) -> Program | None:
        floating = [tensor for tensor in self._weights.values() if tensor.is_floating_point()]
        try:
            if self._kind is None:
                raise NotSharedError(f"`{type(self._model).__name__}` has its own way to be called")
            if self._device is None:
                raise NotSharedError("the network lies on several devices")
            return program(self._network, floating[0].dtype, self._device)
        except NotSharedError as reason:
            self.tell(f"{WHOLE}{reason}.")
            return None

    def tell(self, reason: str) -> None:
        """Say something once."""
        with self._lock:
            if reason in self._said:
                return
            self._said.add(reason)
        self._say(reason)

    def flat_inputs(self, program: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """Return the inputs of a call in the order of the graph.

        Raises:
            NotSharedError: If the graph is none of such a call.
        """
        try:
            flat = self._network.exported.flatten_inputs((args, kwargs))
        except (ValueError, TypeError, AttributeError):
            raise NotSharedError("the inputs are nested in another way than the example's") from None
        for given, example in zip(flat, program.example, strict=True):
            if isinstance(given, Tensor) != isinstance(example, Tensor) or (
                not isinstance(given, Tensor) and (type(given) is not type(example) or given != example)
            ):
                raise NotSharedError("an input differs from the example's")
        given_tensors = [each for each in flat if isinstance(each, Tensor)]
        if torch.is_grad_enabled() and (self._grows or any(each.requires_grad for each in given_tensors)):
            raise NotSharedError("the metric runs the network with gradients enabled; call it under `torch.no_grad()`")
        if any(each.device != self._device for each in given_tensors):
            raise NotSharedError("inputs and weights lie on different devices")
        return list(flat)

    def prove(self, program: Program, flat: Sequence[Any], call: tuple[Any, Any], mode: Hashable) -> None:
        """Compare, once for inputs of some shape in some mode, the program with a removed module.

        Raises:
            NotSharedError: If they differ.
        """
        key = (mode, *((tuple(each.shape), each.dtype) if isinstance(each, Tensor) else "" for each in flat))
        if key not in self._proven:
            self._proven[key] = self._difference(program, flat, call, mode)
        if self._proven[key]:
            raise NotSharedError(self._proven[key])

    def _difference(self, program: Program, flat: Sequence[Any], call: tuple[Any, Any], mode: Hashable) -> str:
        """Return what differs between the program and the module with about half of all units removed."""
        exported = self._network.exported
        _, kept = random_parts(self._network, self._network.groups)
        args, kwargs = map_tensors(call, torch.clone)
        devices = [self._device] if self._device is not None and self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            try:
                module = remove(self._model, self._network, kept, share=True).eval()
                before = _state(module)
                expected = exported.flatten_outputs(module(*args, **kwargs))
                if _state(module) != before:
                    return "its forward pass leaves something behind in the network"
            except Exception:
                return "the removed network does not take these inputs"  # its own error will say why
            try:
                got = self.run(program, Candidate((), kept), flat, None, may_write=mode is None)
            except Exception as error:
                return f"the exported graph does not take such inputs ({type(error).__name__})"
        same = all(_alike(one, other) for one, other in zip(got, expected, strict=True))
        return "" if same else "the exported graph does not compute what the network computes on such inputs"

    def recognise(self, place: Place, flat: Sequence[Any]) -> bool:
        """Whether the inputs of a pass are those that are remembered at its place; the first are remembered.

        Raises:
            NotSharedError: If they are those of the call before: a metric that measures time repeats itself.
        """
        if self._unknown >= PATIENCE:
            return False
        with self._lock:
            if place not in self._inputs:
                before = self._inputs.get(place._replace(call=place.call - 1))
                if before is not None and all(_equal(one, other) for one, other in zip(before, flat, strict=True)):
                    self._program = None
                    raise NotSharedError(
                        "the metric runs the network again on the same input, as if to measure its speed (a metric "
                        "that measures it in one pass needs `cache_bytes=0`)"
                    )
                if self.memory.reserve(sum(each.nbytes for each in flat if isinstance(each, Tensor))):
                    self._inputs[place] = [each.clone() if isinstance(each, Tensor) else each for each in flat]
        if place not in self._inputs:
            self.tell(
                f"Only a part of the forward passes is shared: the metric's inputs take more than half of "
                f"{self.memory.budget / 2**20:.0f} MiB; give `cache_bytes` more."
            )
            return False
        known = all(_equal(one, other) for one, other in zip(self._inputs[place], flat, strict=True))
        self._unknown = 0 if known else self._unknown + 1
        if self._unknown == PATIENCE:
            self.tell(
                "Forward passes share only weights: the inputs of the metric differ from candidate to candidate "
                "(shuffled data, or a closed loop)."
            )
        return known

    def is_promising(self, program: Program, candidate: Candidate, place: Place) -> bool:
        """Whether a pass may have something in common with others.

        Not if a number of passes in a row had nothing, and this one has nothing in common with them: a search that
        jumps about pays neither for comparing inputs nor for remembering values.
        """
        if self._barren < BARREN:
            return True
        operations = program.operations.items()
        keys = [_key(number, each, candidate, place) for number, each in operations if each.shared and each.of_input]
        with self._lock:
            seen = any(key in self._recent for key in keys)
            self._recent.extend(keys)
        if seen:
            self._barren = 0
        return seen

    def run(
        self,
        program: Program,
        candidate: Candidate,
        flat: Sequence[Any],
        place: Place | None,
        *,
        may_write: bool = False,
        remember: bool = False,
    ) -> list[Any]:
        """Return the flat outputs of a pass.

        Args:
            program: What is computed.
            candidate: For which candidate.
            flat: The flat inputs.
            place: Where these inputs are remembered; None: nowhere.
            may_write: Whether operations may write into operands that nobody needs any more.
            remember: Whether values and weights are looked up and remembered.
        """
        values: list[Any] = [None] * program.length
        for number, given in zip(program.inputs, flat, strict=True):
            values[number] = given
        batch = next((each.shape[0] for each in flat if isinstance(each, Tensor) and each.dim()), 1)
        sizes = Sizes(candidate.kept, batch, program.batch, may_write)
        own = {each.untyped_storage().data_ptr() for each in flat if isinstance(each, Tensor)}
        held: set[int] = set()

        def key_of(number: int) -> Hashable:
            """Return under what a value is remembered, or None if it is not."""
            operation = program.operations[number]
            if not remember or not operation.shared or (place is None and operation.of_input):
                return None
            return _key(number, operation, candidate, place)

        found_something = False
        missing: set[int] = set()
        stack = [each for each in program.outputs if isinstance(each, int)]
        while stack:
            number = stack.pop()
            if values[number] is not None or number in missing:
                continue
            if number in program.operations:
                key = key_of(number)
                if key is not None and (found := self.memory.get(key)) is not None:
                    values[number] = found
                    found_something |= program.operations[number].of_input
                    held.add(found.untyped_storage().data_ptr())
                else:
                    missing.add(number)
                    stack += program.operations[number].sources
            elif number in program.weights:
                values[number] = self._weight(program, candidate, number, remember)
                held.add(values[number].untyped_storage().data_ptr())
            elif number in program.constants:
                values[number] = program.constants[number]
                held.add(values[number].untyped_storage().data_ptr())
        if place is not None:
            self._barren = 0 if found_something else self._barren + 1
        for number, operation in program.operations.items():
            if number not in missing:
                continue
            value = values[number] = operation.run(values, sizes)
            key = key_of(number)
            if key is not None and value.untyped_storage().data_ptr() not in own:
                self.memory.put(key, value)
                held.add(value.untyped_storage().data_ptr())
            for done in operation.done_with:
                values[done] = None
        return [
            _own(values[each], held) if isinstance(each, int) else each[0]  # no value, but a constant
            for each in program.outputs
        ]

    def restored(self, outputs: list[Any]) -> Any:
        """Return flat outputs as the network returns them."""
        return self._network.exported.restore_outputs(outputs)

    def _weight(self, program: Program, candidate: Candidate, number: int, remember: bool) -> Tensor:
        """Return what is kept of a parameter or buffer."""
        name, groups = program.weights[number]
        dense = self._weights[name].detach()
        if not groups or not remember:
            return smaller(self._network, name, dense, candidate.kept)
        key = (name, *(candidate.counts[group] for group in groups))
        found = self.memory.get(key)
        if found is None:
            found = smaller(self._network, name, dense, candidate.kept)
            if found is not dense:
                self.memory.put(key, found)
        return found


class _Passes:
    """The forward passes of one candidate, counted."""

    def __init__(self, evaluator: Evaluator, program: Program, candidate: Candidate) -> None:
        self._evaluator, self._program, self._candidate = evaluator, program, candidate
        self._next = 0

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        evaluator = self._evaluator
        try:
            flat = evaluator.flat_inputs(self._program, args, kwargs)
            device = next((each.device.type for each in flat if isinstance(each, Tensor)), "cpu")
            autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            evaluator.prove(self._program, flat, (args, kwargs), autocast)
            place = Place(self._next, autocast)
            self._next += 1
            promising = evaluator.is_promising(self._program, self._candidate, place)
            known = promising and evaluator.recognise(place, flat)
        except NotSharedError as reason:
            evaluator.tell(f"{WHOLE}{reason}.")
            raise
        outputs = evaluator.run(
            self._program,
            self._candidate,
            flat,
            place if known else None,
            may_write=autocast is None,
            remember=promising,
        )
        return evaluator.restored(outputs)


def _key(number: int, operation: Operation, candidate: Candidate, place: Place | None) -> Hashable:
    """Return what a value depends on."""
    where = place if operation.of_input else None
    return (number, where, *(candidate.counts[group] for group in operation.groups))


def _has_hooks(model: nn.Module) -> bool:
    return any(vars(module)[kind] for module in model.modules() for kind in ("_forward_hooks", "_forward_pre_hooks"))


def _state(model: nn.Module) -> list[tuple[str, int, int]]:
    """Return what identifies the attributes of all modules, and how long lists and the like are."""
    return [
        (name, id(value), len(value) if isinstance(value, (list, dict, set)) else 0)
        for module in model.modules()
        for name, value in vars(module).items()
    ]


def _alike(one: Any, other: Any) -> bool:
    """Whether two outputs are equal but for rounding."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    rounding = torch.finfo(one.dtype).eps ** 0.5
    scale = other.abs().nan_to_num(posinf=0.0).max().item() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=rounding, atol=rounding * scale, equal_nan=True)


def _equal(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor):
        return True  # compared with the example's before
    if one.shape != other.shape or one.dtype != other.dtype or one.device != other.device:
        return False
    if one.device.type == "cpu" and one.is_contiguous() and other.is_contiguous():
        return np.array_equal(_bytes(one), _bytes(other))  # 6 times as fast as `torch.equal`, and right for NaN
    return torch.equal(one, other)


def _bytes(tensor: Tensor) -> NDArray[np.uint8]:
    held: NDArray[np.uint8] = tensor.detach().view(-1).view(torch.uint8).numpy()
    return held


def _own(value: Any, held: set[int]) -> Any:
    """Return an output in memory that nothing here keeps."""
    kept = isinstance(value, Tensor) and value.untyped_storage().data_ptr() in held
    return value.clone() if kept else value
