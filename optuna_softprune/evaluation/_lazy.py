"""A removed module that is made when somebody looks at more of it than what it returns."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from optuna_softprune.evaluation._shareable import NotSharedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from optuna_softprune.evaluation._watch import Watch

CANDIDATE = "_softprune_candidate"
# Of a lazy class: method and arguments -> whether the user's own method does nothing to a module as it is made.
STILL = "_softprune_still"


class LazyCandidate:
    """What a lazy module stands for.

    Args:
        make: Makes the removed module, whole, in eval mode, sharing nothing.
        forward: `(args, kwargs) -> what the network returns`; raises `NotSharedError` where that needs the module.
        device: Of the weights; None if they lie on several.
        first: Name of the first parameter and a function that returns its kept elements, or None if there is none.
        watch: Is told of calls.
    """

    def __init__(
        self,
        make: Callable[[], nn.Module],
        forward: Callable[[tuple[Any, ...], dict[str, Any]], Any],
        device: torch.device | None,
        first: tuple[tuple[str, ...], Callable[[], nn.Parameter]] | None,
        watch: Watch,
    ) -> None:
        self.make, self.forward, self.device, self.first, self.watch = make, forward, device, first, watch
        self.shown: nn.Parameter | None = None

    def lies_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether `to(*args, **kwargs)` asks for the device that the weights lie on, and nothing else."""
        return (
            not kwargs
            and len(args) == 1
            and isinstance(args[0], (str, torch.device))
            and torch.device(args[0]) == self.device
        )

    def show(self) -> nn.Parameter | None:
        """Return the first parameter, for who only wants to know a device or a dtype."""
        if self.shown is None and self.first is not None:
            self.shown = self.first[1]()
        return self.shown

    def changed(self) -> bool:
        """Whether the parameter that was shown is no longer what it was."""
        return self.shown is not None and not torch.equal(self.shown, self.first[1]())  # type: ignore[index]

    def made(self) -> nn.Module:
        """Return the removed module."""
        module = self.make()
        if self.shown is not None:
            for name in self.first[0]:  # type: ignore[index]
                path, _, leaf = name.rpartition(".")
                setattr(module.get_submodule(path), leaf, self.shown)
        return module


def lazy_class(kind: type[nn.Module]) -> type[nn.Module] | None:
    """Return the class of lazy modules of `kind`, or None if `kind` is called or looked at in ways of its own.

    Calling one, asking for eval mode, for its device (`to`) or for the device or dtype of its first parameter, by
    properties of its class too, needs no module. Whatever else is asked makes it the removed module, an instance of
    `kind` itself, from then on.
    """
    own = {name for base in kind.__mro__ if base not in (nn.Module, object) for name in vars(base)}
    if own & {"__call__", "__getattribute__", "__slots__", "parameters"}:
        return None
    methods = {
        "__getattribute__": _getattribute,
        "__call__": _call,
        "eval": _eval,
        "train": _train,
        "to": _to,
        "parameters": _parameters,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        STILL: {},
    }
    metaclass: Any = type(kind)
    made: type[nn.Module] = metaclass(kind.__name__, (nn.Module,), methods)
    made.__bases__ = (kind,)  # by now: so its `__init_subclass__` does not hear of it
    return made


def lazy_module(kind: type[nn.Module], candidate: LazyCandidate) -> nn.Module:
    """Return a module of a lazy class."""
    module: nn.Module = kind.__new__(kind)
    object.__setattr__(module, CANDIDATE, candidate)
    return module


def _candidate(module: nn.Module) -> LazyCandidate | None:
    held: LazyCandidate | None = object.__getattribute__(module, "__dict__").get(CANDIDATE)
    return held


def _kind(module: nn.Module) -> type[nn.Module]:
    """Return the user's own class of a lazy module."""
    kind: type[nn.Module] = type(module).__mro__[1]
    return kind


def _become_real(module: nn.Module) -> None:
    candidate = _candidate(module)
    if candidate is None:
        return
    kind, real = _kind(module), candidate.made()
    candidate.watch.on(real)
    object.__setattr__(module, "__dict__", real.__dict__)
    object.__setattr__(module, "__class__", kind)


# The methods of a lazy class.


def _getattribute(self: nn.Module, name: str) -> Any:
    if _candidate(self) is not None:
        if name == "training":
            return False
        if name == "__class__":  # `isinstance` asks for it
            return _kind(self)
        is_property = isinstance(inspect.getattr_static(_kind(self), name, None), property)  # sees what it asks for
        if not is_property and name not in ("eval", "train", "to", "parameters", "__call__"):
            _become_real(self)
            return getattr(self, name)
    return object.__getattribute__(self, name)


def _call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
    candidate = _candidate(self)
    if candidate is not None and not candidate.changed():
        candidate.watch.note()
        try:
            return candidate.forward(args, kwargs)
        except NotSharedError:
            pass
    _become_real(self)
    return self(*args, **kwargs)


def _eval(self: nn.Module) -> nn.Module:
    return _unless_still(self, "eval", (), {})


def _train(self: nn.Module, mode: bool = True) -> nn.Module:
    return _unless_still(self, "train", (mode,), {})


def _to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    return _unless_still(self, "to", args, kwargs)


def _unless_still(module: nn.Module, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """Call a method on the removed module, unless it does nothing to that as it is made."""
    candidate = _candidate(module)
    if candidate is not None:
        asks = candidate.lies_on(args, kwargs) if method == "to" else args in ((), (False,))
        if asks and _is_still(module, candidate, method, args):
            return module
    _become_real(module)
    made: nn.Module = getattr(module, method)(*args, **kwargs)
    return made


def _is_still(module: nn.Module, candidate: LazyCandidate, method: str, args: tuple[Any, ...]) -> bool:
    """Whether a method of torch's, or of the class itself, does nothing; one of the class is tried once."""
    kind = _kind(module)
    if getattr(kind, method) is getattr(nn.Module, method):  # `eval` asks for `train`
        return method != "eval" or _is_still(module, candidate, "train", (False,))
    tried: dict[Any, bool] = getattr(type(module), STILL)
    key = (method, *map(str, args))
    if key not in tried:
        real = candidate.make()
        before = _identity(real)
        tried[key] = getattr(real, method)(*args) is real and _identity(real) == before
    return tried[key]


def _identity(model: nn.Module) -> list[Any]:
    """Return what identifies the attributes and tensors of a module."""
    tensors = [(id(each), each.data_ptr()) for each in (*model.parameters(), *model.buffers())]
    attributes = [(id(module), name, id(each)) for module in model.modules() for name, each in vars(module).items()]
    return [tensors, attributes]


def _parameters(self: nn.Module, recurse: bool = True) -> Iterator[Tensor]:
    candidate = _candidate(self)
    first = candidate.show() if candidate is not None and recurse else None
    if first is not None:
        yield first
    _become_real(self)
    yield from (each for each in self.parameters(recurse) if each is not first)
