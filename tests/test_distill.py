"""A smaller network is taught by the dense one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from test_prune import half, zoo
from torch import Tensor, nn

from optuna_softprune import PruningSpace, distill, load_pruned, save_pruned
from optuna_softprune.shipping._imitation import Imitation, inputs_that_are_cut
from optuna_softprune.shipping._save import plan_along
from optuna_softprune.testing import randomise


def mean_square(found: Tensor, right: Tensor) -> float:
    return ((found - right).square().mean() / right.square().mean()).item()


def built() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.ConvTranspose2d(8, 6, 2), nn.Flatten(), nn.Linear(96, 4)
    )


@pytest.fixture(scope="module")
def pruned() -> tuple[nn.Module, nn.Module, list[tuple[Tensor]]]:
    torch.manual_seed(0)
    model = randomise(built()).eval()
    batches = [(torch.randn(16, 1, 5, 5),) for _ in range(4)]
    space = PruningSpace(model, batches[0])
    return model, space.prune(half(space)).eval(), batches


@pytest.mark.parametrize("layers", [False, True])
def test_distilled_network_answers_more_as_the_dense_one_does(pruned: Any, layers: bool) -> None:
    model, small, batches = pruned
    state = copy.deepcopy(small.state_dict())
    torch.manual_seed(0)
    other = torch.randn(200, 1, 5, 5)
    taught = distill(small, model, batches, steps=60, learning_rate=1e-2, layers=layers, show_progress_bar=False)
    assert mean_square(taught(other), model(other)) < 0.6 * mean_square(small(other), model(other))
    assert not taught.training
    assert not any(module._forward_pre_hooks for each in (taught, small, model) for module in each.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in small.state_dict().items())
    assert all(parameter.grad is None for each in (small, model) for parameter in each.parameters())


def test_distilled_network_is_saved_and_loaded(pruned: Any, tmp_path: Any) -> None:
    model, small, batches = pruned
    taught = distill(small, model, batches, steps=2, show_progress_bar=False)
    save_pruned(taught, tmp_path / "taught")
    assert torch.equal(load_pruned(tmp_path / "taught", built())(*batches[0]), taught(*batches[0]))


def test_what_is_returned_is_the_best_that_was_measured(pruned: Any) -> None:
    model, small, batches = pruned
    wild = distill(small, model, batches, steps=20, learning_rate=1e3, validation=batches[:1], show_progress_bar=False)
    assert mean_square(wild(*batches[0]), model(*batches[0])) <= mean_square(small(*batches[0]), model(*batches[0]))
    assert all(torch.equal(one, other) for one, other in zip(wild.parameters(), small.parameters(), strict=True))


def test_training_stops_when_nothing_gets_better(pruned: Any, capsys: pytest.CaptureFixture[str]) -> None:
    model, small, batches = pruned
    distill(small, model, batches, steps=1000, learning_rate=1e3, patience=2)
    shown = capsys.readouterr().err.split("\r")[-1]
    assert "distilling:  10%" in shown  # two checks of twenty
    assert "error " in shown


def test_inputs_of_pruned_layers_are_what_is_kept_of_the_dense_networks(pruned: Any) -> None:
    model, small, (batch, *_) = pruned
    cut = inputs_that_are_cut(plan_along(small), small, torch.device("cpu"))
    assert {path: axis for path, (axis, _) in cut.items()} == {"3": -3, "5": -1}
    seen: list[Tensor] = []
    hooks = [
        net.get_submodule(path).register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        for net in (small, model)
        for path in cut
    ]
    small(*batch), model(*batch)
    found = Imitation(copy.deepcopy(small), copy.deepcopy(model), cut).error(batch).item()
    for hook in hooks:
        hook.remove()
    mine, whole = seen[:2], seen[2:4]
    kept = [plan_along(small).tensors["3.weight"].kept[0], plan_along(small).tensors["5.weight"].kept[1]]
    expected = mean_square(small(*batch), model(*batch))
    expected += mean_square(mine[0], whole[0][:, kept[0]]) + mean_square(mine[1], whole[1][:, kept[1]])
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_transformer_is_taught_too() -> None:
    network = zoo("heads")
    model = randomise(network.build()).eval()
    space = PruningSpace(model, network.inputs())
    small = space.prune(half(space))
    taught = distill(small, model, [network.inputs()], steps=20, layers=True, show_progress_bar=False)
    right = model(*network.inputs())
    assert mean_square(taught(*network.inputs()), right) < mean_square(small(*network.inputs()), right)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"steps": 0}, "`steps` to be at least 1"),
        ({"patience": 0}, "`patience` to be at least 1"),
        ({"learning_rate": 0.0}, "`learning_rate` to be above 0"),
        ({"batches": []}, "Expected batches of inputs, but got none"),
        ({"batches": [torch.ones(2)]}, "tuples of the networks' inputs, but got Tensor"),
        ({"small": built().requires_grad_(False)}, "all are frozen"),
        ({"small": built(), "layers": True}, "no plan of what was removed"),
    ],
)
def test_wrong_arguments_are_said(pruned: Any, settings: dict[str, Any], words: str) -> None:
    model, small, batches = pruned
    given = {"small": small, "dense": model, "batches": batches, "steps": 1, "show_progress_bar": False, **settings}
    with pytest.raises((ValueError, TypeError), match=words):
        distill(**given)
