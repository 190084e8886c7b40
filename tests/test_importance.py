"""Importances against sums written down by hand, and what is said of wrong ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from optuna_softprune import ActivationEnergy, Calibration, Importance, Magnitude, PruningSpace, Random, Taylor
from optuna_softprune.testing import ZOO, randomise

if TYPE_CHECKING:
    from collections.abc import Sequence

X = torch.randn(16, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 2)).eval()


def scores(importance: Importance, model: nn.Module, *args: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    return list(importance.scores(model, PruningSpace(model, args or (X,)).groups))


@pytest.mark.parametrize("p", [1, 2, 3.5])
def test_magnitude_is_the_norm_of_all_weights_of_a_unit(model: nn.Sequential, p: float) -> None:
    (found,) = scores(Magnitude(p=p), model)
    first, last = model[0], model[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    columns = torch.cat([first.weight, first.bias[:, None], last.weight.t()], 1)
    np.testing.assert_allclose(found, torch.linalg.vector_norm(columns.double(), p, dim=1).detach().numpy())


def test_activation_energy_is_what_the_next_layer_loses() -> None:
    """With uncorrelated activations of zero mean the score is the mean squared loss of the next layer's output."""
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 2)).eval()
    first, last = model[0], model[1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        first.weight.copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0])))
    x = torch.tensor([[a, b, c] for a in (-1.0, 1.0) for b in (-1.0, 1.0) for c in (-1.0, 1.0)])
    (found,) = scores(ActivationEnergy(Calibration([(x[:4],), (x[4:],)])), model, x)
    for unit in range(3):
        removed = model[0](x).clone()
        removed[:, unit] = 0
        lost = (model(x) - last(removed)).square().sum(1).mean()
        assert found[unit] == pytest.approx(lost.item(), rel=1e-6)


@pytest.mark.parametrize("name", ["grouped", "transposed", "bottleneck", "token_mixer", "u_net"])
def test_activation_energy_ranks_dead_units_last(name: str) -> None:
    network = next(n for n in ZOO if n.name == name)
    model = randomise(network.build())
    for importance in (ActivationEnergy(Calibration([network.inputs()])), Taylor([network.inputs()], square)):
        for found, group in zip(
            scores(importance, model, *network.inputs()), PruningSpace(model, network.inputs()).groups, strict=True
        ):
            assert found.shape == (group.size,)
            assert (found >= 0).all()
            assert found.max() > 0


