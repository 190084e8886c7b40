"""What became smaller and faster: tables that are counted, and times that are measured."""

from __future__ import annotations

import time
from typing import Any

import optuna
import pytest
import torch
from checks import counted_macs, counted_parameters
from test_prune import half, zoo
from torch import Tensor, nn

from optuna_softprune import NothingToPruneError, PruningObjective, PruningSpace
from optuna_softprune.report import compare, latency_ms, summary
from optuna_softprune.testing import ZOO, randomise

FEW = ("bottleneck", "tied_weight", "heads", "lstm", "bare_matrix")


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize(
    "network",
    [pytest.param(each, marks=() if each.name in FEW else pytest.mark.slow) for each in ZOO],
    ids=lambda network: network.name,
)
def test_summaries_add_up_to_what_formulas_count(network: Any) -> None:
    model, inputs = randomise(network.build()).eval(), network.inputs()
    try:
        space = PruningSpace(model, inputs)
    except NothingToPruneError:
        pytest.skip("nothing can go")
    c = half(space)
    small = space.prune(c)
    found = summary(model, small, inputs)
    assert found.total.dense_parameters == counted_parameters(model)
    assert found.total.parameters == counted_parameters(small) == space.parameters(c)
    assert found.total.dense_macs == counted_macs(model, inputs)
    assert found.total.macs == counted_macs(small, inputs)
    counts = {name: each for name, each in space.component_counts(c).items() if each[0]}
    rows = [row for row in found.components if row.dense_parameters]
    assert {row.module: (row.dense_parameters, row.parameters) for row in rows} == counts
    for sums in (found.rows, found.components):
        assert sum(row.parameters for row in sums) == found.total.parameters
        assert sum(row.macs for row in sums) == found.total.macs


@pytest.fixture(scope="module")
def pruned() -> tuple[nn.Module, nn.Module, Tensor]:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    ).eval()
    x = torch.randn(2, 3, 6, 6)
    space = PruningSpace(randomise(model).eval(), (x,), components={"body": model[0], "head": model[1]})
    return model, space.prune({"0.0": 0.5}), x


def test_summary_is_printed_as_a_table_by_module_and_by_component(pruned: tuple[Any, nn.Module, Tensor]) -> None:
    model, small, x = pruned
    found = summary(model, small, (x,), components={"body": model[0], "head": model[1]})
    assert str(found).splitlines() == [
        "Sequential: 285 -> 145 parameters (0.491 removed), 15,632 -> 7,816 MACs (0.500 removed)",
        "  module  component  width  parameters            MACs",
        "  0.0     body       4 / 8   112 / 224  7,776 / 15,552",
        "  0.1     body       4 / 8      8 / 16               0",
        "  1.2     head           5     25 / 45         40 / 80",
        "by component",
        "  component  parameters            MACs",
        "  body        120 / 240  7,776 / 15,552",
        "  head          25 / 45         40 / 80",
    ]
    assert found.rows[0]._asdict()["dense_width"] == 8
    assert "<td>112 / 224</td>" in found._repr_html_()


def test_layers_with_fused_kernels_are_counted() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    found = summary(layer, layer, (torch.randn(2, 5, 8),))
    assert found.total.macs == 2 * 5 * (8 * 24 + 8 * 8 + 2 * 8 * 16) + 2 * 2 * 5 * 5 * 8
    assert torch.backends.mha.get_fastpath_enabled()


