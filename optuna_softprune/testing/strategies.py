"""Hypothesis strategies for networks; needs `hypothesis`."""

from __future__ import annotations

from hypothesis import strategies as st

from optuna_softprune.testing._random_network import STEPS, RandomNetwork
from optuna_softprune.testing._random_step import Step


def steps() -> st.SearchStrategy[Step]:
    """Return a strategy for one step of a random network."""
    number = st.integers(0, 59)
    return st.builds(Step, st.sampled_from(sorted(STEPS)), number, number, number, number)


def random_networks(max_steps: int = 10) -> st.SearchStrategy[RandomNetwork]:
    """Return a strategy for random networks of up to `max_steps` steps, for images (N, 3, 4, 4)."""
    return st.lists(steps(), min_size=1, max_size=max_steps).map(RandomNetwork)
