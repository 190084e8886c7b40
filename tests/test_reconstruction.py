"""Refitted weights against least squares written out for scipy, and what reconstruction means for everything else."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from optuna_softprune import (
    Calibration,
    CalibrationWarning,
    LeastSquares,
    PruningSpace,
    ReconstructionError,
)
from optuna_softprune.graph import kept_indices, tensors
from optuna_softprune.removal._masked import masked_outputs
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from numpy.typing import NDArray

RIDGE = 1e-2


def inputs(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def double(model: nn.Module) -> Any:
    return randomise(model).double()


def space_of(model: nn.Module, x: torch.Tensor, **settings: Any) -> PruningSpace:
    return PruningSpace(model, (x,), reconstruction=LeastSquares(Calibration([(x,)]), ridge=RIDGE), **settings)


def removing(space: PruningSpace, **removed: int) -> tuple[dict[str, float], dict[str, list[int]]]:
    """Return coefficients that remove so many units of some groups, and the units of these groups that stay."""
    c = {g.name: removed.get(g.name.replace(".", "_"), 0) / g.size for g in space.groups}
    stay = {
        g.name: sorted(order[removed.get(g.name.replace(".", "_"), 0) :].tolist())
        for g, order in zip(space.groups, space.order, strict=True)
    }
    return c, stay


def refitted(
    read: NDArray[np.float64], weight: NDArray[np.float64], stay: list[int], *, centred: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the weights (rows, k) with the least squared error of `read @ weight.T`, and what a bias must add.

    Args:
        read: (samples, d).
        weight: (rows, d).
        stay: Inputs that stay.
        centred: Whether a bias makes up for means.
    """
    mean = read.mean(0) if centred else np.zeros(read.shape[1])
    about = read - mean
    gone = [i for i in range(read.shape[1]) if i not in stay]
    damping = np.sqrt(RIDGE * (about**2).mean() * len(read))
    rows = np.vstack([about[:, stay], damping * np.eye(len(stay))])
    target = np.vstack([about[:, gone] @ weight[:, gone].T, np.zeros((len(stay), len(weight)))])
    found = weight[:, stay] + scipy.linalg.lstsq(rows, target)[0].T
    return found, weight @ mean - found @ mean[stay]


def test_linear_layer_with_bias_is_the_least_squares_solution() -> None:
    model, x = double(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5))), inputs(40, 4)
    space = space_of(model, x)
    c, stay = removing(space, **{"0": 3})
    small: Any = space.prune(c)
    weight, shift = refitted(model[:2](x).detach().numpy(), model[2].weight.detach().numpy(), stay["0"], centred=True)
    np.testing.assert_allclose(small[2].weight.detach().numpy(), weight, rtol=1e-9)
    np.testing.assert_allclose((small[2].bias - model[2].bias).detach().numpy(), shift, rtol=1e-9)
    assert torch.equal(small[0].weight, model[0].weight[stay["0"]])


