"""Operations that do less than the removed network does, and return the same but for rounding."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import torch
from checks import candidates, counted_macs
from evaluations import assert_like_the_removed_network, assert_random_network_is_like_the_removed, evaluate, mlp
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from optuna_softprune import PruningObjective, PruningSpace
from optuna_softprune.testing import ZOO, randomise
from optuna_softprune.testing.strategies import random_networks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna_softprune.testing import RandomNetwork


class Counted:
    """A metric that counts the multiply-accumulates of a pass, and keeps what it returns."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.output, self.macs = x, x, 0.0

    def __call__(self, model: nn.Module) -> float:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            self.output = model(self.x)
        self.macs = counter.get_total_flops() / 2
        return 0.0


def keeping(space: PruningSpace, *counts: int) -> dict[str, float]:
    return {group.name: 1 - kept / group.size for group, kept in zip(space.groups, counts, strict=True)}


def test_a_sum_goes_on_from_the_units_that_an_earlier_candidate_has_summed() -> None:
    model = randomise(nn.Sequential(nn.Linear(8, 512), nn.ReLU(), nn.Linear(512, 256))).eval()
    x = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (x[:2],))
    objective = PruningObjective(space, counted := Counted(x))
    # The dense network is evaluated first.
    for kept, computed in ((1, 1), (384, 0), (300, 44), (256, 0), (130, 2), (512, 0)):
        evaluate(objective, keeping(space, kept))
        assert counted.macs == 4096 * computed * (8 + 256)
        torch.testing.assert_close(counted.output, space.prune(keeping(space, kept)).eval()(x), rtol=1e-5, atol=1e-5)


@pytest.fixture
def parts_everywhere() -> Iterator[None]:
    """Sums are made in parts, however small they are."""
    with mock.patch("optuna_softprune.evaluation._sums.BLOCK_MACS", 0):
        yield


@pytest.mark.usefixtures("parts_everywhere")
@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("network", [n for n in ZOO if n.groups], ids=lambda network: network.name)
def test_zoo_in_parts(network: Any) -> None:
    args = network.inputs()
    assert_like_the_removed_network(PruningSpace(randomise(network.build()).eval(), args), [args])


@pytest.mark.usefixtures("parts_everywhere")
@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
    ],
)
@given(random_networks())
def test_random_network_in_parts(model: RandomNetwork) -> None:
    assert_random_network_is_like_the_removed(model)


X = torch.randn(7, 6, generator=torch.Generator().manual_seed(0))
DEEP = PruningSpace(mlp(6, 23, 17, 9, 5), (X,))


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return model(X).double().square().sum().item()  # type: ignore[no-any-return]


@pytest.mark.usefixtures("parts_everywhere")
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(12)), st.sampled_from([2**30, 3000, 400]))
def test_values_do_not_depend_on_what_came_before(order: list[int], budget: int) -> None:
    some = list(candidates(DEEP, 12))
    alone = [evaluate(PruningObjective(DEEP, loss), c) for c in some]
    objective = PruningObjective(DEEP, loss, cache_bytes=budget)
    assert [evaluate(objective, some[i]) for i in order] == [alone[i] for i in order]


@pytest.mark.usefixtures("parts_everywhere")
def test_threads_make_the_same_sums() -> None:
    some = list(candidates(DEEP, 60))
    objectives = [PruningObjective(DEEP, loss, reuse=False) for _ in range(2)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda c: evaluate(objectives[0], c), some * 2))
    assert found == [evaluate(objectives[1], c) for c in some] * 2


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@settings(max_examples=60, deadline=None)
@given(
    dimensions=st.sampled_from([1, 2, 2, 3]),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 2),
    length=st.integers(1, 4),
    grouped=st.booleans(),
)
def test_kernels_of_small_maps(
    dimensions: int, kernel: int, stride: int, padding: int, dilation: int, length: int, grouped: bool
) -> None:
    """Whatever part of a kernel meets data, and on larger maps than the example's, which need more of it."""
    assume(length + 2 * padding >= dilation * (kernel - 1) + 1)
    convolution: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1]
    common = {"stride": stride, "padding": padding, "dilation": dilation}
    first = convolution(3, 6, 1)
    model = nn.Sequential(first, nn.ReLU(), convolution(6, 6, kernel, **common, groups=6 if grouped else 1), nn.ReLU())
    model.append(convolution(6, 2, 1))
    x, larger = (torch.randn(2, 3, *[n] * dimensions, generator=torch.Generator().manual_seed(0)) for n in (length, 7))
    space, said = PruningSpace(randomise(model).eval(), (x,)), []
    evaluator = space.evaluator(2**30, said.append)
    for c in candidates(space, 3):
        shared, removed = evaluator.module(space.candidate(c)), space.prune(c).eval()
        with torch.no_grad():
            for each in (x, larger, x):
                torch.testing.assert_close(shared(each), removed(each), rtol=1e-5, atol=1e-5)
    assert said == []  # nothing was evaluated whole


def test_a_kernel_on_one_pixel_is_its_centre() -> None:
    model = randomise(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 3, padding=1))).eval()
    x = torch.randn(16, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    space = PruningSpace(model, (x[:2],))
    objective = PruningObjective(space, counted := Counted(x))
    evaluate(objective, keeping(space, 4))
    assert counted.macs == 16 * 4 * (3 + 5)
    assert counted_macs(space.prune(keeping(space, 4)).eval(), (x,)) == 16 * 4 * (3 + 9 * 5)
