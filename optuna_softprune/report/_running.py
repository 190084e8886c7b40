"""Run a network to look at it, and leave it as it was."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from optuna_softprune._errors import ModeWarning
from optuna_softprune.graph import modes_kept, unwrapped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Call = tuple[tuple[Any, ...], dict[str, Any]]


def checked_call(inputs: object, kwargs: Mapping[str, Any] | None) -> Call:
    """Return positional and keyword inputs of a call.

    Raises:
        TypeError: If `inputs` is no tuple.
    """
    if not isinstance(inputs, tuple):
        raise TypeError(
            f"Expected `inputs` to be a tuple of the network's positional inputs, but got {type(inputs).__name__}: "
            "write `(x,)`."
        )
    return inputs, dict(kwargs or {})


def device_of(call: Call) -> torch.device:
    """Return the device of the first tensor of a call."""
    return next((each.device for each in pytree.tree_leaves(call) if isinstance(each, Tensor)), torch.device("cpu"))


def plain(model: nn.Module) -> nn.Module:
    """Return the network inside of wrappers.

    Raises:
        TypeError: If it is none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ModeWarning)  # what is counted is the same
        return unwrapped(model)


@contextlib.contextmanager
def evaluating(*models: object) -> Iterator[None]:
    """Have networks in eval mode and gradients off, and put back what was; other callables are left alone."""
    networks = [model for model in models if isinstance(model, nn.Module)]
    with modes_kept(*networks), torch.no_grad():
        for network in networks:
            for module in network.modules():
                module.training = False
        yield
