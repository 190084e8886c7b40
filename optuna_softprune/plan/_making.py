"""Make the plan of a removal, and let it go along with the smaller network.

It is a plain attribute of the smaller network, `softprune_plan`, and JSON: copies, pickles, `.to(...)` and training
leave it as it is, and nothing of this package is needed to read it.
"""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from optuna_softprune._errors import PrunedFileError
from optuna_softprune.graph import kept_indices
from optuna_softprune.plan._plan import Cut, ModuleRecord, Place, Plan
from optuna_softprune.plan._reading import parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray
    from torch import nn

    from optuna_softprune.graph import Network, Units

ATTRIBUTE = "softprune_plan"
# Constants of torch's modules that change nothing in eval mode; users change them to train on.
OF_TRAINING = frozenset({"p", "momentum", "inplace", "dropout"})
SKIPPED = OF_TRAINING | {"training", ATTRIBUTE}
# Longer texts and lists are no settings.
LONGEST_TEXT, LONGEST_LIST = 100, 8


def plan_of(model: nn.Module, network: Network, kept: NDArray[np.bool_], traced: Mapping[str, dict[str, Any]]) -> Plan:
    """Return the plan of what `kept` leaves of `model`; where that was pruned itself, of the network it came from.

    Args:
        model: The dense network.
        network: Its groups.
        kept: Shape (units,): whether each unit stays.
        traced: Path -> the graph that a submodule of the smaller network runs.
    """
    made: dict[bytes, tuple[int, ...]] = {}

    def indices(units: Units) -> tuple[int, ...] | None:
        stays = kept_indices(units, kept)
        if stays.all():
            return None
        key = stays.tobytes()
        if key not in made:
            made[key] = tuple(np.flatnonzero(stays).tolist())
        return made[key]

    cuts: dict[str, dict[int, tuple[int, ...]]] = {name: {} for name in network.shapes}
    for (name, axis), units in network.tensors.items():
        found = indices(units)
        if found is not None:
            cuts[name][axis] = found
    lengths: dict[Place, tuple[int, int]] = {
        place: (len(units), int(kept_indices(units, kept).sum())) for place, units in network.attributes.items()
    }
    counts = {g.name: (g.size, int(kept[g.first_unit : g.first_unit + g.size].sum())) for g in network.groups}
    plan = Plan(
        model=type(model).__name__,
        modules=module_records(model),
        tensors={name: Cut(shape=shape, kept=cuts[name]) for name, shape in network.shapes.items()},
        attributes={place: (dense, small) for place, (dense, small) in lengths.items() if dense != small},
        groups=counts,
        traced=traced,
        versions=_versions(),
        study={},
    )
    before = None
    with contextlib.suppress(PrunedFileError):  # a plan of another version says nothing here
        before = held_plan(model)
    return _composed(before, plan) if before is not None and _is_of(before, plan) else plan


def attach(small: nn.Module, plan: Plan) -> None:
    """Let a plan go along with the smaller network."""
    vars(small)[ATTRIBUTE] = plan.text()


class Later:
    """The text of a plan that is made when somebody asks for it; copies and pickles hold the text.

    A search makes networks by the hundred, which nobody asks.
    """

    def __init__(self, make: Callable[[], Plan]) -> None:
        self._make = make

    @functools.cached_property
    def text(self) -> str:
        """The text."""
        return self._make().text()

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Be copied and pickled as the text."""
        return str, (self.text,)


def attach_later(small: nn.Module, make: Callable[[], Plan]) -> None:
    """Let a plan go along with a smaller network that is made when it is asked for."""
    vars(small)[ATTRIBUTE] = Later(make)


def attach_now(small: nn.Module) -> None:
    """Let the plan that goes along with a smaller network be made."""
    vars(small)[ATTRIBUTE] = str(vars(small)[ATTRIBUTE])


def held_plan(small: nn.Module) -> Plan | None:
    """Return the plan that goes along with a network, or None if there is none."""
    text = vars(small).get(ATTRIBUTE)
    return parsed(str(text)) if isinstance(text, (str, Later)) else None


def set_length(module: nn.Module, name: str, index: int | None, length: int) -> None:
    """Let a module state a size: an attribute, or one place of a tuple."""
    if index is None:
        setattr(module, name, length)
    else:
        lengths = getattr(module, name)
        setattr(module, name, type(lengths)([*lengths[:index], length, *lengths[index + 1 :]]))


def note_study(small: nn.Module, study: Mapping[str, Any]) -> None:
    """Write into the plan of a smaller network what is known of its trial."""
    plan = held_plan(small)
    if plan is not None:
        attach(small, replace(plan, study=study))


def module_records(model: nn.Module) -> dict[str, ModuleRecord]:
    """Return for each module what must be equal for a plan to fit."""
    return dict(_records(model))


def _records(model: nn.Module) -> Iterator[tuple[str, ModuleRecord]]:
    for path, module in model.named_modules():
        kind = type(module)
        plain = {
            name: list(value) if isinstance(value, (tuple, list)) else value
            for name, value in vars(module).items()
            if name not in SKIPPED and not name.startswith("_") and _is_plain(value)
        }
        declared = getattr(kind, "__constants__", ())
        leaf = next(module.children(), None) is None
        yield (
            path,
            ModuleRecord(
                kind=kind.__name__ if leaf else "",
                constants={name: plain.pop(name) for name in declared if name in plain},
                plain={} if kind.__module__.partition(".")[0] == "torch" else plain,
            ),
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, (tuple, list)):
        return len(value) <= LONGEST_LIST and all(type(each) in (bool, int, float) for each in value)
    return value is None or type(value) in (bool, int, float) or (type(value) is str and len(value) <= LONGEST_TEXT)


def _versions() -> dict[str, str]:
    from optuna_softprune import __version__

    return {"optuna_softprune": __version__, "torch": str(torch.__version__)}


def _is_of(before: Plan, plan: Plan) -> bool:
    """Whether what one plan leaves is what the other begins with: its user may have built on since then."""
    shapes = {name: cut.small_shape for name, cut in before.tensors.items()}
    return shapes == {name: cut.shape for name, cut in plan.tensors.items()} and list(before.modules) == list(
        plan.modules
    )


def _composed(before: Plan, plan: Plan) -> Plan:
    """Return the plan of removing twice."""
    cuts = {}
    for name, cut in plan.tensors.items():
        first = before.tensors[name]
        kept = dict(first.kept)
        for axis, indices in cut.kept.items():
            kept[axis] = tuple(kept[axis][i] for i in indices) if axis in kept else indices
        cuts[name] = Cut(shape=first.shape, kept=kept)
    return replace(
        plan,
        modules=before.modules,
        tensors=cuts,
        attributes={
            **before.attributes,
            **{
                place: (before.attributes[place][0] if place in before.attributes else dense, small)
                for place, (dense, small) in plan.attributes.items()
            },
        },
        traced={
            **{path: each for path, each in before.traced.items() if not _is_inside(path, plan.traced)},
            **plan.traced,
        },
        groups={
            **before.groups,
            **{
                name: (before.groups[name][0] if name in before.groups else units, kept)
                for name, (units, kept) in plan.groups.items()
            },
        },
    )


def _is_inside(path: str, others: Iterable[str]) -> bool:
    """Whether a module is inside of others."""
    return any(path.startswith(f"{other}.") for other in others)
