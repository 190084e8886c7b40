"""Whether a network is the one of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from optuna_softprune.graph import tensors
from optuna_softprune.plan import module_records

if TYPE_CHECKING:
    from torch import nn

    from optuna_softprune.plan import Plan


def other_shapes(plan: Plan, model: nn.Module, *, dense: bool) -> str:
    """Return the first parameter or buffer of `model` that is not as in the dense or the smaller network, as text."""
    found = {name: tuple(tensor.shape) for name, tensor in tensors(model)}
    for name, cut in plan.tensors.items():
        shape = cut.shape if dense else cut.small_shape
        if name not in found:
            return f"it has no `{name}` of its own (tied tensors have the name of the first)"
        if found[name] != shape:
            return f"`{name}` has shape {found[name]} instead of {shape}"
    more = next((name for name in found if name not in plan.tensors), None)
    return "" if more is None else f"`{more}` was not in it"


def other_modules(plan: Plan, model: nn.Module) -> str:
    """Return the first module of `model` that is of another kind than the plan's, as text."""
    found = module_records(model)
    for path, record in plan.modules.items():
        if path not in found:
            return f"it has no module `{path}`"
        if found[path].kind != record.kind:
            return f"`{path}` is {_kind(found[path].kind)} instead of {_kind(record.kind)}"
    more = next((path for path in found if path not in plan.modules), None)
    return "" if more is None else f"the module `{more}` was not in it"


def other_constants(plan: Plan, model: nn.Module) -> str:
    """Return the first constant of a module of a dense network that differs, or size that its modules state."""
    found = module_records(model)
    for path, record in plan.modules.items():
        for name, value in record.constants.items():
            if found[path].constants.get(name, value) != value:
                return f"`{_dotted(path, name)}` is {found[path].constants[name]!r} instead of {value!r}"
    for (path, name, index), (dense, _) in plan.attributes.items():
        held: Any = vars(model.get_submodule(path)).get(name)
        if index is not None:
            held = held[index] if isinstance(held, (tuple, list)) and index < len(held) else None
        if type(held) is not int or held != dense:
            return f"`{_dotted(path, name)}` is {held!r} instead of {dense}"
    return ""


def other_settings(plan: Plan, model: nn.Module) -> list[str]:
    """Return the other plain attributes of a dense network's modules that differ: settings or mere bookkeeping."""
    found = module_records(model)
    return [
        f"`{_dotted(path, name)}` is {found[path].plain[name]!r} instead of {value!r}"
        for path, record in plan.modules.items()
        for name, value in record.plain.items()
        if found[path].plain.get(name, value) != value
    ]


def _kind(kind: str) -> str:
    return f"a {kind}" if kind else "a module with children"


def _dotted(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