def test_linear_layer_without_bias_is_the_least_squares_solution() -> None:
    model, x = double(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5, bias=False))), inputs(40, 4)
    space = space_of(model, x)
    c, stay = removing(space, **{"0": 3})
    small: Any = space.prune(c)
    weight, _ = refitted(model[:2](x).detach().numpy(), model[2].weight.detach().numpy(), stay["0"], centred=False)
    np.testing.assert_allclose(small[2].weight.detach().numpy(), weight, rtol=1e-9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(8, 6, 3),
        nn.Conv2d(8, 6, 3, bias=False),
        nn.Conv2d(8, 6, 3, padding=1),
        nn.Conv2d(8, 6, 3, stride=2, padding=1),
        nn.Conv2d(8, 6, 3, dilation=2, padding="same"),
        nn.Conv2d(8, 6, 1, stride=2),
        nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 6, 3, padding=1, groups=2),
        nn.Conv2d(8, 6, 3, groups=2),
        nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1),
        nn.ConvTranspose2d(8, 6, 2, stride=2, bias=False),
        nn.ConvTranspose2d(8, 6, 3, padding=2, groups=2),
    ],
    ids=str,
)
def test_convolution_is_the_least_squares_solution(layer: Any) -> None:
    """Channels are written as combinations of others at the same position, as often as a tap meets it."""
    model, x = double(nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), layer)), inputs(6, 3, 7, 7)
    space = space_of(model, x)
    group = space.groups[0]
    removed = 3 if group.size == 8 else 2
    c, stay = removing(space, **{"0": removed})
    small: Any = space.prune(c)
    read = model[:2](x).detach()
    if layer.padding_mode == "reflect":
        read = nn.functional.pad(read, (1, 1, 1, 1), mode="reflect")
    counts = _counts(layer, read).numpy().repeat(len(read), 0).reshape(-1)
    transposed = isinstance(layer, nn.ConvTranspose2d)
    width = 8 // layer.groups
    dense, found = (each.weight.detach().movedim(int(transposed), 0) for each in (model[2], small[2]))
    padded = layer.padding not in (0, (0, 0)) and layer.padding_mode != "reflect"
    centred = layer.bias is not None and not padded and not transposed
    channels = [i for unit in stay["0"] for i in group.slices[0].indices[unit].tolist()]
    for g in range(layer.groups):
        own = read.movedim(1, 0).reshape(8, -1)[g * width : (g + 1) * width].T.numpy()
        repeated = np.repeat(own, counts.astype(int), axis=0)
        kept = sorted(i - g * width for i in channels if g * width <= i < (g + 1) * width)
        if transposed:
            w = dense[:, g * width : (g + 1) * width].permute(0, 2, 3, 1).reshape(-1, width)
            got = found[:, g * len(kept) : (g + 1) * len(kept)].permute(0, 2, 3, 1).reshape(-1, len(kept))
            outs: Any = slice(None)
        else:
            outs = slice(g * 6 // layer.groups, (g + 1) * 6 // layer.groups)
            w = dense[outs].permute(0, 2, 3, 1).reshape(-1, width)
            got = found[outs].permute(0, 2, 3, 1).reshape(-1, len(kept))
        weight, shift = refitted(repeated, w.numpy(), kept, centred=centred)
        np.testing.assert_allclose(got.numpy(), weight, rtol=1e-8, atol=1e-10)
        if centred:
            moved = (small[2].bias - model[2].bias).detach()[outs].numpy()
            np.testing.assert_allclose(moved, shift.reshape(len(moved), -1).sum(1), rtol=1e-8, atol=1e-10)
        elif layer.bias is not None:
            assert torch.equal(small[2].bias, model[2].bias)


def _counts(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Return how many taps of all outputs meet each position (1, H, W): a gradient with weights of one."""
    ones = copy.deepcopy(layer)
    with torch.no_grad():
        ones.weight.fill_(1.0)
    probe = x[:1].clone().requires_grad_()
    out = _plain(ones, probe)
    (gradient,) = torch.autograd.grad(out.sum(), probe)
    return gradient[:, 0] / (layer.out_channels // layer.groups)


def _plain(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Run a layer on what is padded already."""
    if layer.padding_mode == "reflect":
        return nn.functional.conv2d(x, layer.weight, None, layer.stride, 0, layer.dilation, layer.groups)
    y: torch.Tensor = layer(x)
    return y


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(4, 5), nn.Linear(11, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))
        return y


def test_what_reads_several_groups_is_solved_for_all_of_them_together() -> None:
    model, x = double(Joined()), inputs(40, 4)
    space = space_of(model, x)
    c, stay = removing(space, a=2, b=3)
    small: Any = space.prune(c)
    read = torch.cat([model.a(x).relu(), model.b(x).relu()], 1).detach().numpy()
    both = stay["a"] + [6 + unit for unit in stay["b"]]
    weight, shift = refitted(read, model.head.weight.detach().numpy(), both, centred=True)
    np.testing.assert_allclose(small.head.weight.detach().numpy(), weight, rtol=1e-9)
    np.testing.assert_allclose((small.head.bias - model.head.bias).detach().numpy(), shift, rtol=1e-9)


def test_flattened_channels_go_as_blocks() -> None:
    model = double(nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 4, 5)))
    x = inputs(60, 2, 4, 4)
    space = space_of(model, x)
    c, stay = removing(space, **{"0": 3})
    small: Any = space.prune(c)
    indices = [4 * unit + i for unit in stay["0"] for i in range(4)]
    weight, _ = refitted(model[:3](x).detach().numpy(), model[3].weight.detach().numpy(), indices, centred=True)
    np.testing.assert_allclose(small[3].weight.detach().numpy(), weight, rtol=1e-9)


