"""Networks of timm and transformers become files and ONNX, and what these libraries remove themselves is what we do."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from test_export import assert_equal, longer, onnx_outputs, to_onnx
from test_prune import half
from test_shipping import keep, load_elsewhere

from optuna_softprune import PruningSpace
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import nn

    from optuna_softprune import Group

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of torch's exporter and of the libraries
]

BUILD = """
import warnings
warnings.simplefilter("ignore")
def build(name):
    if name == "timm":
        import timm
        return timm.create_model("vit_tiny_patch16_224", img_size=32, depth=3, num_classes=10)
    from transformers import BertConfig, BertModel
    sizes = dict(vocab_size=100, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128)
    return BertModel(BertConfig(**sizes, max_position_embeddings=32))
"""
INPUTS = {
    "timm": (torch.randn(2, 3, 32, 32),),
    "transformers": (torch.arange(24).reshape(2, 12), torch.tensor([[1] * 12, [1] * 7 + [0] * 5])),
}


@pytest.mark.parametrize("library", INPUTS)
def test_vision_transformer_and_bert_are_files_and_onnx(library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    build: dict[str, Any] = {}
    exec(BUILD, build)  # the same text builds them here and there
    model, inputs = randomise(build["build"](library)).eval(), INPUTS[library]
    space = PruningSpace(model, inputs)
    small = space.prune(half(space)).eval()
    assert 1 - sum(map(torch.numel, small.parameters())) / sum(map(torch.numel, model.parameters())) > 0.4
    keep(tmp_path, library, small, list(model.state_dict()), inputs)
    assert load_elsewhere(tmp_path, BUILD) == [library]
    to_onnx(small, inputs, tmp_path / "small.onnx", dynamic=True)
    for each in (inputs, longer(inputs)):
        with torch.no_grad():
            assert_equal(onnx_outputs(tmp_path / "small.onnx", each), small(*each))


SIZES: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
WORDS, PICTURE = {"input_ids": torch.arange(24).reshape(2, 12)}, {"pixel_values": torch.randn(2, 3, 32, 32)}
WIDTH = 16
# Class of the network, its configuration, its inputs, and of each attention: where it is, its projections of queries,
# keys and values, that of its output, and how many heads of queries one head of keys has.
ATTENTIONS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str, str, int]] = {
    "bert": (
        "BertModel",
        {**SIZES, "vocab_size": 100},
        WORDS,
        "encoder.layer.{}.attention",
        "self.query self.key self.value output.dense",
        1,
    ),
    "distilbert": (
        "DistilBertModel",
        {"vocab_size": 100, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 96},
        WORDS,
        "transformer.layer.{}.attention",
        "q_lin k_lin v_lin out_lin",
        1,
    ),
    "vit": (
        "ViTModel",
        {**SIZES, "image_size": 32, "patch_size": 8},
        PICTURE,
        "layers.{}.attention",
        "q_proj k_proj v_proj o_proj",
        1,
    ),
    "llama": (
        "LlamaModel",
        {**SIZES, "vocab_size": 100, "num_key_value_heads": 2},
        WORDS,
        "layers.{}.self_attn",
        "q_proj k_proj v_proj o_proj",
        2,
    ),
}


class HeadsFirst:
    """The heads of keys with these numbers, by the name of their projection, go first."""

    def __init__(self, heads: Mapping[str, Sequence[int]]) -> None:
        self.rows = {f"{name}.weight": [WIDTH * head for head in found] for name, found in heads.items()}

    def scores(self, model: nn.Module, groups: Sequence[Group]) -> list[NDArray[np.float64]]:
        return [
            1.0
            - sum(
                (
                    np.isin(each.indices, self.rows[each.tensor]).any(1)
                    for each in group.slices
                    if each.axis == 0 and each.tensor in self.rows
                ),
                start=np.zeros(group.size),
            )
            for group in groups
        ]


@pytest.mark.parametrize("name", ATTENTIONS)
def test_heads_removed_are_those_that_transformers_removes(name: str) -> None:
    """By its `prune_linear_layer`, as its `prune_heads` did while it had one."""
    transformers = pytest.importorskip("transformers")
    utils = pytest.importorskip("transformers.pytorch_utils")
    kind, settings, inputs, where, projections, shared = ATTENTIONS[name]
    config = transformers.AutoConfig.for_model(name, **settings)
    config.use_cache = False
    model = randomise(getattr(transformers, kind)(config)).double().eval()
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in inputs.items()}
    gone = {0: [1], 1: [0]} if shared > 1 else {0: [1, 2], 1: [0, 2, 3]}
    query, key, value, output = projections.split()
    theirs = copy.deepcopy(model)
    for block, heads in gone.items():
        attention = theirs.get_submodule(where.format(block))
        for projection, times in ((query, shared), (key, 1), (value, 1), (output, shared)):
            layer = attention.get_submodule(projection)
            axis = int(projection == output)
            heads_of_rows = torch.arange(layer.weight.shape[axis]) // (WIDTH * times)
            index = torch.nonzero(~torch.isin(heads_of_rows, torch.tensor(heads)))[:, 0]
            attention.set_submodule(projection, utils.prune_linear_layer(layer, index, dim=axis).double())
    first = {f"{where.format(block)}.{key}": heads for block, heads in gone.items()}
    space = PruningSpace(model, (), example_kwargs=inputs, importance=HeadsFirst(first))
    share = {f"{path}.weight": len(gone[block]) / (4 // shared) for block, path in enumerate(first)}
    c = {
        group.name: sum(share.get(each.tensor, 0.0) for each in group.slices if each.axis == 0)
        for group in space.groups
    }
    assert sorted(value for value in c.values() if value) == sorted(share.values())
    with torch.no_grad():
        dense, expected, got = (each(**inputs)[0] for each in (model, theirs, space.prune(c)))
    assert (dense - expected).abs().max() > 1e-3
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2_050", "ecaresnet26t"])
def test_smaller_network_is_the_one_that_timm_makes_of_its_shapes(name: str) -> None:
    """As timm makes its own pruned networks, such as `efficientnet_b1_pruned`: from a text of shapes."""
    timm = pytest.importorskip("timm")
    pruned = pytest.importorskip("timm.models._prune")
    model, x = randomise(timm.create_model(name, num_classes=10)).double().eval(), torch.randn(2, 3, 64, 64).double()
    space = PruningSpace(model, (x,))
    small = space.prune(half(space)).eval()
    shapes = "***".join(f"{name}:[{','.join(map(str, held.shape))}]" for name, held in small.state_dict().items())
    theirs = pruned.adapt_model_from_string(model, shapes)
    theirs.load_state_dict(small.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(small(x), theirs.eval()(x), rtol=0, atol=1e-12)
