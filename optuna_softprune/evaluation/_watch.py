"""Whether a metric used the network that it was given."""

from __future__ import annotations

import mmap
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn


class Watch:
    """Whether a network, a part or a copy of it may have been run.

    Attributes:
        used: Whether it was called, copied, pickled, scripted, or its state dict was taken, by this process or by one
            that it was forked to.
        seen: Whether its weights were there to be read, and used in ways that nobody sees.
        shared: `(args, kwargs)` of the first forward pass that shared values with others; None if none did.
    """

    def __init__(self) -> None:
        self._used = mmap.mmap(-1, 1)  # memory that forked processes share
        self.seen = False
        self.shared: tuple[tuple[Any, ...], dict[str, Any]] | None = None
        self._handles: list[Any] = []

    @property
    def used(self) -> bool:
        """Whether it was used."""
        return self._used[0] != 0

    def on(self, model: nn.Module) -> None:
        """Look at every module of `model`."""
        self.seen = True
        for module in model.modules():
            module._forward_pre_hooks = _Hooks(self, module._forward_pre_hooks)
            module._state_dict_pre_hooks = _Hooks(self, module._state_dict_pre_hooks)
            self._handles.append(module.register_forward_pre_hook(self.note))
            self._handles.append(module.register_state_dict_pre_hook(self.note))  # type: ignore[no-untyped-call]

    def off(self) -> None:
        """Leave no hook in the network."""
        for handle in self._handles:
            handle.remove()

    def note(self, *_: Any) -> None:
        """Note a use."""
        self._used[0] = 1


class _Hooks(OrderedDict[int, Any]):
    """The hooks of a module, with one that only the module itself has: copies, pickles and scripts do without.

    Torch has no public way to tell a hook that is copied from one that is not.
    """

    def __init__(self, watch: Watch, hooks: Mapping[int, Any]) -> None:
        super().__init__(hooks)
        self._watch = watch

    def __reduce__(self) -> Any:  # for `copy.deepcopy` as well
        self._watch.note()
        return OrderedDict, ([(key, hook) for key, hook in self.items() if hook != self._watch.note],)

    def values(self) -> Any:  # asked for by TorchScript
        self._watch.note()
        return OrderedDict((key, hook) for key, hook in self.items() if hook != self._watch.note).values()
