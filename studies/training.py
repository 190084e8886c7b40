"""Networks that are trained once, and kept so that all studies prune the same ones."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Callable

WORK = Path(__file__).parent / "work"
Network = TypeVar("Network", bound=nn.Module)


def kept(model: Network, name: str, train: Callable[[Network], None]) -> Network:
    """Return a network in eval mode with the weights that it was trained to, read from a file if it was before."""
    file = WORK / f"{name}.safetensors"
    if file.exists():
        load_model(model, file)
        return model.eval()
    train(model)
    file.parent.mkdir(exist_ok=True)
    partial = file.with_suffix(".partial")
    save_model(model, str(partial))
    partial.replace(file)  # whole or not at all
    return model.eval()


def fit(
    model: nn.Module, loss_of: Callable[[Tensor], Tensor], *, count: int, batch: int, steps: int, rate: float
) -> None:
    """Train in place: Adam, one cycle of the learning rate up to `rate`, batches in torch's random order.

    Args:
        model: The network.
        loss_of: Rows of a batch -> its loss.
        count: How many examples there are.
        batch: How many of them make a batch.
        steps: How many batches are seen.
        rate: The highest learning rate.
    """
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    model.train()
    epochs = (torch.randperm(count).split(batch)[: count // batch] for _ in itertools.count())  # type: ignore[no-untyped-call]
    for rows in itertools.islice(itertools.chain.from_iterable(epochs), steps):
        loss = loss_of(rows)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.eval()
