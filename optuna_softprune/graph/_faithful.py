"""Whether a copy of a network is the network: computes the same, and leaves alone what belongs to the network itself.

`copy.deepcopy` copies objects, but not functions: what a hook or another function has closed over stays that of the
original, and so does what a weak reference leads to.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import types
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from optuna_softprune.graph._copy import IMMUTABLE, copy_with, map_tensors
from optuna_softprune.graph._network import tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONTAINERS = (dict, list, set, deque)
# What copies share and keep as it is.
ATOMIC = (type, types.ModuleType, types.CodeType, property, torch.device, torch.dtype)
# By which a class says how it is copied.
WAYS = ("__deepcopy__", "__reduce__", "__reduce_ex__", "__getstate__")
HOOKS = {
    "_forward_hooks": "a forward hook",
    "_forward_pre_hooks": "a forward pre-hook",
    "_backward_hooks": "a backward hook",
}


class _Place(NamedTuple):
    """An object that can be reached from a network, and how."""

    name: str
    value: Any


def expect_copies_to_be_alike(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Raise unless a copy of `model` computes what `model` does on the example, and leaves `model` as it is.

    Both run once in eval mode. What they leave behind in the network, and in what its functions have closed over, is
    put back.

    Raises:
        TypeError: If they differ; the message names what they share.
    """
    own, closed_over = _reachable(model)
    with _put_back([*own.values(), *closed_over.values()]), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        twin = copy_with(model, lambda _, tensor: tensor.clone()).eval()
        inputs = _placed(model, (args, dict(kwargs)))
        try:
            expected = _outputs(model.eval(), inputs)
        except Exception:
            return  # what is wrong with the network or its inputs is said where it is exported
        before = {key: _contents(place.value) for key, place in own.items() if _is_mutable(place.value)}
        foreign = _Foreign({id(tensor): name for name, tensor in tensors(model)})
        try:
            with foreign:
                got = _outputs(twin, inputs)
        except Exception as error:
            problem = f"the copy fails where `model` does not ({type(error).__name__}: {error})"
        else:
            written = [own[key].name for key, contents in before.items() if _contents(own[key].value) != contents]
            if foreign.read:
                problem = f"the copy reads `{foreign.read}` of `model` itself"
            elif written:
                problem = f"the copy writes to `{written[0]}` of `model` itself"
            elif _alike(got, expected) or not _alike(
                _outputs(model, inputs), expected
            ):  # which is random, or has state
                return
            else:
                problem = "their outputs differ"
    shared = _shared(own, twin)
    raise TypeError(
        f"Expected a copy of `model` to compute what `model` computes, but {problem}. "
        + (f"Copies share with it: {'; '.join(shared[:5])}. " if shared else "")
        + "Let hooks and functions take what they need from the module that they are called with, or make them methods "
        "of a module (`register_forward_hook(self.keep)`), and keep what they find in its attributes."
    )


@contextlib.contextmanager
def surroundings_kept(model: nn.Module) -> Iterator[None]:
    """Put back what the functions of `model` have closed over, whatever copies of it, whose functions these are, do."""
    _, closed_over = _reachable(model)
    with _put_back(list(closed_over.values())):
        yield


@contextlib.contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Let what is traced leave nothing behind in `model` but values of tensors: no cache, no parameter made late."""
    own, _ = _reachable(model)
    with _put_back([place for place in own.values() if not isinstance(place.value, Tensor)]):
        yield


def names_of_tensors(model: nn.Module) -> dict[int, str]:
    """Return by address where `model`, and what its functions have closed over, hold tensors."""
    own, closed_over = _reachable(model)
    places = [place for place in (*closed_over.values(), *own.values()) if isinstance(place.value, Tensor)]
    return {place.value.data_ptr(): _written(place.name) for place in places if not place.value.is_meta}


def _written(name: str) -> str:
    return name if " " in name else f"`{name}`"


def _outputs(model: nn.Module, inputs: tuple[Any, Any]) -> list[Any]:
    args, kwargs = map_tensors(inputs, torch.clone)
    devices = sorted({each.device.index or 0 for each in model.parameters() if each.is_cuda})
    with torch.random.fork_rng(devices=devices):  # all runs begin with the same random state
        leaves: list[Any] = pytree.tree_leaves(model(*args, **kwargs))
    return [each.clone() if isinstance(each, Tensor) else each for each in leaves]


def _placed(model: nn.Module, inputs: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return inputs on the device of the network, if it has one."""
    devices = {each.device for each in model.parameters()}
    if len(devices) != 1:
        return inputs
    device = devices.pop()
    placed: tuple[Any, Any] = map_tensors(inputs, lambda tensor: tensor.to(device))
    return placed