def test_every_reader_of_a_residual_sum_is_refitted_for_itself() -> None:
    class Stream(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            y: torch.Tensor = self.head(x + self.inner(x.relu()))
            return y

    model, x = double(Stream()), inputs(40, 4)
    space = space_of(model, x)
    c, stay = removing(space, stem=2)
    small: Any = space.prune(c)
    stream = model.stem(x)
    inner, _ = refitted(stream.relu().detach().numpy(), model.inner.weight.detach().numpy(), stay["stem"], centred=True)
    np.testing.assert_allclose(small.inner.weight.detach().numpy(), inner[stay["stem"]], rtol=1e-9)
    read = (stream + model.inner(stream.relu())).detach().numpy()
    head, _ = refitted(read, model.head.weight.detach().numpy(), stay["stem"], centred=True)
    np.testing.assert_allclose(small.head.weight.detach().numpy(), head, rtol=1e-9)


def test_duplicated_units_lose_nothing_when_one_of_each_pair_goes() -> None:
    model, x = double(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5))), inputs(40, 4)
    with torch.no_grad():
        model[0].weight[4:], model[0].bias[4:] = model[0].weight[:4], model[0].bias[:4]
    calibration = Calibration([(x,)])
    order = ReconstructionError(calibration, ridge=1e-9)
    space = PruningSpace(model, (x,), importance=order, reconstruction=LeastSquares(calibration, ridge=1e-9))
    small = space.prune({"0": 0.5})
    other = inputs(30, 4, seed=1)
    torch.testing.assert_close(small(other), model(other), rtol=1e-6, atol=1e-6)


def test_nothing_removed_is_the_dense_network() -> None:
    network = next(n for n in ZOO if n.name == "residual")
    model = randomise(network.build())
    space = PruningSpace(model, network.inputs(), reconstruction=LeastSquares(Calibration([network.inputs()])))
    dense = space.prune({group.name: 0.0 for group in space.groups})
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, dense.state_dict()[name])


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("network", [n for n in ZOO if n.groups], ids=lambda network: network.name)
def test_zoo_is_refitted_and_otherwise_as_it_was(network: Any) -> None:
    args = network.inputs()
    model = randomise(network.build()).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    space = PruningSpace(model, args, reconstruction=LeastSquares(Calibration([args])))
    plain = PruningSpace(model, args)
    c = space.snap({name: found.high / 2 for name, found in space.distributions.items()})
    small, sliced = space.prune(c), plain.prune(c)
    assert {n: t.shape for n, t in small.state_dict().items()} == {n: t.shape for n, t in sliced.state_dict().items()}
    assert all(torch.isfinite(each).all() for each in small.state_dict().values())
    assert {n: m.training for n, m in small.named_modules()} == {n: m.training for n, m in sliced.named_modules()}
    small(*args)
    assert space.verify(c) <= 1e-9
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert "refitted on Calibration(" in str(space)


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("network", [n for n in ZOO if n.groups], ids=lambda network: network.name)
def test_refitted_is_the_masked_network_with_the_refitted_weights_in_place(network: Any) -> None:
    args = tuple(x.double() if x.is_floating_point() else x for x in network.inputs())
    model = randomise(network.build()).double().eval()
    space = PruningSpace(model, args, reconstruction=LeastSquares(Calibration([args, args])))
    c = space.snap({name: found.high / 2 for name, found in space.distributions.items()})
    small = space.prune(c)
    kept = space.candidate(c).kept
    placed = copy.deepcopy(model)
    dense = dict(tensors(placed))
    groups = space._network
    with torch.no_grad():
        for name, tensor in tensors(small):
            places = [
                np.flatnonzero(kept_indices(units, kept))
                if (units := groups.tensors.get((name, axis))) is not None
                else np.arange(length)
                for axis, length in enumerate(dense[name].shape)
            ]
            if places:
                dense[name][np.ix_(*places)] = tensor
            else:
                dense[name].copy_(tensor)
    exported = groups.exported
    with torch.no_grad():
        masked = masked_outputs(placed, groups, kept, exported.flatten_inputs((args, {})))
        got = exported.flatten_outputs(small(*args))
    torch.testing.assert_close(got, masked, rtol=1e-9, atol=1e-9)


def residual() -> tuple[Any, tuple[torch.Tensor, ...]]:
    network = next(n for n in ZOO if n.name == "residual")
    return double(network.build()), (inputs(16, 3, 8, 8),)


def test_batch_norms_have_the_statistics_that_training_would_give() -> None:
    """The oracle: torch's own running statistics, cumulative, after one pass in train mode on one batch."""
    model, args = residual()
    space = PruningSpace(model, args, reconstruction=LeastSquares(Calibration([args]), ridge=RIDGE))
    c = {group.name: 0.5 for group in space.groups}
    small: Any = space.prune(c)
    expected = copy.deepcopy(small)
    for module in expected.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None
    expected.train()(*args)
    count = 16 * 64
    torch.testing.assert_close(small.bn1.running_mean, expected.bn1.running_mean)
    torch.testing.assert_close(small.bn1.running_var, expected.bn1.running_var * (count - 1) / count)
    assert not torch.equal(small.bn1.running_mean, model.bn1.running_mean[:1].expand_as(small.bn1.running_mean))
    assert not any(module.training for module in small.modules())


