from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from checks import assert_everything_is_explained, candidates, counted_macs, counted_parameters

from optuna_softprune import PruningSpace
from optuna_softprune.testing import randomise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torchvision's own
    import torchvision

# Groups derived by hand from the architectures (ResNet, ViT), or by counting what makes a width of its own.
FAMILIES = {
    "resnet18": 12,
    "mobilenet_v2": 25,
    "mobilenet_v3_small": 27,
    "densenet121": 120,
    "efficientnet_b0": 40,
    "vgg11_bn": 10,
    "regnet_y_400mf": 38,
    "googlenet": 57,
    "shufflenet_v2_x0_5": 20,
}


def build(name: str) -> torch.nn.Module:
    settings: dict[str, Any] = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    return randomise(torchvision.models.get_model(name, weights=None, **settings))


@pytest.mark.parametrize(("name", "groups"), FAMILIES.items())
def test_torchvision_family(name: str, groups: int) -> None:
    model, x = build(name), torch.randn(1, 3, 64, 64)
    space = PruningSpace(model, (x,))
    assert len(space.groups) == groups
    assert not [p for p in space.protected if "removed" in p.reason]
    assert_everything_is_explained(space, model)
    for c in list(candidates(space, 2))[1:]:
        assert space.verify(c) <= 1e-9
        small = space.prune(c)
        assert counted_parameters(small) == space.parameters(c)
        assert counted_macs(small, (x,)) == space.macs(c)


@pytest.mark.filterwarnings("ignore::optuna_softprune.SoftPruneWarning")
@pytest.mark.parametrize("name", [*FAMILIES, "convnext_tiny", "mnasnet0_5", "squeezenet1_1"])
def test_passes_of_a_family_are_shared_and_right(name: str) -> None:
    model, x = build(name), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    space, said = PruningSpace(model, (x,)), []
    evaluator = space.evaluator(2**30, said.append)
    first = {}
    for i, c in enumerate([*candidates(space, 4), *candidates(space, 4)]):
        shared, removed = evaluator.module(space.candidate(c)), space.prune(c).eval()
        for j, inputs in enumerate((x, torch.cat([x, x[:1] + 1]))):
            with torch.no_grad():
                found, expected = shared(inputs), removed(inputs)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
            assert torch.equal(found, first.setdefault((i % 4, j), found))
    assert said == []  # nothing was evaluated whole


def test_counting_many_candidates_is_vectorised() -> None:
    space = PruningSpace(build("resnet18"), (torch.randn(1, 3, 32, 32),))
    some = np.random.default_rng(0).random((1000, len(space.groups))) * 0.9
    assert space.parameters(some).shape == (1000,)
    c = dict(zip(space.distributions, some[7], strict=True))
    assert space.macs(some)[7] == counted_macs(space.prune(c), (torch.randn(1, 3, 32, 32),))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["swin_t", "swin_v2_t"])
def test_attention_in_windows_is_traced_for_any_number_of_images(name: str) -> None:
    kind = torchvision.models.swin_transformer
    settings: dict[str, Any] = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": [4, 4]}
    if name == "swin_v2_t":
        settings |= {"block": kind.SwinTransformerBlockV2, "downsample_layer": kind.PatchMergingV2}
    model = randomise(kind.SwinTransformer(patch_size=[4, 4], num_classes=5, **settings))
    x = torch.randn(2, 3, 32, 32)
    space = PruningSpace(model, (x,))
    assert list(space.traced) == [f"features.{stage}.{block}.attn" for stage in (1, 3) for block in (0, 1)]
    highest = {group.name: found.high for group, found in zip(space.groups, space.distributions.values(), strict=True)}
    assert space.sparsity(highest) > 0.95
    for c in candidates(space, 3):
        assert space.verify(c) <= 1e-9
        small = space.prune(c).eval()
        assert counted_parameters(small) == space.parameters(c)
        with torch.no_grad():
            torch.testing.assert_close(small(x[:1]), small(torch.cat([x, x[:1]]))[:1])