class _Foreign(TorchFunctionMode):
    """Notes which of some tensors is read first."""

    def __init__(self, tensors: Mapping[int, str]) -> None:
        super().__init__()
        self._tensors, self.read = tensors, ""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if not self.read:
            given = pytree.tree_leaves((args, kwargs))
            self.read = next((self._tensors[id(each)] for each in given if id(each) in self._tensors), "")
        return func(*args, **(kwargs or {}))


def _alike(got: list[Any], expected: list[Any]) -> bool:
    return len(got) == len(expected) and all(_alike_leaf(*pair) for pair in zip(got, expected, strict=True))


def _alike_leaf(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and (type(one) not in IMMUTABLE or one == other or one != one)
    if one.layout != torch.strided or one.is_nested:
        return True  # `torch.export` refuses it
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not (one.is_floating_point() or one.is_complex()):
        return torch.equal(one, other)
    rounding = torch.finfo(one.dtype).eps ** 0.5
    scale = other.abs().nan_to_num(posinf=0.0).max().item() if other.numel() else 0.0
    return torch.allclose(one, other, rtol=rounding, atol=rounding * scale, equal_nan=True)


def _reachable(model: nn.Module) -> tuple[dict[int, _Place], dict[int, _Place]]:
    """Return by id what the network holds, and what else its functions have closed over."""
    own: dict[int, _Place] = {}
    functions, _ = _walk([_Place("", model)], own, stop={})
    through: dict[int, _Place] = {}
    while functions:
        functions, _ = _walk([each for function in functions for each in _closed_over(function)], through, stop=own)
    return own, through


def _shared(own: Mapping[int, _Place], twin: nn.Module) -> list[str]:
    """Return what a copy shares with the network, and which of its functions lead there."""
    of_twin: dict[int, _Place] = {}
    functions, _ = _walk([_Place("", twin)], of_twin, stop={})
    found = [f"`{place.name}`" for key, place in of_twin.items() if key in own and _is_mutable(place.value)]
    seen: dict[int, _Place] = {}
    while functions:
        functions, met = _walk([each for function in functions for each in _closed_over(function)], seen, stop=own)
        found += [
            f"{place.name}, which leads to {_described(own[id(place.value)])}"
            for place in met
            if _is_mutable(place.value)
        ]
    return found


def _described(place: _Place) -> str:
    return f"`{place.name}` of `model`" if place.name else "`model` itself"


def _walk(
    places: list[_Place], found: dict[int, _Place], stop: Mapping[int, _Place]
) -> tuple[list[_Place], list[_Place]]:
    """Add to `found` what can be reached from `places` by ways that a copy follows, not past what is in `stop`.

    Returns:
        The functions met, and what in `stop` was met.
    """
    functions, met = [], []
    stack = list(reversed(places))
    while stack:
        place = stack.pop()
        value = place.value
        if id(value) in stop:
            met.append(place)
        elif type(value) not in IMMUTABLE and not isinstance(value, ATOMIC) and id(value) not in found:
            found[id(value)] = place
            if isinstance(value, (types.FunctionType, weakref.ref)):
                functions.append(place)
            else:
                stack.extend(reversed(list(_held(place))))
    return functions, met


def _held(place: _Place) -> Iterator[_Place]:
    """Yield what an object holds, with names as one would write them."""
    name, value = place
    if isinstance(value, Tensor):
        return
    if isinstance(value, nn.Module):
        prefix = f"{name}." if name else ""
        for key, each in vars(value).items():
            if key in ("_modules", "_parameters", "_buffers"):
                yield from (_Place(f"{prefix}{child}", held) for child, held in each.items())
            elif key in HOOKS:
                yield from (_Place(f"{HOOKS[key]} of `{name or 'model'}`", hook) for hook in each.values())
            elif type(each) not in IMMUTABLE:
                yield _Place(f"{prefix}{key}", each)
    elif isinstance(value, dict):
        yield from (_Place(f"{name}[{key!r}]", each) for key, each in list(value.items()))
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from (_Place(f"{name}[{i}]", each) for i, each in enumerate(list(value)))
    elif isinstance(value, types.MethodType):
        yield _Place(name, value.__self__)
    elif isinstance(value, functools.partial):
        yield from (_Place(name, each) for each in (value.func, *value.args, *value.keywords.values()))
    elif _is_copied_by_attributes(value):
        yield from (_Place(f"{name}.{key}", each) for key, each in list(vars(value).items()))


def _is_copied_by_attributes(value: Any) -> bool:
    kind = type(value)
    own = any(getattr(kind, name, None) is not getattr(object, name, None) for name in WAYS)
    return hasattr(value, "__dict__") and not own and kind.__module__.partition(".")[0] != "torch"


def _closed_over(place: _Place) -> Iterator[_Place]:
    """Yield what a function, or a weak reference, leads to."""
    name, function = place
    if isinstance(function, weakref.ref):
        yield _Place(f"the weak reference `{name}`", function())
        return
    said = f"{_written(name)} (function `{function.__name__}`)"
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for variable, cell in cells:
        with contextlib.suppress(ValueError):  # not filled yet
            yield _Place(f"`{variable}` in {said}", cell.cell_contents)
    for variable in function.__code__.co_names:
        value = function.__globals__.get(variable)
        if isinstance(value, CONTAINERS):
            yield _Place(f"`{variable}` in {said}", value)
    for each in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values(), *vars(function).values()):
        yield _Place(f"a default of {said}", each)


