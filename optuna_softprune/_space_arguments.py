"""What the arguments of a search space mean, and what is said of wrong ones."""

from __future__ import annotations

import fnmatch
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, NoReturn

from torch import nn

from optuna_softprune._errors import (
    ComponentWarning,
    CountWarning,
    NothingToPruneError,
    UnusedParameterWarning,
    kind_of,
    shorten,
)
from optuna_softprune.coefficients import removable
from optuna_softprune.graph import UNUSED, Group, Network, Side, operation_name
from optuna_softprune.importance import Importance
from optuna_softprune.reconstruction import LeastSquares

if TYPE_CHECKING:
    from collections.abc import Sequence

# Products that torch's counter does not know.
UNCOUNTED = frozenset(["_grouped_mm", "grouped_mm_fallback"])


def check_arguments(
    example_inputs: object,
    example_kwargs: object,
    importance: object,
    round_to: object,
    min_units: object,
    reconstruction: object,
) -> None:
    """Raise a TypeError or ValueError for arguments of a wrong kind or out of range."""
    if not isinstance(example_inputs, tuple):
        raise TypeError(
            "Expected `example_inputs` to be a tuple of the network's positional inputs, but got "
            f"{type(example_inputs).__name__}: write `(x,)` for one input."
        )
    if not isinstance(example_kwargs, Mapping):
        raise TypeError(f"Expected `example_kwargs` to be a mapping, but got {type(example_kwargs).__name__}.")
    if isinstance(importance, type) or not isinstance(importance, Importance):
        given = (
            kind_of(importance) if isinstance(importance, type) else f"{importance!r}: for instance `Magnitude(p=2)`"
        )
        raise TypeError(f"Expected `importance` to be an object with a method `scores`, but got {given}.")
    if not (reconstruction is None or isinstance(reconstruction, LeastSquares)):
        raise TypeError(
            f"Expected `reconstruction` to be a `LeastSquares` or None, but got {reconstruction!r}: for instance "
            "`LeastSquares(calibration)`."
        )
    for name, value in (("round_to", round_to), ("min_units", min_units)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"Expected `{name}` to be an integer of at least 1, but got {value!r}.")


def checked_components(model: nn.Module, components: Mapping[str, nn.Module] | None) -> Mapping[str, nn.Module]:
    """Return the user's components, or the model's children."""
    if components is None:
        return dict(model.named_children())
    if not isinstance(components, Mapping):
        raise TypeError(
            f"Expected `components` to be a mapping of names to submodules, but got {kind_of(components)}: for "
            'instance `{"encoder": model.encoder}`.'
        )
    inside = {id(module) for module in model.modules()}
    for name, module in components.items():
        if id(module) not in inside:
            raise ValueError(
                f"Expected `components[{name!r}]` to be a module inside of the model, but got "
                f"{type(module).__name__}, which is not in it: for instance `model.get_submodule({name!r})`."
            )
    return components


def reasons_of_settings(network: Network, ignored: Sequence[str], round_to: int, min_units: int) -> dict[str, str]:
    """Return group name -> reason, for the groups that the user's settings rule out."""
    _expect_names("ignored", ignored)
    groups, shapes = network.groups, network.shapes
    reasons: dict[str, str] = {}
    for pattern in ignored:
        made = [group.name for group in groups if any(_names(pattern, name) for name in _makers(group))]
        if not made and not any(_names(pattern, name) for name in shapes):
            raise ValueError(
                "Expected every name in `ignored` to be a group, a module or a parameter, but nothing matches "
                f"{pattern!r}. The groups are {shorten([group.name for group in groups])}."
            )
        reasons.update(dict.fromkeys(made, f"ignored by {pattern!r}"))
    for group in groups:
        if len(removable(group.size, round_to, min_units)) == 1:
            units = "one unit" if group.size == 1 else f"{group.size} units"
            reasons.setdefault(group.name, f"has {units}, with `min_units={min_units}` and `round_to={round_to}`")
    return reasons


