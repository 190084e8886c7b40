"""Load a smaller network into a freshly built dense one's structure."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from optuna_softprune._errors import PrunedFileError, SettingsWarning, shorten
from optuna_softprune.graph import copy_with, tensors, unwrapped
from optuna_softprune.plan import attach, set_length
from optuna_softprune.program import install
from optuna_softprune.shipping import _file as file
from optuna_softprune.shipping._fit import other_constants, other_modules, other_settings, other_shapes

if TYPE_CHECKING:
    import os

    from torch import Tensor, nn


def load_pruned(path: str | os.PathLike[str], model: nn.Module) -> nn.Module:
    """Return the smaller network that `save_pruned` wrote, in eval mode, on the device of `model`.

    Nothing is unpickled, and no name in the file reaches outside of the network. What a module holds besides
    parameters and buffers is that of `model`; what is known of it is compared.

    The digest in the file finds damage: bytes that changed on the way. It does not tell who wrote the file, since
    whoever changes one can write a digest that fits. A forged file runs no code and makes no other structure than that
    of `model`, smaller; but its weights, and so what the network answers, are its writer's choice. Where that matters,
    compare a checksum or signature of the file that came another way.

    Args:
        path: The file.
        model: The dense network as it is built, with any weights. It is only read.

    Raises:
        TypeError: If `model` is no module.
        PrunedFileError: If the file is damaged, not of `save_pruned`, of a newer schema, or of another network; the
            message names the first difference.
        OSError: If it cannot be opened.
    """
    model = unwrapped(model)
    plan, weights = file.read(Path(path))
    difference = other_modules(plan, model) or other_shapes(plan, model, dense=True) or other_constants(plan, model)
    if difference:
        raise PrunedFileError(
            f"Expected `model` to be the dense {plan.model} that `{path}` was pruned from, but {difference}: build it "
            "as it was built then."
        )
    _expect_weights_to_fit(path, {name: cut.small_shape for name, cut in plan.tensors.items()}, weights, model)
    settings = other_settings(plan, model)
    if settings:
        warnings.warn(
            f"`model` has other settings than the network that was pruned: {shorten(settings)}. If its forward pass "
            "reads them, build it as it was built then.",
            SettingsWarning,
            stacklevel=2,
        )

    def replace(name: str, tensor: Tensor) -> Tensor:
        return weights[name].to(tensor.device) if name else tensor.clone()

    small = copy_with(model, replace)
    for (module, name, index), (_, length) in plan.attributes.items():
        set_length(small.get_submodule(module), name, index, length)
    for module, record in plan.traced.items():
        try:
            install(small.get_submodule(module), record)
        except ValueError as error:
            raise PrunedFileError(f"Expected the traced parts in `{path}` to fit `model`: {error}") from None
    attach(small, plan)
    return small.eval()


def _expect_weights_to_fit(
    path: str | os.PathLike[str], shapes: dict[str, tuple[int, ...]], weights: dict[str, Tensor], model: nn.Module
) -> None:
    problem = ""
    for name, dense in tensors(model):
        if name not in weights:
            problem = f"has no `{name}`"
        elif tuple(weights[name].shape) != shapes[name]:
            problem = f"has `{name}` of shape {tuple(weights[name].shape)} instead of {shapes[name]}"
        elif weights[name].dtype != dense.dtype and not (
            weights[name].is_floating_point() and dense.is_floating_point()
        ):
            problem = f"has `{name}` of {weights[name].dtype} instead of {dense.dtype}"
        if problem:
            break
    else:
        more = next((name for name in weights if name not in shapes), None)
        problem = "" if more is None else f"has `{more}`, which is not in its plan"
    if problem:
        raise PrunedFileError(f"Expected weights and plan in `{path}` to fit together, but it {problem}.")