def _is_mutable(value: Any) -> bool:
    return isinstance(value, (*CONTAINERS, Tensor, nn.Module))


def _contents(value: Any) -> Any:
    """Return what identifies the contents of a container, an object with attributes or a tensor."""
    if isinstance(value, Tensor):
        return None if value.is_inference() else value._version
    if isinstance(value, dict):
        return [*map(id, value), *map(id, value.values())]
    if isinstance(value, CONTAINERS):
        return [*map(id, value)]
    return _contents(vars(value))


@contextlib.contextmanager
def _put_back(places: list[_Place]) -> Iterator[None]:
    """Give objects their contents again: modes, attributes, what lists and the like hold, values of tensors."""
    values = [place.value for place in places]
    before = [
        (each, each.detach(), each.detach().clone(), _contents(each)) for each in values if isinstance(each, Tensor)
    ]
    attributes = [vars(each) for each in values if isinstance(each, nn.Module) or _is_copied_by_attributes(each)]
    registered = [
        held
        for each in values
        if isinstance(each, nn.Module)
        for name, held in vars(each).items()
        if name in ("_modules", "_parameters", "_buffers", *HOOKS)
    ]
    containers = [
        (each, dict(each) if isinstance(each, dict) else copy.copy(each))
        for each in (*attributes, *registered, *(each for each in values if isinstance(each, CONTAINERS)))
    ]
    try:
        yield
    finally:
        for held, contents in containers:
            _refill(held, contents)
        with torch.no_grad():
            for tensor, view, value, version in before:
                if tensor.data_ptr() != view.data_ptr():
                    tensor.data = view
                if version is None or _contents(view) != version:
                    view.copy_(value)


def _refill(held: Any, before: Any) -> None:
    if len(held) == len(before) and (not before or _contents(held) == _contents(before)):
        return
    held.clear()
    if isinstance(held, (list, deque)):
        held.extend(before)
    else:
        held.update(before)
