"""Save a smaller network without pickle."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_softprune._errors import ModeWarning
from optuna_softprune.graph import tensors, unwrapped
from optuna_softprune.plan import ATTRIBUTE, Plan, held_plan
from optuna_softprune.shipping import _file as file
from optuna_softprune.shipping._fit import other_modules, other_shapes

if TYPE_CHECKING:
    import os

    from torch import nn


def save_pruned(small: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a smaller network into one safetensors file: weights, and what was removed as JSON in its metadata.

    The keys are those of the dense network. `load_pruned(path, model)` gives the smaller network back, in any process
    that can build the dense one. A file that is there is replaced when the new one is whole.

    Args:
        small: What `space.prune`, `objective.best_model` or `load_pruned` returned, trained on or not.
        path: The file.

    Raises:
        TypeError: If `small` is no module.
        ValueError: If it was not made by this package, was rebuilt since then, or holds what is no tensor.
        OSError: If the file cannot be written.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModeWarning)  # the weights are those of the network inside
        small = unwrapped(small, "small")
    plan = plan_along(small)
    difference = other_shapes(plan, small, dense=False) or other_modules(plan, small)
    if difference:
        raise ValueError(
            f"Expected `small` to be built as when it was pruned, but {difference}. Save it before it is rebuilt "
            "(fused, quantised, extended); `load_pruned` gives it back, and the rest is done again."
        )
    extra = [name for name, value in small.state_dict().items() if not hasattr(value, "shape")]
    if extra:
        raise ValueError(
            f"Expected the state of `small` to be tensors, but `{extra[0]}` is none: a file without pickle cannot hold "
            "it."
        )
    file.write(Path(path), plan, dict(tensors(small)))


def plan_along(small: nn.Module) -> Plan:
    """Return the plan that goes along with a smaller network.

    Raises:
        ValueError: If there is none.
    """
    plan = held_plan(small)
    if plan is None:
        raise ValueError(
            "Expected `small` to be what `space.prune`, `objective.best_model` or `load_pruned` returned, but it has "
            f"no plan of what was removed. A copy made in a way of its own loses it: `copy.{ATTRIBUTE} = "
            f"small.{ATTRIBUTE}`."
        )
    return plan


def read_plan(path: str | os.PathLike[str]) -> Plan:
    """Return what was removed from the network in a file of `save_pruned`; no model is needed.

    Raises:
        PrunedFileError: If the file is damaged, or none of `save_pruned`.
        OSError: If it cannot be opened.
    """
    return file.read(Path(path)).plan
