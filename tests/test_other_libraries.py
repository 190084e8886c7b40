"""Networks of timm and transformers become files and ONNX as networks of one's own do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from test_export import assert_equal, longer, onnx_outputs, to_onnx
from test_prune import half
from test_shipping import keep, load_elsewhere

from optuna_softprune import PruningSpace
from optuna_softprune.testing import randomise

if TYPE_CHECKING:
    from pathlib import Path

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
