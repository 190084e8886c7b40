"""Calibration data, and the order of units that refitting gives, against least squares written out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from optuna_softprune import ActivationEnergy, Calibration, PruningSpace, ReconstructionError
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from collections.abc import Callable

RIDGE = 1e-3


def inputs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(model: nn.Module) -> Any:
    return randomise(model).double()


def order_of(model: nn.Module, x: torch.Tensor, group: str) -> list[int]:
    """Return the units of a group in their order of removal."""
    space = PruningSpace(model, (x,), importance=ReconstructionError(Calibration([(x,)]), ridge=RIDGE))
    position = [each.name for each in space.groups].index(group)
    order: list[int] = space.order[position].tolist()
    return order


def error(read: np.ndarray[Any, Any], weight: np.ndarray[Any, Any], gone: list[int], *, centred: bool) -> float:
    """Return the damped squared error of `read @ weight.T` when inputs are gone and the others' weights are refitted.

    Least squares written out for scipy: the rows below the data are the ridge on how far weights move.
    """
    if centred:
        read = read - read.mean(0)
    stay = [i for i in range(read.shape[1]) if i not in gone]
    damping = np.sqrt(RIDGE * (read**2).mean() * len(read))
    below = np.vstack([read[:, stay], damping * np.eye(len(stay))])
    target = np.vstack([read[:, gone] @ weight[:, gone].T, np.zeros((len(stay), len(weight)))])
    left = target - below @ scipy.linalg.lstsq(below, target)[0] if stay else target
    return float((left**2).sum() + damping**2 * (weight[:, gone] ** 2).sum()) / len(read)


def greedy(units: int, cost: Callable[[list[int]], float]) -> list[int]:
    """Return the order in which units go if every one that is left is tried at each step."""
    gone: list[int] = []
    while len(gone) < units:
        left = [unit for unit in range(units) if unit not in gone]
        gone.append(min(left, key=lambda unit: cost([*gone, unit])))
    return gone


def test_order_is_that_of_trying_every_unit_and_refitting() -> None:
    model = double(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)))
    x = inputs(50, 4)
    read, weight = model[:2](x).detach().numpy(), model[2].weight.detach().numpy()
    assert order_of(model, x, "0") == greedy(6, lambda gone: error(read, weight, gone, centred=True))


def test_order_sums_over_all_readers_of_a_group() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 4, bias=False)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.stem(x).relu()
            return self.left(x), self.right(x.square())

    model, x = double(Two()), inputs(50, 4)
    one = model.stem(x).relu().detach().numpy()
    left, right = (layer.weight.detach().numpy() for layer in (model.left, model.right))
    expected = greedy(6, lambda gone: error(one, left, gone, centred=True) + error(one**2, right, gone, centred=False))
    assert order_of(model, x, "stem") == expected


def test_order_takes_units_of_several_inputs_as_blocks() -> None:
    model = double(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 5)))
    x = inputs(60, 2, 4, 4)
    read, weight = model[:3](x).detach().numpy(), model[3].weight.detach().numpy()

    def cost(units: list[int]) -> float:
        return error(read, weight, [4 * unit + i for unit in units for i in range(4)], centred=True)

    assert order_of(model, x, "0") == greedy(6, cost)


def test_order_behind_a_concatenation_takes_the_other_inputs_as_staying() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 3), nn.Linear(9, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))
            return y

    model, x = double(Joined()), inputs(50, 4)
    read = torch.cat([model.a(x).relu(), model.b(x).relu()], 1).detach().numpy()
    weight = model.head.weight.detach().numpy()
    assert order_of(model, x, "a") == greedy(6, lambda gone: error(read, weight, gone, centred=True))
    assert order_of(model, x, "b") == greedy(
        3, lambda gone: error(read, weight, [6 + unit for unit in gone], centred=True)
    )


@pytest.mark.parametrize("units", [70, 300])
def test_order_of_wide_layers_is_the_same_in_blocks_and_one_unit_after_the_other(units: int) -> None:
    """The reference downdates whole matrices, as in Hassibi and Stork (1992), a unit at a time."""
    model = double(nn.Sequential(nn.Linear(20, units), nn.Tanh(), nn.Linear(units, 10)))
    x = inputs(400, 20)
    read, weight = model[:2](x).detach().numpy(), model[2].weight.detach().numpy()
    read = read - read.mean(0)
    moments = read.T @ read / len(read)
    inverse = np.linalg.inv(moments + RIDGE * np.diag(moments).mean() * np.eye(units))
    expected: list[int] = []
    for _ in range(units):
        costs = (weight**2).sum(0) / np.where(np.diag(inverse) > 0, np.diag(inverse), 1)
        costs[expected] = np.inf
        unit = int(costs.argmin())
        expected.append(unit)
        column = inverse[:, unit] / inverse[unit, unit]
        weight = weight - np.outer(weight[:, unit], column)
        inverse = inverse - np.outer(column, inverse[unit])
        inverse[unit], inverse[:, unit] = 0, 0
    assert order_of(model, x, "0") == expected


def test_dead_and_duplicated_units_go_first() -> None:
    model = double(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)))
    with torch.no_grad():
        model[0].weight[4], model[0].bias[4] = 0.0, -1.0
        model[0].weight[2], model[0].bias[2] = model[0].weight[5], model[0].bias[5]
    assert set(order_of(model, inputs(50, 4), "0")[:2]) in ({4, 2}, {4, 5})


@pytest.mark.parametrize("name", ["residual", "grouped", "transposed", "u_net", "depthwise", "sequence", "bare_matrix"])
def test_scores_differ_and_are_a_part_of_the_energy(name: str) -> None:
    network = next(n for n in ZOO if n.name == name)
    importance = ReconstructionError(Calibration([network.inputs()]))
    for scores in PruningSpace(randomise(network.build()), network.inputs(), importance=importance).scores:
        assert len(set(scores.tolist())) == len(scores)
        assert scores.min() > 0
        assert scores.max() <= 1 + 1e-9


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 3, 3), (5, 4, 7, 7)),
        (nn.Conv2d(4, 3, 3, stride=2, padding=1), (5, 4, 7, 8)),
        (nn.Conv2d(4, 6, (3, 2), dilation=(2, 1), padding=(1, 0), groups=2), (5, 4, 7, 7)),
        (nn.Conv1d(4, 3, 4, padding="same", dilation=2), (5, 4, 9)),
        (nn.Conv2d(4, 3, 1, stride=3), (5, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1, output_padding=1), (5, 4, 5, 5)),
        (nn.ConvTranspose1d(4, 6, 4, dilation=2, padding=3, groups=2), (5, 4, 8)),
        (nn.ConvTranspose3d(4, 2, 2, stride=2), (2, 4, 3, 3, 3)),
        (nn.Linear(4, 3), (5, 4)),
        (nn.Linear(4, 3), (5, 6, 4)),
    ],
    ids=str,
)
def test_moments_are_of_each_channel_as_often_as_a_tap_reads_it(layer: Any, shape: tuple[int, ...]) -> None:
    """The oracle: the layer's own gradient counts how many taps of all outputs meet a position."""
    layer, x = layer.double(), inputs(*shape)
    stem = nn.Identity()
    group = PruningSpace(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)).eval(), (torch.randn(1, 2),)).groups[:1]
    renamed = [_reading(group[0], "1.weight", 0 if "Transpose" in type(layer).__name__ else 1)]
    batches = [(part,) for part in x.split(2)]
    found = Calibration(batches).moments(nn.Sequential(stem, layer), renamed)["1.weight"]
    channel = 1 if x.dim() > 2 and not isinstance(layer, nn.Linear) else -1
    counted = _counts(layer, x).movedim(channel, 0)
    moved = x.movedim(channel, 0).reshape(4, -1)
    groups = getattr(layer, "groups", 1)
    weight = counted.reshape(4, -1)[0]
    expected = (moved * weight) @ moved.T / weight.sum()
    width = 4 // groups
    blocks = torch.stack([expected[i : i + width, i : i + width] for i in range(0, 4, width)])
    assert found.second is not None
    torch.testing.assert_close(found.second, blocks)
    torch.testing.assert_close(found.mean.flatten(), (moved * weight).sum(1) / weight.sum())