def square(model: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
    loss: torch.Tensor = model(*batch).square().mean()
    return loss


def test_taylor_is_the_first_order_change_of_the_loss(model: nn.Sequential) -> None:
    """Checked by scaling a unit's weights by 1 - t: the change of the loss over t, as t goes to 0."""
    model = model.double()
    x = X.double()
    (found,) = scores(Taylor([(x,)], square), model, x)
    first, last = model[0], model[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    dense = square(model, (x,)).item()
    for unit in range(6):
        step = 1e-6
        with torch.no_grad():
            for view in (first.weight[unit], first.bias[unit], last.weight[:, unit]):
                view.mul_(1 - step)
            change = (square(model, (x,)).item() - dense) / step
            for view in (first.weight[unit], first.bias[unit], last.weight[:, unit]):
                view.div_(1 - step)
        assert found[unit] == pytest.approx(change**2, rel=1e-3, abs=1e-12)


def test_taylor_sees_frozen_layers_and_leaves_them_frozen(model: nn.Sequential) -> None:
    model[0].requires_grad_(False)
    PruningSpace(model, (X,), importance=Taylor([(X,)], square))
    assert not any(parameter.requires_grad for parameter in model[0].parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_random_is_decided_by_seed_and_group(model: nn.Sequential) -> None:
    one, again, other = (scores(Random(seed=seed), model)[0].tolist() for seed in (0, 0, 1))
    assert one == again != other


def test_user_defined_importance_decides_what_goes_first(model: nn.Sequential) -> None:
    @dataclass
    class LastFirst:
        def scores(self, model: nn.Module, groups: Any) -> list[np.ndarray[Any, Any]]:
            return [-np.arange(group.size) for group in groups]

    small: Any = PruningSpace(model, (X,), importance=LastFirst()).prune({"0": 0.5})
    first = model[0]
    assert isinstance(first, nn.Linear)
    assert torch.equal(small[0].weight, first.weight[:3])


def test_scores_may_be_tensors_that_weights_led_to(model: nn.Sequential) -> None:
    class Largest:
        def scores(self, model: nn.Module, groups: Any) -> list[torch.Tensor]:
            weights = dict(model.named_parameters())
            found = [weights[group.slices[0].tensor].abs().amax(1).bfloat16() for group in groups]
            assert all(each.requires_grad for each in found)
            return found

    small: Any = PruningSpace(model, (X,), importance=Largest()).prune({"0": 0.5})
    first: Any = model[0]
    kept = first.weight.abs().amax(1).topk(3).indices.sort().values
    assert torch.equal(small[0].weight, first.weight[kept])


def test_importances_do_not_touch_the_model(model: nn.Sequential) -> None:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for importance in (Magnitude(), ActivationEnergy(Calibration([(X,)])), Taylor([(X,)], square), Random()):
        PruningSpace(model, (X,), importance=importance)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@dataclass
class Given:
    values: Any

    def scores(self, model: nn.Module, groups: Any) -> Any:
        return self.values


@pytest.mark.parametrize(
    ("importance", "error", "message"),
    [
        (Given([]), ValueError, r"scores for each of the 1 groups, but got 0"),
        (Given([np.zeros(5)]), ValueError, r"finite and of shape \(6,\), but got shape \(5,\)"),
        (Given([np.full(6, np.nan)]), ValueError, r"with 6 values that are not finite"),
        (Given(["abcdef"]), TypeError, r"Expected the scores of `0` to be real numbers, but got a str"),
        (Given([[None] * 6]), TypeError, r"Expected the scores of `0` to be real numbers, but got a list"),
        (Given([np.full(6, 1j)]), TypeError, r"Expected the scores of `0` to be real numbers, but got a ndarray"),
        (Taylor([], square), ValueError, r"at least one batch, but got none. A generator can be read only once"),
        (Taylor([(X,)], lambda model, batch: model(*batch)), TypeError, r"return a scalar tensor that depends"),
        (Taylor([(X,)], lambda model, batch: 1.0), TypeError, r"but got 1.0"),  # type: ignore[arg-type,return-value]
    ],
)
def test_wrong_importances_are_said(
    model: nn.Sequential, importance: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        PruningSpace(model, (X,), importance=importance)


@pytest.mark.parametrize("p", [0.5, float("inf"), float("nan")])
def test_wrong_order_of_a_norm_is_said(p: float) -> None:
    with pytest.raises(ValueError, match=r"Expected `p` to be in \[1, inf\), but got"):
        Magnitude(p=p)


def test_group_that_nothing_is_seen_to_read_is_said() -> None:
    network = next(n for n in ZOO if n.name == "tied_transpose")
    with pytest.raises(ValueError, match=r"nothing was seen to read 'inner': take `Magnitude` or `Taylor`"):
        PruningSpace(
            network.build().eval(), network.inputs(), importance=ActivationEnergy(Calibration([network.inputs()]))
        )


@pytest.mark.parametrize("given", [{"0": [1.0] * 6}, 3.0, "random"])
def test_importance_that_gives_no_vectors_in_order_is_said(given: object) -> None:
    class Mine:
        def scores(self, model: object, groups: object) -> object:
            return given

    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    message = r"to return a vector for each group in the order of `groups`, but got (dict|float|str): write `return \["
    with pytest.raises(TypeError, match=message):
        PruningSpace(model, (torch.ones(2, 3),), importance=Mine())
