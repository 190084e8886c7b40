from __future__ import annotations

import pytest
import torch
from hypothesis import settings

# The same examples every time: what a test finds on one machine it finds on all.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _same_weights_every_time() -> None:
    torch.manual_seed(0)
