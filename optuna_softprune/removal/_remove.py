"""A new, smaller module of the user's own class."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from optuna_softprune.graph import copy_with, kept_indices, modes_kept
from optuna_softprune.plan import attach_later, plan_of, set_length
from optuna_softprune.program import counted, install, written
from optuna_softprune.reconstruction import Sliced, Solutions

if TYPE_CHECKING:
    from torch import Tensor, nn

    from optuna_softprune.graph import Kept, Network
    from optuna_softprune.reconstruction import Weights


def remove(
    model: nn.Module,
    network: Network,
    kept: Kept,
    *,
    share: bool,
    weights: Weights | None = None,
    known: Solutions | None = None,
) -> nn.Module:
    """Return a copy of `model` without the units that are not kept.

    Args:
        model: The dense network; it is only read.
        network: Its groups.
        kept: Shape (units,): whether each unit stays.
        share: Whether parameters that stay whole are the dense network's own memory: enough for a copy that is
            only evaluated. Else the copy shares nothing, and what was removed goes along with it as its plan.
        weights: What gives the copy its weights; default: they are sliced.
        known: What is known of the candidate.
    """
    weights = Sliced(network) if weights is None else weights
    known = Solutions() if known is None else known
    parameters = {name for name, _ in model.named_parameters()}

    def replace(name: str, tensor: Tensor) -> Tensor:
        small = weights.of(name, tensor, kept, known)
        # Solutions are kept for other candidates, or are the dense network's own where nothing was to be solved.
        borrowed = small is tensor or name in known.own
        return small.clone() if borrowed and not (share and name in parameters) else small

    small = copy_with(model, replace)
    for (path, name, index), units in network.attributes.items():
        set_length(small.get_submodule(path), name, index, int(kept_indices(units, kept).sum()))
    _say_mode_again(small)
    traced = {path: written(network, part, counted(kept)) for path, part in network.traced.items()}
    for path, record in traced.items():
        install(small.get_submodule(path), record)
    weights.measure(small, kept)
    if not share:
        attach_later(small, functools.partial(plan_of, model, network, kept, traced))
    return small


def _say_mode_again(small: nn.Module) -> None:
    """Let modules forget what they keep for as long as their mode stays (LeViT: biases looked up at the old size)."""
    with modes_kept(small):
        small.train(small.training)
