"""Train a smaller network on without labels: its teacher is the dense one."""

from __future__ import annotations

import copy
import itertools
import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from tqdm import tqdm

from optuna_softprune.graph import copy_with, map_tensors, tensors, unwrapped
from optuna_softprune.shipping._imitation import Imitation, inputs_that_are_cut
from optuna_softprune.shipping._save import plan_along

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

# How often the error is measured on the way, and on how many batches where no others are given.
CHECKS = 20
MEASURED_BATCHES = 8


def distill(
    small: nn.Module,
    dense: nn.Module,
    batches: Iterable[Sequence[Any]],
    *,
    steps: int,
    learning_rate: float = 1e-3,
    layers: bool = False,
    validation: Iterable[Sequence[Any]] | None = None,
    patience: int | None = None,
    show_progress_bar: bool = True,
) -> nn.Module:
    """Return the smaller network trained to answer as the dense one does, in eval mode; no labels are needed.

    The error is the squared difference of the outputs over the mean square of the dense network's (0: equal, 1: as
    wrong as zeros). Adam follows it, its learning rate falling to zero along half a cosine. The error is measured in
    eval mode before the first step and 20 times on the way, and the best weights are what is returned: on what it is
    measured on never worse than `small`.

    While it is trained the smaller network is in train mode, so that its batch norms take on the statistics of the
    batches. Random numbers (of dropout) are torch's own: seed them for the same network each time.

    Args:
        small: What `space.prune`, `objective.best_model` or `load_pruned` returned; it is only read.
        dense: The dense network, on the same device; it is only read.
        batches: Tuples (or lists) of the networks' positional inputs, as `Calibration` takes them; they are read again
            and again until `steps` are done.
        steps: How many batches are trained on; at least 1.
        learning_rate: Of the first step; above 0.
        layers: Whether what each pruned linear or convolutional layer reads is compared too: what is kept of it should
            be what it is in the dense network. Each layer counts as much as the output.
        validation: What the error is measured on: inputs like `batches`. Default: the first 8 of `batches`.
        patience: Stop when so many measurements in a row were not better; at least 1. Default: never.
        show_progress_bar: Whether progress is shown.

    Raises:
        TypeError: If a batch is no tuple or list.
        ValueError: If a number is out of its range, there is no batch, no parameter of `small` can be trained, or
            `layers` is asked for and `small` has no plan.
    """
    _expect_numbers(steps, learning_rate, patience)
    small, dense = unwrapped(small, "small"), unwrapped(dense, "dense")
    student = copy.deepcopy(small)
    parameters = [each for each in student.parameters() if each.requires_grad]
    if not parameters:
        raise ValueError("Expected parameters of `small` to be trainable, but all are frozen: `requires_grad_(True)`.")
    teacher = copy_with(dense, lambda _, tensor: tensor).eval()
    device = next(student.parameters()).device
    imitation = Imitation(student, teacher, inputs_that_are_cut(plan_along(small), small, device) if layers else {})
    measured = list(_moved(batches, device, MEASURED_BATCHES) if validation is None else _moved(validation, device))

    def error() -> float:
        student.eval()
        with torch.no_grad():
            found = [imitation.error(batch).item() for batch in measured]
        student.train()
        return sum(found) / len(found)

    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 + math.cos(math.pi * step / steps)) / 2)
    first = best = error()
    state, waited = _state(student), 0
    with tqdm(total=steps, desc="distilling", disable=not show_progress_bar) as bar:
        for step, batch in enumerate(itertools.islice(_again_and_again(batches, device), steps), 1):
            optimizer.zero_grad()
            imitation.error(batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            bar.update()
            if step % max(1, steps // CHECKS) == 0 or step == steps:
                now = error()
                waited = 0 if now < best else waited + 1
                if now < best:
                    best, state = now, _state(student)
                bar.set_postfix_str(f"error {first:.3g} -> {best:.3g}")
                if patience is not None and waited >= patience:
                    break
    trained = copy.deepcopy(small)
    with torch.no_grad():
        for name, tensor in tensors(trained):
            tensor.copy_(state[name])
    return trained.eval()


def _state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors(model)}


def _moved(batches: Iterable[Sequence[Any]], device: torch.device, count: int | None = None) -> Iterator[Sequence[Any]]:
    """Yield the first `count` batches on a device.

    Raises:
        TypeError: If a batch is no tuple or list.
        ValueError: If there is none.
    """
    empty = True
    for batch in itertools.islice(batches, count):
        empty = False
        if not isinstance(batch, (tuple, list)):
            raise TypeError(
                f"Expected `batches` to yield tuples of the networks' inputs, but got {type(batch).__name__}: write "
                "`[(x,) for x in ...]`."
            )
        yield map_tensors(batch, lambda each: each.to(device))
    if empty:
        raise ValueError(
            "Expected batches of inputs, but got none. A generator can be read only once: give a list or a DataLoader."
        )


def _again_and_again(batches: Iterable[Sequence[Any]], device: torch.device) -> Iterator[Sequence[Any]]:
    while True:
        yield from _moved(batches, device)


def _expect_numbers(steps: int, learning_rate: float, patience: int | None) -> None:
    for name, value, least in (("steps", steps, 1), ("patience", 1 if patience is None else patience, 1)):
        if value < least:
            raise ValueError(f"Expected `{name}` to be at least {least}, but got {value!r}.")
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"Expected `learning_rate` to be above 0, but got {learning_rate!r}.")
