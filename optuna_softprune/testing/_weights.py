"""Weights in general position, so that no coincidence hides an error."""

from __future__ import annotations

import torch
from torch import nn


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give `model` random weights, biases and norm statistics, in place; return it in eval mode.

    Weights are of the size that keeps activations of the order of 1 through a few layers. Statistics are not those of
    the activations: through dozens of batch norms activations grow, and with them the share of rounding in the outputs.
    Integer tensors and buffers that are no statistics are left alone.
    """
    generator = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    with torch.no_grad():
        for module in model.modules():
            norm = "Norm" in type(module).__name__
            for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
                known = isinstance(tensor, nn.Parameter) or name in ("running_mean", "running_var")
                if id(tensor) in done or not known or not tensor.is_floating_point():
                    continue
                done.add(id(tensor))
                noise = torch.randn(tensor.shape, generator=generator).to(tensor)
                if name == "running_var" or (norm and name == "weight"):
                    tensor.copy_(0.5 + noise.abs())
                elif tensor.dim() > 1:
                    fan_in = max(tensor[0].numel(), 1)
                    tensor.copy_(noise * (2 / fan_in) ** 0.5)
                else:
                    tensor.copy_(0.3 * noise)
    return model.eval()