def test_statistics_of_batches_are_pooled() -> None:
    model = double(nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    x = inputs(30, 3)
    halves = Calibration([(x[:10],), (x[10:],)])
    space = PruningSpace(model, (x,), reconstruction=LeastSquares(halves, ridge=RIDGE))
    small: Any = space.prune({group.name: 0.5 for group in space.groups})
    read = small[:3](x)
    torch.testing.assert_close(small[3].running_mean, read.mean(0))
    torch.testing.assert_close(small[3].running_var, read.var(0, correction=0))


def normed(x: torch.Tensor, batches: list[Any]) -> tuple[Any, Any]:
    """Return a network whose units are all there twice, and the same without one of each pair."""
    model = double(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    with torch.no_grad():
        model[0].weight[4:], model[0].bias[4:] = model[0].weight[:4], model[0].bias[:4]
    calibration = Calibration(batches)
    space = PruningSpace(
        model,
        (x[:2],),
        importance=ReconstructionError(calibration, ridge=1e-9),
        reconstruction=LeastSquares(calibration, ridge=1e-9),
        ignored=["2"],
    )
    return model, space.prune({"0": 0.5})


def test_statistics_of_a_few_samples_are_corrected_to_those_of_all() -> None:
    """Exactly, where the smaller network computes what the dense one does; samples come sorted here."""
    x = inputs(1000, 3)
    x = x[x[:, 0].argsort()]
    model, small = normed(x, [(part,) for part in x.split(90)])
    read = model[:3](x)
    torch.testing.assert_close(small[3].running_mean, read.mean(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(small[3].running_var, read.var(0, correction=0), rtol=1e-6, atol=1e-6)


def test_statistics_do_not_depend_on_how_samples_are_batched() -> None:
    x = inputs(300, 3)
    one, many = (normed(x, batches)[1] for batches in ([(x,)], [(part,) for part in x.split(7)]))
    torch.testing.assert_close(one[3].running_var, many[3].running_var, rtol=1e-9, atol=1e-9)


class Fifties(nn.Sequential):
    """Takes 50 samples, no more and no less."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = super().forward(x.reshape(50, -1))
        return y


def test_statistics_of_a_network_that_takes_one_number_of_samples_are_those_of_all_batches() -> None:
    model = double(Fifties(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)))
    x = inputs(200, 3)
    calibration = Calibration([(part,) for part in x.split(50)])
    space = PruningSpace(model, (x[:50],), reconstruction=LeastSquares(calibration, ridge=RIDGE))
    small: Any = space.prune({group.name: 0.5 for group in space.groups})
    read = small[2](small[1](small[0](x)))
    torch.testing.assert_close(small[3].running_mean, read.mean(0))
    torch.testing.assert_close(small[3].running_var, read.var(0, correction=0))


def test_batch_norm_whose_input_is_only_sliced_keeps_its_statistics() -> None:
    model, args = residual()
    space = PruningSpace(model, args, reconstruction=LeastSquares(Calibration([args]), ridge=RIDGE))
    c = {group.name: 0.4 if group.name == "conv1" else 0.0 for group in space.groups}
    small: Any = space.prune(c)
    _, stay = removing(space, conv1=2)
    assert torch.equal(small.bn1.running_mean, model.bn1.running_mean[stay["conv1"]])


@pytest.mark.parametrize(("rows", "columns"), [(3, 40), (60, 60)])
def test_error_on_the_calibration_data_is_never_larger_than_without(rows: int, columns: int) -> None:
    for seed in range(5):
        model = double(nn.Sequential(nn.Linear(4, columns), nn.ReLU(), nn.Linear(columns, rows)))
        x = inputs(70, 4, seed=seed)
        space, plain = space_of(model, x), PruningSpace(model, (x,))
        for removed in range(1, columns, columns // 5):
            c = {"0": removed / columns}
            errors = [(each.prune(c)(x) - model(x)).square().sum() for each in (space, plain)]
            assert errors[0] <= errors[1]


def test_table_says_what_is_refitted_and_what_is_not() -> None:
    network = next(n for n in ZOO if n.name == "tied_weight")
    model, args = randomise(network.build()).eval(), network.inputs()
    calibration = Calibration([args])
    text = str(PruningSpace(model, args, reconstruction=LeastSquares(calibration)))
    assert f"refitted on {calibration}\n  weights: " in text
    assert "not refitted, it is used elsewhere too: " in text


def test_dead_layers_stay_as_they_are() -> None:
    model, x = double(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5))), inputs(40, 4)
    with torch.no_grad():
        model[0].weight.zero_()
    with pytest.warns(UserWarning, match="The output hardly moves"):
        space = space_of(model, x)
    c, stay = removing(space, **{"0": 3})
    small: Any = space.prune(c)
    assert torch.equal(small[2].weight, model[2].weight[:, stay["0"]])
    assert "not refitted, what it reads does not change on the calibration data: 2.weight" in str(space)


def test_fewer_samples_than_inputs_and_dead_inputs_are_refitted_by_the_ridge() -> None:
    model, x = double(nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 5))), inputs(8, 4)
    with torch.no_grad():
        model[0].weight[:3], model[0].bias[:3] = 0.0, -1.0
    with pytest.warns(CalibrationWarning, match=r"`2.weight` \(8 for 30 inputs\)"):
        space = space_of(model, x)
    c, stay = removing(space, **{"0": 12})
    small: Any = space.prune(c)
    weight, _ = refitted(model[:2](x).detach().numpy(), model[2].weight.detach().numpy(), stay["0"], centred=True)
    np.testing.assert_allclose(small[2].weight.detach().numpy(), weight, rtol=1e-8, atol=1e-10)


def test_layer_too_wide_for_its_moments_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("optuna_softprune.calibration._sums.MOST_BYTES", 8 * 36)
    model = double(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 2)))
    with pytest.warns(CalibrationWarning, match=r"would take too much memory are not refitted: 2.weight"):
        space = space_of(model, inputs(40, 4))
    assert "not refitted, moments of its 7 inputs would take too much memory: 2.weight" in str(space)
    c, stay = removing(space, **{"0": 3})
    small: Any = space.prune(c)
    assert torch.equal(small[2].weight, model[2].weight[:, stay["0"]])


def test_weights_that_changed_since_they_were_calibrated_are_said() -> None:
    model, x = double(nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5))), inputs(40, 4)
    space = space_of(model, x)
    with torch.no_grad():
        model[0].weight.mul_(1.1)
    for use in (lambda: space.prune({"0": 0.0}), lambda: space.evaluator(2**20, print)):
        with pytest.raises(ValueError, match=r"have changed since then: make the space again"):
            use()


def test_half_precision_is_refitted_in_single() -> None:
    model, x = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5)), inputs(40, 4)
    randomise(model)
    exact: Any = space_of(copy.deepcopy(model).double(), x).prune({"0": 3 / 7})
    half = model.bfloat16()
    small: Any = PruningSpace(
        half, (x.bfloat16(),), reconstruction=LeastSquares(Calibration([(x.bfloat16(),)]), ridge=RIDGE)
    ).prune({"0": 3 / 7})
    assert small[2].weight.dtype == torch.bfloat16
    torch.testing.assert_close(small[2].weight.double(), exact[2].weight, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("reconstruction", [Calibration([(torch.zeros(1, 4),)]), "least squares", LeastSquares])
def test_wrong_reconstruction_is_said(reconstruction: Any) -> None:
    model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 5)).eval()
    with pytest.raises(TypeError, match=r"Expected `reconstruction` to be a `LeastSquares` or None, but got"):
        PruningSpace(model, (torch.zeros(1, 4),), reconstruction=reconstruction)


def test_means_are_left_to_a_batch_norm_that_reads_the_refitted_layer_alone() -> None:
    class Normed(nn.Module):
        def __init__(self, *, alone: bool) -> None:
            super().__init__()
            self.stem, self.conv, self.norm = nn.Conv2d(3, 7, 1), nn.Conv2d(7, 5, 3, bias=False), nn.BatchNorm2d(5)
            self.alone = alone

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.conv(self.stem(x).relu())
            normed: torch.Tensor = self.norm(y)
            return normed if self.alone else normed + y

    x = inputs(6, 3, 7, 7)
    for alone in (True, False):
        model = double(Normed(alone=alone))
        space = space_of(model, x)
        c, stay = removing(space, stem=3)
        small: Any = space.prune(c)
        counts = _counts(model.conv, model.stem(x)).detach().numpy().repeat(len(x), 0).reshape(-1)
        read = model.stem(x).relu().movedim(1, 0).reshape(7, -1).T.detach().numpy()
        dense = model.conv.weight.detach().permute(0, 2, 3, 1).reshape(-1, 7).numpy()
        weight, _ = refitted(np.repeat(read, counts.astype(int), axis=0), dense, stay["stem"], centred=alone)
        got = small.conv.weight.detach().permute(0, 2, 3, 1).reshape(len(weight), -1).numpy()
        np.testing.assert_allclose(got, weight, rtol=1e-8, atol=1e-10)