def _reading(group: Any, tensor: str, axis: int) -> Any:
    from dataclasses import replace

    from optuna_softprune import Side

    return replace(group, slices=(replace(group.slices[0], tensor=tensor, axis=axis, side=Side.INPUT),))


def _counts(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Return how many taps read each element of `x`: the gradient of the outputs' sum with weights of one."""
    ones = type(layer).__new__(type(layer))
    ones.__dict__.update(layer.__dict__)
    ones._parameters = {
        name: None if held is None else nn.Parameter(torch.ones_like(held)) for name, held in layer._parameters.items()
    }
    x = x.clone().requires_grad_()
    out = ones(x)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    return gradient / (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels // layer.groups)


def test_moments_do_not_depend_on_how_samples_are_batched() -> None:
    network = next(n for n in ZOO if n.name == "bottleneck")
    model = randomise(network.build()).double()
    x = inputs(12, 1, 8, 8)
    space = PruningSpace(model, (x,))
    one, many = (Calibration(b).moments(model, space.groups) for b in ([(x,)], [(part,) for part in x.split(5)]))
    assert list(one) == list(many)
    for name in one:
        torch.testing.assert_close(one[name].second, many[name].second)


@pytest.mark.parametrize(
    ("layer", "sizes"),
    [
        (nn.Linear(300, 4), [(700, 300), (900, 300), (5, 300), (1500, 300)]),
        (nn.Conv2d(4, 3, 3), [(3, 4, 20, 20), (1, 4, 400, 400), (2, 4, 9, 9)]),
    ],
    ids=["many samples", "growing images"],
)
def test_moments_of_many_far_positions_lose_next_to_nothing(layer: Any, sizes: list[tuple[int, ...]]) -> None:
    """A hundred standard deviations from zero; the oracle is NumPy's covariance in float64 of the same numbers."""
    batches = [(inputs(*size, seed=i).float() + 100,) for i, size in enumerate(sizes)]
    batches = [(x.cumsum(1) / 20,) for (x,) in batches]  # channels depend on each other
    group = PruningSpace(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)).eval(), (torch.randn(1, 2),)).groups[0]
    found = Calibration(batches).moments(nn.Sequential(nn.Identity(), layer), [_reading(group, "1.weight", 1)])
    mine = found["1.weight"]
    read = [x.double().movedim(1, 0).reshape(x.shape[1], -1) for (x,) in batches]
    often = torch.cat([_counts(layer, x.float()).movedim(1, 0).reshape(x.shape[1], -1)[0] for (x,) in batches])
    expected = np.cov(torch.cat(read, 1).numpy(), fweights=often.round().long().numpy(), ddof=0)
    assert mine.second is not None
    spread = mine.second[0] - mine.mean.T @ mine.mean
    assert (spread - torch.from_numpy(expected)).abs().max() < 1e-5 * np.diag(expected).mean()
    torch.testing.assert_close(mine.energy, mine.second.diagonal(dim1=1, dim2=2))


