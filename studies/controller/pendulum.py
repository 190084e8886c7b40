"""A pendulum that is too heavy to be lifted at once, many of them side by side, with gusts of wind."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

STEPS, STEP_S, HELD, TORQUE, GUST = 50, 0.05, 2, 2.0, 0.5
# What counts as upright (cosine of the angle), and for how many of the last steps.
UPRIGHT, TO_THE_END = 0.9, 10


class Episodes:
    """What happened: `observations` (STEPS + 1, N, 3), `actions` and `rewards` (STEPS, N)."""

    def __init__(self, observations: Tensor, actions: Tensor, rewards: Tensor) -> None:
        self.observations, self.actions, self.rewards = observations, actions, rewards

    @property
    def reward(self) -> float:
        """Return the mean reward of a step, in [0, 1]."""
        return self.rewards.mean().item()

    @property
    def upright(self) -> float:
        """Return the share of episodes that are upright in every one of the last steps, one second."""
        return (self.observations[-TO_THE_END:, :, 0] > UPRIGHT).all(0).float().mean().item()


def observed(angle: Tensor, speed: Tensor) -> Tensor:
    """Return what a controller sees (N, 3): cosine and sine of the angle (0: at the top), and the angular speed."""
    return torch.stack([angle.cos(), angle.sin(), speed / 8], 1)


def episodes(controller: Callable[[Tensor], Tensor], count: int, generator: torch.Generator) -> Episodes:
    """Let a controller act for five seconds, from angles that are spread evenly, with random speeds and gusts.

    Args:
        controller: Observations (N, 3) -> shares of the highest torque (N,), in [-1, 1]; it acts every tenth second.
        count: N.
        generator: What is drawn from.
    """
    angle = math.pi * (2 * (torch.arange(count) + torch.rand(1, generator=generator)) / count - 1)
    speed = 2 * torch.rand(count, generator=generator) - 1
    seen, actions, rewards = [observed(angle, speed)], [], []
    for _ in range(STEPS):
        action = controller(seen[-1])
        for _ in range(HELD):
            gust = GUST * torch.randn(count, generator=generator)
            speed = (speed + STEP_S * (15 * angle.sin() + 3 * TORQUE * action + gust)).clamp(-8, 8)
            angle = angle + STEP_S * speed
        seen.append(observed(angle, speed))
        actions.append(action)
        rewards.append((1 + angle.cos()) / 2)
    return Episodes(torch.stack(seen), torch.stack(actions), torch.stack(rewards))
