"""Why a network could not be exported, and what to do about it."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Mapping
from numbers import Number
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from optuna_softprune._errors import ExportError
from optuna_softprune.graph._reasons import user_line

if TYPE_CHECKING:
    from collections.abc import Iterator

FIT = (
    "Give them as `model(*example_inputs, **example_kwargs)` takes them; a device named inside the forward pass must "
    "follow its input's, and a dtype named there must be one that its layers take on the CPU."
)
# Characters of another library's message: some of torch write out a graph in one line.
LONGEST = 200
BRANCH = (
    "A branch on the values of a tensor, `.item()` and code outside of torch cannot be exported: write the branch with "
    "`torch.where`, or hand over the part of the network without it"
)


class NotExportableError(ExportError):
    """The network runs on the CPU, and `torch.export` refuses it: so it does in any other precision."""


def first_line(error: BaseException) -> str:
    """Return the class of `error` and the first line of its message."""
    message = str(error).strip()
    return f"{type(error).__name__}: {message.splitlines()[0][:LONGEST]}" if message else type(error).__name__


def refused(working: nn.Module, inputs: tuple[Any, Any], error: Exception) -> ExportError:
    """Tell inputs that do not fit, outputs that are objects, and a network that cannot be exported."""
    done: list[nn.Module] = []
    hooks = [module.register_forward_hook(lambda module, *_: done.append(module)) for module in working.modules()]
    try:
        outputs = working(*inputs[0], **inputs[1])
    except Exception as forward_error:
        expected = "Expected `example_inputs` and `example_kwargs` to fit the network, but its forward pass on the CPU"
        return ExportError(f"{expected} failed{_at(forward_error)}: {first_line(forward_error)}. {FIT}")
    finally:
        for hook in hooks:
            hook.remove()
    expected = "Expected `model` to be exportable, but `torch.export` failed"
    for value, where in ((inputs, "input"), (outputs, "output")):
        strange = next((each for each in _objects(value) if type(each).__name__ in str(error)), None)
        if strange is not None:
            return NotExportableError(f"{expected}: {first_line(error)}. {_object_remedy(type(strange), where)}")
    part = _part_before(working, error, done)
    instead = f": `model.{part}` runs before that line, and what is pruned of it can take its place" if part else ""
    return NotExportableError(f"{expected}{_at(error)}: {first_line(error)}. {BRANCH}{instead}.")


def _at(error: Exception) -> str:
    line = user_line(error)
    return f" at {line}" if line else ""


def _objects(value: Any) -> Iterator[Any]:
    """Yield what nested inputs or outputs hold besides tensors and plain values."""
    for each in pytree.tree_leaves(value):
        if each is not None and not isinstance(each, (Tensor, Number, str, bytes)):
            yield each


def _object_remedy(kind: type, where: str) -> str:
    name = kind.__name__
    plain = (
        "return tensors, tuples, lists and dicts only (networks of transformers do with "
        '`example_kwargs={"use_cache": False}` or `{"return_dict": False}`)'
        if where == "output"
        else "take tensors, tuples, lists and dicts only"
    )
    if issubclass(kind, Mapping):
        other = f", such as `dict(...)` of a `{name}`"
    elif dataclasses.is_dataclass(kind):
        other = f", or make the class known with `torch.export.register_dataclass({name})`"
    else:
        other = ""
    return f"An {where} of class `{name}` is one that `torch.export` does not look into: {plain}{other}."


def _part_before(working: nn.Module, error: Exception, done: list[nn.Module]) -> str:
    """Return the path of the largest part of the network that was through before the line that cannot be exported.

    Args:
        working: The network.
        error: What `torch.export` raised.
        done: The modules in the order in which a forward pass leaves them.
    """
    paths = {id(module): path for path, module in working.named_modules()}
    order = {id(module): i for i, module in reversed(list(enumerate(done)))}
    frames = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
    failing = list(dict.fromkeys(each for each in frames if isinstance(each, nn.Module) and id(each) in paths))
    parts: dict[str, int] = {}
    for module, inner in zip(failing, [*failing[1:], None], strict=False):
        end = order.get(id(inner), len(done))
        for child in module.children():
            if child is not inner and order.get(id(child), len(done)) < end:
                parts[paths[id(child)]] = sum(each.numel() for each in child.parameters())
    largest = max(parts, key=lambda path: parts[path], default="")
    return largest if parts.get(largest) else ""