def test_attention_layers_are_seen() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    model = nn.Sequential(nn.Linear(3, 8), randomise(layer), nn.Linear(8, 2)).double().eval()
    x = inputs(6, 5, 3)
    groups = PruningSpace(nn.Sequential(nn.Linear(2, 4), nn.Linear(4, 2)).eval(), (torch.randn(1, 2),)).groups[:1]
    names = ["1.self_attn.in_proj_weight", "1.self_attn.out_proj.weight", "1.linear1.weight", "1.linear2.weight"]
    found = Calibration([(x,)]).moments(model, [_reading(groups[0], name, 1) for name in names])
    assert list(found) == names
    stem = model[0](x).flatten(0, 1)
    torch.testing.assert_close(found[names[0]].second, (stem.T @ stem / len(stem))[None])


def test_data_is_read_once_for_importance_after_importance() -> None:
    calls = []

    class Counted(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            y: torch.Tensor = super().forward(x)
            return y

    model = randomise(Counted(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)))
    groups = PruningSpace(model, (torch.randn(2, 4),)).groups
    calibration = Calibration([(torch.randn(3, 4),) for _ in range(4)])
    calls.clear()
    for importance in (ActivationEnergy(calibration), ReconstructionError(calibration)):
        importance.scores(model, groups)
    assert len(calls) == 4
    with torch.no_grad():
        model[0].weight.mul_(2)
    ActivationEnergy(calibration).scores(model, groups)
    assert len(calls) == 8