def test_networks_that_do_not_belong_together_are_refused(pruned: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, _, x = pruned
    with pytest.raises(ValueError, match=r"parameters of the same names, but only one of them has `0.0.bias`"):
        summary(model, nn.Sequential(nn.Conv2d(3, 2, 3)), (x,))
    with pytest.raises(TypeError, match=r"Expected `inputs` to be a tuple.*got Tensor"):
        summary(model, model, x)  # type: ignore[arg-type]


class Slow(nn.Module):
    """Sleeps, and makes values of a known size."""

    def __init__(self, seconds: float, length: int) -> None:
        super().__init__()
        self.weight, self.seconds, self.length = nn.Parameter(torch.ones(length)), seconds, length

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        for _ in range(3):
            x = x + self.weight  # the next is made before the last is let go
        return x[:, :1]


def test_comparison_says_time_memory_weights_and_how() -> None:
    x = torch.zeros(10, 1)
    found = compare(Slow(0.02, 1000), Slow(0.0, 250), (x,), repetitions=3, warmup=1)
    assert found.dense.latency_ms >= 20
    assert found.speedup > 1
    assert [row.peak_bytes for row in found.rows] == [80_000, 20_000]
    assert [row.weights_bytes for row in found.rows] == [4000, 1000]
    lines = str(found).splitlines()
    assert lines[0].split("  ")[1:2] == ["network"]
    assert lines[3].split() == ["dense", "/", "small", f"{found.speedup:.2f}", "4.00", "4.00"]
    assert lines[4].startswith("median of 3 passes each, in turns, after 1 of warm-up; inputs (10, 1); cpu, ")


def test_measuring_leaves_networks_as_they_are(pruned: tuple[nn.Module, nn.Module, Tensor]) -> None:
    model, small, x = pruned
    model.train()
    model[0].eval()  # type: ignore[index]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compare(model, small, (x,), repetitions=1, warmup=0)
    summary(model, small, (x,))
    latency_ms(model, (x,), repetitions=1)
    assert [module.training for module in model.children()] == [False, True]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.eval()


@pytest.mark.parametrize("settings", [{"repetitions": 0}, {"warmup": -1}])
def test_wrong_counts_are_said(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"Expected `{next(iter(settings))}` to be at least"):
        latency_ms(nn.Identity(), (torch.zeros(1),), **settings)


def test_latency_of_what_is_no_network_is_measured_too() -> None:
    assert latency_ms(lambda x: time.sleep(0.002), (torch.zeros(1),), repetitions=3, warmup=0) >= 2


def test_latency_as_an_objective_is_that_of_the_smaller_network() -> None:
    """Each candidate is measured on a network of its own, though quality is measured in passes that share values."""
    network = zoo("chain")
    model, inputs = randomise(network.build()).eval(), network.inputs()
    space = PruningSpace(model, inputs)
    seen: list[int] = []

    def metric(small: nn.Module) -> dict[str, float]:
        quality = small(*inputs).detach().abs().mean().item()
        time_ms = latency_ms(small, inputs, repetitions=2, warmup=0)
        seen.append(counted_parameters(small))
        return {"quality": quality, "latency_ms": time_ms}

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0))
    objective = PruningObjective(
        space, metric, objectives=("quality", "latency_ms"), directions=("maximize", "minimize"), reuse=False
    )
    with torch.no_grad():
        study.optimize(objective, n_trials=3)
    assert seen[1:] == [trial.user_attrs["softprune:parameters"] for trial in study.trials]


@pytest.mark.parametrize("name", ["latency_ms", "fps", "seconds", "latency"])
def test_a_time_of_passes_that_are_shared_is_refused_with_the_remedy(name: str) -> None:
    network = zoo("chain")
    model, inputs = randomise(network.build()).eval(), network.inputs()
    space = PruningSpace(model, inputs)

    def metric(small: nn.Module) -> dict[str, float]:
        begin = time.perf_counter()
        with torch.no_grad():
            small(*inputs)
        return {"metric": 0.0, name: time.perf_counter() - begin}

    def latency(small: nn.Module) -> float:
        return metric(small)[name]

    trial = optuna.trial.FixedTrial(half(space))
    for each in (metric, latency):
        with pytest.raises(ValueError, match=r"whole forward pass.*latency_ms\(model, inputs\).*cache_bytes=0"):
            PruningObjective(space, each)(trial)
        assert PruningObjective(space, each, cache_bytes=0)(trial) >= 0
