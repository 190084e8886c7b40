"""Evaluate many candidates of one network: what a forward pass has in common with earlier ones is looked up."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _get_current_dispatch_mode  # torch has no public way to ask

from optuna_softprune.evaluation._blocks import block_length, blocks, is_by_example, joined
from optuna_softprune.evaluation._candidate import Candidate
from optuna_softprune.evaluation._inputs import Inputs, Place
from optuna_softprune.evaluation._lazy import LazyCandidate, lazy_class, lazy_module
from optuna_softprune.evaluation._memory import Memory
from optuna_softprune.evaluation._shareable import NotSharedError, Shareable, examples, shareable
from optuna_softprune.evaluation._sharing import Sharing
from optuna_softprune.evaluation._watch import Watch
from optuna_softprune.graph import first_line, map_tensors, tensors
from optuna_softprune.reconstruction import Solutions
from optuna_softprune.removal import random_part, remove

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence
    from contextlib import AbstractContextManager

    from optuna_softprune.graph import Network
    from optuna_softprune.reconstruction import Statistics, Weights

# On how many examples of a call a candidate is compared with its removed network.
FEW = 2
WHOLE = "Forward passes are not shared, each candidate is evaluated whole: "


class Evaluator:
    """Makes removed networks whose forward passes share what they have in common.

    A value inside a network depends on the input and on the units kept in the groups upstream of it. It is looked up
    by these, or computed on the kept weights and remembered. The module that a metric is given is of the user's own
    class, and returns what the removed module returns but for rounding; whatever else is asked of it is answered by the
    removed module itself, which is made then. What it returns does not depend on what is remembered, to the last bit.
    The n-th call's input is compared with the n-th that is remembered, element by element.
    On a CPU long inputs go through in blocks of examples, where that was seen to change no bit and no example sees
    another.

    Where passes cannot be shared, `say` is told once why, and the removed module does all the work.

    Args:
        model: The dense network; it is only read, and must not change.
        network: Its groups.
        weights: What gives a candidate its weights.
        budget: Bytes that remembered inputs, values and weights may take.
        say: Is told why something is not shared.
    """

    def __init__(
        self, model: nn.Module, network: Network, weights: Weights, budget: int, say: Callable[[str], None]
    ) -> None:
        self._model, self._network, self._weights, self._say = model, network, weights, say
        self._modules, self._first = tuple(model.modules()), next(model.named_parameters(), None)
        self.memory = Memory(budget)
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._ways: dict[Hashable, _Way] = {}
        self._calibrated: list[list[Any]] | None = None
        self._dense = {name: tensor.detach() for name, tensor in tensors(model)}
        self.inputs = Inputs(self.memory, self.tell)
        self._names: dict[int, tuple[str, ...]] = {}
        for name, tensor in tensors(model, aliases=True):
            self._names[id(tensor)] = (*self._names.get(id(tensor), ()), name)
        devices = {tensor.device for tensor in self._dense.values()}
        self._device = devices.pop() if len(devices) == 1 else None
        self._grows = any(parameter.requires_grad for parameter in model.parameters())
        self._kind = lazy_class(type(model)) if budget else None
        self._sharing = self._made_sharing() if budget else None

    def module(self, candidate: Candidate, watch: Watch | None = None) -> nn.Module:
        """Return the removed network of a candidate, in eval mode; nobody else uses it.

        Args:
            candidate: The units that it keeps.
            watch: Is told when it is used.
        """
        watch = watch or Watch()
        make = functools.partial(self._removed, candidate)
        if self._sharing is not None and any(map(_has_hooks, self._modules)):
            self.tell(f"{WHOLE}the network has hooks, which may look at its inside.")
            self._sharing = None
        if self._sharing is None or self._kind is None or self.inputs.repeated:
            module = make()
            watch.on(module)
            return module
        first = self._first
        shown = first and (self._names[id(first[1])], functools.partial(self._copied, *first, candidate))
        passes = _Passes(self, self._sharing, candidate, watch)
        return lazy_module(self._kind, LazyCandidate(make, passes, self._device, shown, watch))

    def difference(self, candidate: Candidate, call: tuple[tuple[Any, ...], dict[str, Any]]) -> str:
        """Return how the removed network differs from what a metric saw of a candidate; empty if it does not.

        Both see the first examples of a call; the random state is put back.
        """
        sharing = self._sharing
        if sharing is None:
            return ""
        number = examples(pytree.tree_leaves(call))
        few = map_tensors(call, lambda each: each[:FEW] if each.dim() and len(each) == number else each)
        problem = ""
        # Some networks take only as many examples as they are used to, or say how many they were given.
        for args, kwargs in (few, call):
            try:
                with torch.no_grad(), self._exactly():
                    self.way(sharing, self.flat_inputs(sharing.program, args, kwargs), (args, kwargs), None)
                    got, expected = self._both(sharing, candidate, args, kwargs)
            except NotSharedError:
                problem = ""
                continue
            except Exception as error:
                problem = f"the removed network fails ({first_line(error)})"
                continue
            if all(_alike(one, other) for one, other in zip(got, expected, strict=True)):
                return ""
            return "the exported graph does not compute what the removed network computes"
        return problem

    def _both(
        self, sharing: Sharing, candidate: Candidate, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[list[Any], list[Any]]:
        """Return the flat outputs of the program and of the removed network."""
        with self._same_randomness():
            flat = self.flat_inputs(sharing.program, args, kwargs)
            known = self.known(sharing, candidate, remember=False)
            got = sharing.run(candidate, flat, None, known, exact=True, remember=True)
            args, kwargs = map_tensors((args, kwargs), torch.clone)
            return got, self._network.exported.flatten_outputs(self._removed(candidate, share=True)(*args, **kwargs))

    def share_nothing(self) -> None:
        """Evaluate each candidate whole from now on."""
        self._sharing = None

    def _removed(self, candidate: Candidate, *, share: bool = False) -> nn.Module:
        kept, weights = candidate.kept, self._weights
        return remove(self._model, self._network, kept, share=share, weights=weights, known=self._known()).eval()

    def _known(self) -> Solutions:
        """Return what is known of any candidate."""
        return Solutions(self.memory)

    def known(self, sharing: Sharing, candidate: Candidate, *, remember: bool) -> Solutions:
        """Return what is known of a candidate's weights, its measured buffers included."""
        known, statistics = self._known(), self._weights.measured(candidate.kept)
        if statistics:
            with torch.no_grad(), self._exactly():
                batches = self._flat_calibration(sharing)
                if batches is None:
                    known.own.update(_buffers(self._removed(candidate), statistics))
                else:
                    sharing.measure(candidate, statistics, batches, known, remember=remember)
        return known

    def _same_randomness(self) -> AbstractContextManager[None]:
        """Put the random state back, of the CPU and of the network's device."""
        on_cuda = self._device is not None and self._device.type == "cuda"
        return torch.random.fork_rng(devices=[self._device] if on_cuda else [])

    def _exactly(self) -> torch.autocast:
        """Let operations compute in the precision of their operands, whatever the metric does."""
        return torch.autocast("cpu" if self._device is None else self._device.type, enabled=False)

    def _flat_calibration(self, sharing: Sharing) -> list[list[Any]] | None:
        """Return the flat inputs that buffers are measured on; None if passes of them cannot be shared."""
        if self._calibrated is None:
            try:
                self._calibrated = [
                    self._shareable(sharing, tuple(batch)) for batch in self._weights.inputs(self._model)
                ]
            except NotSharedError as reason:
                self.tell(f"Batch-norm statistics of each candidate are measured whole: {reason}.")
                self._calibrated = []
        return self._calibrated or None

    def _shareable(self, sharing: Sharing, args: tuple[Any, ...]) -> list[Any]:
        flat = self.flat_inputs(sharing.program, args, {})
        self.way(sharing, flat, (args, {}), None)
        return flat

    def _copied(self, name: str, dense: nn.Parameter, candidate: Candidate) -> nn.Parameter:
        small = self._weights.of(name, dense.detach(), candidate.kept, self._known())
        return nn.Parameter(small.clone(), requires_grad=dense.requires_grad)

    def _made_sharing(self) -> Sharing | None:
        floating = [tensor for tensor in self._dense.values() if tensor.is_floating_point()]
        try:
            if self._kind is None:
                raise NotSharedError(f"`{type(self._model).__name__}` has its own way to be called")
            if self._device is None:
                raise NotSharedError("the network lies on several devices")
            made = shareable(self._network, self._weights.depends, floating[0].dtype, self._device)
            return Sharing(made, self._weights, self._dense, self.memory)
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

    def flat_inputs(self, program: Shareable, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
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

    def way(self, sharing: Sharing, flat: Sequence[Any], call: tuple[Any, Any], mode: Hashable) -> _Way:
        """Return how passes of inputs of some shape in some mode are made.

        The program is compared with a removed module once.

        Raises:
            NotSharedError: If they differ.
        """
        key = (mode, *((tuple(each.shape), each.dtype) if isinstance(each, Tensor) else "" for each in flat))
        if key not in self._ways:
            self._ways[key] = self._proven(sharing, flat, call, mode)
        if self._ways[key].problem:
            raise NotSharedError(self._ways[key].problem)
        return self._ways[key]

    def _proven(self, sharing: Sharing, flat: Sequence[Any], call: tuple[Any, Any], mode: Hashable) -> _Way:
        """Compare the program and the module with about half of all units removed."""
        exported = self._network.exported
        kept = random_part(self._network)
        some = Candidate.of(self._network, kept)
        args, kwargs = map_tensors(call, torch.clone)
        with self._same_randomness():
            try:
                module = self._removed(some)
                before = _state(module)
                expected = exported.flatten_outputs(module(*args, **kwargs))
                if _state(module) != before:
                    return _Way("its forward pass leaves something behind in the network")
            except Exception:
                return _Way("the removed network does not take these inputs")  # its own error will say why
            length = block_length(sharing.program, flat)
            known = self._known()
            known.own.update(_buffers(module, self._weights.measured(kept)))
            run = functools.partial(sharing.run, some, place=None, known=known, exact=mode is None)
            try:
                got = run(flat)
            except Exception as error:
                return _Way(f"the exported graph does not take such inputs ({type(error).__name__})")
            if not all(_alike(one, other) for one, other in zip(got, expected, strict=True)):
                return _Way("the exported graph does not compute what the network computes on such inputs")
            return _Way("", length if length and is_by_example(run, flat, length, got) else None)

    def restored(self, outputs: list[Any]) -> Any:
        """Return flat outputs as the network returns them."""
        return self._network.exported.restore_outputs(outputs)


class _Way(NamedTuple):
    """How passes are made.

    Attributes:
        problem: Why they cannot be shared; empty if they can.
        block: How many examples go through the network together; None: all.
    """

    problem: str
    block: int | None = None


class _Passes:
    """The forward passes of one candidate, counted."""

    def __init__(self, evaluator: Evaluator, sharing: Sharing, candidate: Candidate, watch: Watch) -> None:
        self._evaluator, self._sharing, self._candidate, self._watch = evaluator, sharing, candidate, watch
        self._next, self._promising = 0, False
        self._known: Solutions | None = None

    def __call__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        evaluator, sharing, candidate = self._evaluator, self._sharing, self._candidate
        try:
            if _get_current_dispatch_mode() is not None:
                raise NotSharedError("the metric looks at each operation")
            flat = evaluator.flat_inputs(sharing.program, args, kwargs)
            device = next((each.device.type for each in flat if isinstance(each, Tensor)), "cpu")
            autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            way = evaluator.way(sharing, flat, (args, kwargs), autocast)
            place = Place(self._next, autocast)
            if place.call == 0:
                self._promising = sharing.is_promising(candidate, place)
            self._next += 1
            known = self._promising and evaluator.inputs.recognise(place, flat)
        except NotSharedError as reason:
            evaluator.tell(f"{WHOLE}{reason}.")
            raise
        if self._known is None:
            self._known = evaluator.known(sharing, candidate, remember=self._promising)
        outputs = [
            sharing.run(
                candidate,
                block,
                place._replace(block=i) if known else None,
                self._known,
                exact=autocast is None,
                remember=self._promising,
            )
            for i, block in enumerate(blocks(flat, way.block))
        ]
        self._watch.shared = self._watch.shared or (args, kwargs)
        return evaluator.restored(joined(outputs))


def _buffers(module: nn.Module, statistics: Sequence[Statistics]) -> dict[str, Tensor]:
    """Return buffers by name."""
    return {name: module.get_buffer(name) for each in statistics for name in (each.mean, each.variance)}


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _state(model: nn.Module) -> list[tuple[str, int, int]]:
    """Return what identifies the attributes of all modules, and how long lists and the like are."""
    return [
        (name, id(value), len(value) if isinstance(value, (list, dict, set)) else 0)
        for module in model.modules()
        for name, value in vars(module).items()
    ]


def _alike(one: Any, other: Any) -> bool:
    """Whether two outputs are equal but for rounding."""
    if isinstance(one, float) and isinstance(other, float):
        one, other = torch.tensor(one), torch.tensor(other)
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    rounding = torch.finfo(one.dtype).eps ** 0.5
    scale = other.abs().nan_to_num(posinf=0.0).max().item() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=rounding, atol=rounding * scale, equal_nan=True)