def test_progress_of_a_long_calibration_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("optuna_softprune.calibration._calibration.PATIENCE_S", 0.0)
    model = randomise(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)))
    groups = PruningSpace(model, (torch.randn(2, 4),)).groups
    Calibration([(torch.randn(3, 4),)]).moments(model, groups)
    assert "calibration" in capsys.readouterr().err


def test_calibration_is_known_by_its_data() -> None:
    one, same, other = (repr(Calibration([(inputs(4, 3, seed=seed),)])) for seed in (0, 0, 1))
    assert one == same != other
    assert one.startswith("Calibration(4 samples in 1 batches, sha256 ")


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, r"at least one batch, but got none. A generator can be read only once"),
        (iter([]), ValueError, r"at least one batch, but got none"),
        ([torch.randn(2, 3)], TypeError, r"tuples of the network's inputs, but got Tensor: write `\[\(x,\)"),
        ([(torch.randn(0, 3),)], ValueError, r"at least one sample, but got inputs of shape \(0, 3\)"),
        ([(1.0,)], ValueError, r"at least one sample, but got one without a tensor"),
    ],
)
def test_wrong_batches_are_said(batches: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Calibration(batches)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ((torch.randn(2, 5),), r"to fit the network, but batch 1 failed: RuntimeError: .*labels do not belong to it"),
        ((torch.randn(2, 4), torch.zeros(2)), r"to fit the network, but batch 1 failed: TypeError"),
        ((torch.full((2, 4), float("nan")),), r"finite, but what `2.weight` reads is not"),
        ((torch.full((2, 4), float("inf")),), r"finite, but what `2.weight` reads is not"),
    ],
)
def test_batches_that_do_not_fit_are_said(batch: tuple[torch.Tensor, ...], message: str) -> None:
    model = randomise(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)))
    calibration = Calibration([(torch.randn(2, 4),), batch])
    with pytest.raises(ValueError, match=message):
        PruningSpace(model, (torch.randn(2, 4),), importance=ActivationEnergy(calibration))


@pytest.mark.parametrize("ridge", [0, -1, 2, float("nan"), "a"])
def test_wrong_ridge_is_said(ridge: Any) -> None:
    with pytest.raises(ValueError, match=r"Expected `ridge` to be in \(0, 1\], but got"):
        ReconstructionError(Calibration([(torch.randn(2, 4),)]), ridge=ridge)


@pytest.mark.parametrize("importance", [ActivationEnergy, ReconstructionError])
def test_batches_in_place_of_a_calibration_are_said(importance: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected `calibration` to be a `Calibration`, but got list: write"):
        importance([(torch.randn(2, 4),)])


def test_layer_too_wide_for_its_moments_is_ranked_by_energy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna_softprune.calibration._sums.MOST_BYTES", 100)
    model = randomise(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)))
    x = torch.randn(20, 4)
    orders = [
        PruningSpace(model, (x,), importance=importance(Calibration([(x,)]))).order[0].tolist()
        for importance in (ActivationEnergy, ReconstructionError)
    ]
    assert orders[0] == orders[1]
