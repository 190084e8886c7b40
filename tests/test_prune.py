"""What `prune` gives, and what it leaves alone."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from checks import counted_parameters
from torch import nn

from optuna_softprune import PruningSpace
from optuna_softprune.testing import ZOO, ZooNetwork, randomise


def zoo(name: str) -> ZooNetwork:
    return next(n for n in ZOO if n.name == name)


def half(space: PruningSpace) -> dict[str, float]:
    return space.snap({name: found.high / 2 for name, found in space.distributions.items()})


def test_modules_state_their_new_sizes() -> None:
    network = zoo("norms")
    model = network.build().eval()
    space = PruningSpace(model, network.inputs())
    small: Any = space.prune(half(space))
    for path, module in small.named_modules():
        if isinstance(module, nn.Conv2d):
            assert module.weight.shape[:2] == (module.out_channels, module.in_channels // module.groups), path
        if isinstance(module, nn.Linear):
            assert module.weight.shape == (module.out_features, module.in_features), path
    assert small.group_wide.num_groups == 2
    assert small.group_wide.num_channels == small.a.out_channels == 4
    assert small.group_narrow.num_groups == 2
    assert small.each.num_groups == small.each.num_channels == small.c.out_channels
    assert small.instance.num_features == small.d.out_channels == len(small.instance.running_var)
    assert small.image.normalized_shape == (small.e.out_channels, 8, 8)
    assert small.last.normalized_shape == (small.f.out_channels,)
    assert small.extra_repr() == model.extra_repr()


def test_grouped_and_depthwise_convolutions_state_their_groups() -> None:
    for name, path, groups in (("depthwise", "depthwise", 3), ("grouped", "narrow", 4), ("grouped", "wide", 2)):
        network = zoo(name)
        space = PruningSpace(network.build().eval(), network.inputs())
        c = space.snap({g.name: 0.5 * (g.size // 2 * 2) / g.size for g in space.groups})
        small: Any = space.prune(c)
        assert small.get_submodule(path).groups == groups


def test_unflatten_states_its_new_shape() -> None:
    network = zoo("bottleneck")
    space = PruningSpace(network.build().eval(), network.inputs())
    small: Any = space.prune(half(space))
    assert small.decoder[2].unflattened_size == (2, 4, 4)


def test_dense_network_is_not_touched() -> None:
    network = zoo("pre_activation")
    model = randomise(network.build())
    before = pickle.dumps(model.state_dict())
    state = torch.get_rng_state()
    space = PruningSpace(model, network.inputs())
    small = space.prune(half(space))
    space.verify(half(space))
    with torch.no_grad():
        for tensor in [*small.parameters(), *small.buffers()]:
            tensor.zero_()
    assert pickle.dumps(model.state_dict()) == before
    assert torch.equal(torch.get_rng_state(), state)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_nothing_removed_is_a_copy_that_shares_no_memory() -> None:
    network = zoo("buffers")
    model = network.build().eval()
    space = PruningSpace(model, network.inputs())
    same = space.prune({group.name: 0.0 for group in space.groups})
    for (name, mine), theirs in zip(same.state_dict().items(), model.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name
        assert mine.data_ptr() != theirs.data_ptr(), name


def test_small_network_can_be_copied_pickled_and_trained() -> None:
    network = zoo("residual")
    model = network.build().eval()
    space = PruningSpace(model, network.inputs())
    small = space.prune(half(space))
    for again in (copy.deepcopy(small), pickle.loads(pickle.dumps(small))):
        assert torch.equal(again(*network.inputs()), small(*network.inputs()))
    small.train()
    optimiser = torch.optim.SGD(small.parameters(), lr=0.1)
    loss = small(*network.inputs()).square().mean()
    loss.backward()
    optimiser.step()
    assert small(*network.inputs()).square().mean() < loss


def test_pruned_network_can_be_pruned_again() -> None:
    network = zoo("transposed")
    model = randomise(network.build())
    for _ in range(2):
        space = PruningSpace(model, network.inputs())
        model = space.prune(half(space)).eval()
    assert space.verify(half(space)) < 1e-9


def test_frozen_stays_frozen_and_tied_stays_tied() -> None:
    network = zoo("frozen_stem")
    space = PruningSpace(network.build().eval(), network.inputs())
    small: Any = space.prune(half(space))
    assert [p.requires_grad for p in small.parameters()] == [False, False, True, True, True, True]
    network = zoo("tied_weight")
    space = PruningSpace(network.build().eval(), network.inputs())
    small = space.prune(half(space))
    assert small.logits.weight is small.embed.weight
    assert small.up2.weight is small.up.weight
    assert small.embed.embedding_dim == 3
    network = zoo("shared_module")
    space = PruningSpace(network.build().eval(), network.inputs())
    small = space.prune(half(space))
    assert small.again is small.block
    assert counted_parameters(small) == space.parameters(half(space))


def test_references_outside_of_the_parameter_lists_follow() -> None:
    class WithList(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 6), nn.Linear(6, 2)
            self.kept = {"weights": [self.stem.weight]}
            self.constant = torch.tensor(2.0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.stem(x) * self.constant)
            return y

    model = WithList().eval()
    space = PruningSpace(model, (torch.randn(2, 3),))
    small: Any = space.prune({"stem": 0.5})
    assert small.kept["weights"][0] is small.stem.weight
    assert small.constant.data_ptr() != model.constant.data_ptr()
    assert small(torch.randn(2, 3)).shape == (2, 2)


def test_copies_of_all_that_a_module_holds_keep_what_is_shared() -> None:
    class Own(nn.Linear):
        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            other = Own(self.in_features, self.out_features)
            other.weight, other.bias = copy.deepcopy(self.weight, memo), copy.deepcopy(self.bias, memo)
            return other

    model: Any = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), Own(6, 4), nn.Linear(4, 2)).eval()
    registry: dict[str, Any] = {}
    model.registry = model[0].registry = registry
    model.settings = model[0].settings = {"widths": [1, 2], "first": model[0]}
    model.back = [model[3]]
    seen: list[int] = []
    model[1].register_forward_hook(lambda *_: seen.append(1))
    space = PruningSpace(model, (torch.randn(2, 3),))
    small: Any = space.prune(half(space))
    assert small.registry is small[0].registry is not registry
    assert small.settings is small[0].settings is not model.settings
    assert small.settings["first"] is small[0]
    assert small.settings["widths"] == [1, 2]
    assert small.settings["widths"] is not model.settings["widths"]
    assert small.back[0] is small[3]
    assert type(small[2]) is Own
    assert small[2].weight.shape == (2, 3)
    seen.clear()
    small(torch.randn(2, 3))
    assert seen == [1]
    small.register_forward_hook(print)
    assert not model._forward_hooks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_is_kept(dtype: torch.dtype) -> None:
    network = zoo("residual")
    model = randomise(network.build()).to(dtype)
    x = network.inputs()[0].to(dtype)
    space = PruningSpace(model, (x,))
    c = half(space)
    assert space.verify(c) < 1e-9
    small = space.prune(c)
    assert {tensor.dtype for tensor in small.parameters()} == {dtype}
    assert small(x).dtype == dtype


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_is_kept() -> None:
    network = zoo("norms")
    model = randomise(network.build()).cuda()
    x = network.inputs()[0].cuda()
    space = PruningSpace(model, (x,))
    c = half(space)
    assert space.verify(c) < 1e-9
    small = space.prune(c)
    assert all(tensor.is_cuda for tensor in [*small.parameters(), *small.buffers()])
    assert small(x).is_cuda


def test_mode_of_every_module_is_kept() -> None:
    network = zoo("pre_activation")
    model: Any = network.build().train()
    model.bn1.eval()
    with pytest.warns(UserWarning, match="train mode"):
        space = PruningSpace(model, network.inputs())
    small: Any = space.prune(half(space))
    assert small.training
    assert small.conv1.training
    assert not small.bn1.training
    assert model.training


def test_least_important_units_go_first_and_ties_by_index() -> None:
    model = nn.Sequential(nn.Linear(2, 4, bias=False), nn.ReLU(), nn.Linear(4, 1, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0], [1.0, 0.0]]))
        model[2].weight.fill_(1.0)
    space = PruningSpace(model, (torch.randn(3, 2),))

    def left(c: float) -> list[float]:
        small: Any = space.prune({"0": c})
        kept: list[float] = small[0].weight[:, 0].tolist()
        return kept

    assert left(0.25) == [3.0, 2.0, 1.0]
    assert left(0.5) == [3.0, 2.0]
    assert left(0.75) == [3.0]
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[2].weight.copy_(torch.tensor([[1.0, -1.0, 1.0, -1.0]]))
    small: Any = PruningSpace(model, (torch.randn(3, 2),)).prune({"0": 0.75})
    assert small[2].weight.item() == -1.0


class KeepsWhatItLooksUp(torch.nn.Module):
    """Looks its gains up once, and again when its mode is said, as LeViT does with the biases of its attention."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.randn(6))
        self.known: dict[str, torch.Tensor] = {}

    def train(self, mode: bool = True) -> KeepsWhatItLooksUp:
        self.known = {}
        return super().train(mode)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.known:
            self.known["gain"] = self.gain.detach() + 1
        return x * self.known["gain"]


def test_what_a_module_keeps_of_its_dense_weights_is_forgotten() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 6), KeepsWhatItLooksUp(), torch.nn.Linear(6, 2)).eval()
    model[0].train()
    x = torch.randn(4, 3)
    model(x)
    space = PruningSpace(model, (x,))
    small = space.prune({"0": 0.5})
    assert [module.training for module in small] == [True, False, False]
    first, again = small(x), copy.deepcopy(small).eval()(x)
    assert torch.equal(first, again)
