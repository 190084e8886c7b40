"""An agent of five components that plans in a space of its own making: encoder, dynamics, reward, value and policy."""

from __future__ import annotations

import copy
import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from studies.controller.pendulum import Episodes, episodes
from studies.training import kept

if TYPE_CHECKING:
    from collections.abc import Callable

LATENT, WIDTH = 32, 96
# Plans of so many steps, of which the policy's own is one; how far they leave it, and how much the best counts.
PLANS, HORIZON, SPREAD, TEMPERATURE = 16, 3, 0.4, 0.1
DISCOUNT = 0.97
ROUNDS, RANDOM_ROUNDS, TOGETHER, UPDATES, BATCH, RATE = 16, 4, 16, 80, 128, 1e-3
EXPLORATION, CONSISTENCY, FOLLOW = 0.3, 10.0, 0.01


def layers(*widths: int) -> nn.Sequential:
    """Return linear layers with ReLU between them."""
    found = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*found[:-1])


class Agent(nn.Module):
    """Plans that begin at what is seen, and are imagined; their first actions are weighted by what they promise.

    It is the part of TD-MPC (Hansen et al., 2022) that acts, with few plans and one look at them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(layers(3, WIDTH, LATENT), nn.Tanh())
        self.dynamics = nn.Sequential(layers(LATENT + 1, WIDTH, WIDTH, LATENT), nn.Tanh())
        self.reward = layers(LATENT + 1, WIDTH, 1)
        self.value = layers(LATENT + 1, WIDTH, WIDTH, 1)
        self.policy = nn.Sequential(layers(LATENT, WIDTH, WIDTH, 1), nn.Tanh())

    def forward(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return actions (N,) in [-1, 1] for observations (N, 3), by plans with noise (PLANS, N, HORIZON)."""
        state = self.encoder(observations).expand(len(noise), -1, -1)
        total, first = torch.zeros(()), torch.zeros(())
        for step in range(HORIZON):
            action = (self.policy(state) + noise[..., step : step + 1]).clamp(-1, 1)
            both = torch.cat([state, action], -1)
            total = total + DISCOUNT**step * self.reward(both)
            state = self.dynamics(both)
            first = action if step == 0 else first
        total = total + DISCOUNT**HORIZON * self.value(torch.cat([state, self.policy(state)], -1))
        actions: Tensor = (torch.softmax(total / TEMPERATURE, 0) * first).sum(0)[:, 0]
        return actions


def noise_for(count: int, generator: torch.Generator) -> Tensor:
    """Return how far plans leave the policy (PLANS, N, HORIZON); the first does not."""
    noise = SPREAD * torch.randn(PLANS, count, HORIZON, generator=generator)
    noise[0] = 0
    return noise


def acted(agent: nn.Module, count: int, seed: int) -> Episodes:
    """Return episodes of an agent."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        return episodes(lambda seen: agent(seen, noise_for(len(seen), generator)), count, generator)


def replayed(agent: Agent, generator: torch.Generator) -> Tensor:
    """Return 512 observations (512, 3) of such episodes as the trained agent learned from last."""
    seen = episodes(exploring(agent, ROUNDS, generator), TOGETHER, generator).observations.flatten(0, 1)
    some: Tensor = seen[torch.randperm(len(seen), generator=generator)[:512]]
    return some


def trained(seed: int, *, quick: bool = False) -> Agent:
    """Return an agent trained from its own experience, read from its file if it was trained before."""
    torch.manual_seed(seed)
    rounds, updates, name = (1, 1, f"controller {seed}, quick") if quick else (ROUNDS, UPDATES, f"controller {seed}")
    return kept(Agent(), name, lambda agent: train(agent, seed, rounds, updates))


def train(agent: Agent, seed: int, rounds: int, updates: int) -> None:
    """Train in place: rounds of episodes, each followed by updates of all components on what was seen so far."""
    generator = torch.Generator().manual_seed(seed)
    target = copy.deepcopy(agent)
    optimizer = torch.optim.Adam(agent.parameters(), RATE)
    replay: list[Episodes] = []
    for number in range(rounds):
        replay.append(episodes(exploring(agent, number, generator), TOGETHER, generator))
        seen, actions, rewards = (
            torch.cat([getattr(each, name) for each in replay], 1) for name in ("observations", "actions", "rewards")
        )
        for _ in range(updates):
            start = torch.randint(len(actions) - HORIZON + 1, (BATCH,), generator=generator)
            rows = torch.randint(actions.shape[1], (BATCH,), generator=generator)
            steps = start + torch.arange(HORIZON + 1)[:, None]
            loss = losses(agent, target, seen[steps, rows], actions[steps[:-1], rows], rewards[steps[:-1], rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(agent.parameters(), 10.0)
            optimizer.step()
            with torch.no_grad():
                for slow, fast in zip(target.parameters(), agent.parameters(), strict=True):
                    slow.lerp_(fast, FOLLOW)


def exploring(agent: Agent, number: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Return what acts in a round: at first at random, then as the agent plans, with noise."""

    def action(seen: Tensor) -> Tensor:
        draws = torch.randn(len(seen), generator=generator)
        if number < RANDOM_ROUNDS:
            return draws.clamp(-1, 1)
        with torch.no_grad():
            planned: Tensor = agent(seen, noise_for(len(seen), generator))
        return (planned + EXPLORATION * draws).clamp(-1, 1)

    return action


def losses(agent: Agent, target: Agent, seen: Tensor, actions: Tensor, rewards: Tensor) -> Tensor:
    """Return the loss of all components, on (HORIZON + 1, N, 3) observations and (HORIZON, N) actions and rewards.

    States are imagined from the first observation on. Dynamics: what the encoder makes of the next observation;
    reward: the reward; value: the reward and the target's value of what is seen next; policy: the value of its action.
    """
    with torch.no_grad():
        next_states = agent.encoder(seen[1:])
        following = torch.cat([next_states, agent.policy(next_states)], -1)
        values = rewards + DISCOUNT * target.value(following)[..., 0]
    state, total, states = agent.encoder(seen[0]), torch.zeros(()), []
    for step in range(HORIZON):
        states.append(state)
        both = torch.cat([state, actions[step, :, None]], -1)
        total = total + (agent.reward(both)[:, 0] - rewards[step]).square().mean()
        total = total + 0.1 * (agent.value(both)[:, 0] - values[step]).square().mean()
        state = agent.dynamics(both)
        total = total + CONSISTENCY * (state - next_states[step]).square().mean()
    imagined = torch.stack(states).detach()
    frozen = {name: parameter.detach() for name, parameter in agent.value.named_parameters()}
    both = torch.cat([imagined, agent.policy(imagined)], -1)
    loss: Tensor = total - 0.1 * torch.func.functional_call(agent.value, frozen, (both,)).mean()
    return loss