def shared_coefficients(groups: Sequence[Group], tied: Sequence[str]) -> dict[str, list[int]]:
    """Return coefficient -> the places of its groups: of each pattern in `tied` together, of all others alone.

    The order is that of the first group of each.
    """
    _expect_names("tied", tied)
    by_group: dict[int, str] = {}
    for pattern in tied:
        places = [i for i, group in enumerate(groups) if any(_names(pattern, name) for name in _makers(group))]
        if len(places) < 2:
            matching = f"only {groups[places[0]].name!r} does" if places else "nothing does"
            raise ValueError(
                f"Expected at least two groups that can be pruned to match each name in `tied`, but of {pattern!r} "
                f"{matching}. The groups are {shorten([group.name for group in groups])}."
            )
        sizes = sorted({groups[i].size for i in places})
        if len(sizes) > 1:
            raise ValueError(
                f"Expected the groups that `tied` ties to have equally many units, but {pattern!r} matches groups of "
                f"{shorten([str(size) for size in sizes])} units: write a narrower pattern for each size."
            )
        for i in places:
            if by_group.setdefault(i, pattern) != pattern:
                raise ValueError(
                    f"Expected a group to match one name in `tied`, but {groups[i].name!r} matches {by_group[i]!r} and "
                    f"{pattern!r}."
                )
    found: dict[str, list[int]] = {}
    for i, group in enumerate(groups):
        found.setdefault(by_group.get(i, group.name), []).append(i)
    return found


def _expect_names(argument: str, names: Sequence[str]) -> None:
    if isinstance(names, str):
        raise TypeError(f"Expected `{argument}` to be a sequence of names, but got {names!r}: write `({names!r},)`.")
    if isinstance(names, nn.Module):
        names = [names]  # type: ignore[list-item]
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"Expected `{argument}` to be a sequence of names, but got {kind_of(name)} in it: modules are named as "
                "in `model.named_modules()`."
            )


def _makers(group: Group) -> list[str]:
    return [group.name, *(each.tensor for each in group.slices if each.side is not Side.INPUT)]


def _names(pattern: str, name: str) -> bool:
    """Whether `pattern` matches a qualified name, or the name of a module around it."""
    parts = name.split(".")
    return any(fnmatch.fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def warn_of_unused(network: Network, model: nn.Module) -> None:
    """Say which parameters take no part in eval mode."""
    parameters = {name for name, _ in model.named_parameters()}
    unused = list(dict.fromkeys(p.tensor for p in network.protected if p.reason == UNUSED and p.tensor in parameters))
    if unused:
        warnings.warn(
            f"Parameters that are not used in the forward pass in eval mode are left whole: {shorten(unused)}. If the "
            "train mode feeds them from layers that are pruned, it will fail: name these layers in `ignored`.",
            UnusedParameterWarning,
            stacklevel=3,
        )


def warn_of_macs(network: Network, own: int, counted: int | None) -> None:
    """Say if torch counts other multiply-accumulates in the dense network than its graph has."""
    known = not any(operation_name(node) in UNCOUNTED for node in network.exported.graph.nodes)
    if counted is not None and counted != own and known:
        warnings.warn(
            f"The exported graph has {own:,} multiply-accumulates, but `torch.utils.flop_counter.FlopCounterMode` "
            f"counts {counted:,} in the network: what hides operations from it (`torch.vmap`, a custom operator) is "
            'missing from `macs` and from sparsity `of="macs"`. Constrain `of="parameters"`, or write that part of the '
            "forward pass in operations on whole tensors.",
            CountWarning,
            stacklevel=3,
        )


def warn_of_rest(model: nn.Module, rest: Sequence[str]) -> None:
    """Say which parameters no component holds."""
    if rest:
        sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
        warnings.warn(
            f"Expected `components` to hold all parameters, but {sum(sizes[name] for name in rest):,} of "
            f"{sum(sizes.values()):,} are in none of them: {shorten(list(rest))}. Reports show them as `(rest)`.",
            ComponentWarning,
            stacklevel=3,
        )


def raise_nothing_to_prune(network: Network) -> NoReturn:
    """Say why nothing can be pruned."""
    first = {p.reason: f"{p.tensor}: {p.reason}" for p in reversed(network.protected)}
    reasons = list(reversed(first.values()))
    raise NothingToPruneError(
        f"Expected at least one group that can be pruned, but everything is protected: {shorten(reasons)}."
    )
