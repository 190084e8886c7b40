"""The zoo: tiny networks that each state the groups they must give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from optuna_softprune.testing import _modules as nets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ZooNetwork:
    """A network and what pruning must find in it.

    Attributes:
        name: Its name in the zoo.
        build: Makes it; weights are drawn from the global generator.
        inputs: Makes its example inputs.
        groups: Group name -> (units, slices). Slices are parted by spaces: `conv` is axis 0 of all that the module
            `conv` holds, `conv:1` axis 1 of its weight, `gamma:0` axis 0 of the parameter or buffer `gamma`.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Any, ...]] = field(repr=False)
    groups: Mapping[str, tuple[int, str]] = field(repr=False)

    def slices(self, group: str) -> set[tuple[str, int]]:
        """Return the (tensor, axis) that a group must hold."""
        model = self.build()
        modules = dict(model.named_modules())
        tensors = [name for name, held in [*model.named_parameters(), *model.named_buffers()] if held.dim()]
        found = set()
        for item in self.groups[group][1].split():
            name, _, axis = item.partition(":")
            if name not in modules:
                found.add((name, int(axis)))
            elif axis:
                found.add((f"{name}.weight", int(axis)))
            else:
                found |= {(tensor, 0) for tensor in tensors if tensor.rpartition(".")[0] == name}
        return found


def _input(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


ZOO: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "chain",
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)),
        lambda: (_input(2, 4),),
        {"0": (6, "0 2:1")},
    ),
    ZooNetwork(
        "residual",
        nets.Residual,
        lambda: (_input(2, 3, 8, 8),),
        {
            "stem": (6, "stem conv1:1 conv2 head:1"),
            "conv1": (5, "conv1 bn1 conv2:1"),
        },
    ),
    ZooNetwork(
        "pre_activation",
        nets.PreActivation,
        lambda: (_input(2, 3, 8, 8),),
        {
            "stem": (6, "stem bn1 conv1:1 conv2 head:1"),
            "conv1": (4, "conv1 bn2 conv2:1"),
        },
    ),
    ZooNetwork(
        "dense_concat",
        nets.DenseConcat,
        lambda: (_input(2, 3, 4, 4),),
        {
            "a": (4, "a b:1 c:1 head:1"),
            "b": (5, "b c:1 head:1"),
            "c": (6, "c head:1"),
        },
    ),
    ZooNetwork(
        "concat_with_input",
        nets.ConcatWithInput,
        lambda: (_input(2, 3, 4, 4),),
        {
            "a": (4, "a head:1"),
        },
    ),
    ZooNetwork(
        "split_sum",
        nets.SplitSum,
        lambda: (_input(2, 5),),
        {
            "fc": (4, "fc left:1 right:1"),
        },
    ),
    ZooNetwork(
        "gated_linear",
        nets.GatedLinear,
        lambda: (_input(2, 5),),
        {},
    ),
    ZooNetwork(
        "squeeze_excite",
        nets.SqueezeExcite,
        lambda: (_input(2, 3, 8, 8),),
        {
            "conv": (6, "conv down:1 up head:1"),
            "down": (4, "down up:1"),
        },
    ),
    ZooNetwork(
        "spatial_gate",
        nets.SpatialGate,
        lambda: (_input(2, 3, 8, 8),),
        {
            "conv": (6, "conv gate:1 head:1"),
        },
    ),
    ZooNetwork(
        "channel_shuffle",
        nets.ChannelShuffle,
        lambda: (_input(2, 3, 4, 4),),
        {
            "stem": (4, "stem grouped:1"),
            "grouped": (4, "grouped head:1"),
        },
    ),
    ZooNetwork(
        "channel_shuffle_module",
        lambda: torch.nn.Sequential(torch.nn.Conv1d(3, 6, 1), torch.nn.ChannelShuffle(3), torch.nn.Conv1d(6, 2, 1)),
        lambda: (_input(2, 3, 4),),
        {"0": (2, "0 2:1")},
    ),
    ZooNetwork(
        "depthwise",
        nets.Depthwise,
        lambda: (_input(2, 3, 4, 4),),
        {
            "expand": (6, "expand depthwise bn project:1"),
            "project": (4, "project head:1"),
        },
    ),
    ZooNetwork(
        "channel_multiplier",
        lambda: nets.Depthwise(multiplier=2),
        lambda: (_input(2, 3, 4, 4),),
        {
            "expand": (6, "expand depthwise bn project:1"),
            "project": (4, "project head:1"),
        },
    ),
    ZooNetwork(
        "gated_linear_unit",
        lambda: torch.nn.Sequential(torch.nn.Linear(5, 12), torch.nn.GLU(), torch.nn.Linear(6, 3)),
        lambda: (_input(2, 5),),
        {"0": (6, "0 2:1")},
    ),
    ZooNetwork(
        "grouped",
        nets.Grouped,
        lambda: (_input(2, 3, 4, 4),),
        {
            "stem": (4, "stem wide:1"),
            "wide": (3, "wide narrow head:1"),
        },
    ),
    ZooNetwork(
        "transposed",
        nets.Transposed,
        lambda: (_input(2, 3, 4, 4),),
        {
            "stem": (8, "stem up:0"),
            "up": (4, "up:1 up.bias:0 grouped:0"),
            "grouped": (6, "grouped:1 grouped.bias:0 depthwise head:0"),
        },
    ),
    ZooNetwork(
        "bottleneck",
        nets.Bottleneck,
        lambda: (_input(2, 1, 8, 8),),
        {
            "encoder.0": (5, "encoder.0 encoder.3:1"),
            "encoder.3": (6, "encoder.3 decoder.0:1"),
            "decoder.0": (4, "decoder.0 decoder.3:0"),
        },
    ),
    ZooNetwork(
        "flatten_norm",
        nets.FlattenNorm,
        lambda: (_input(2, 1, 8, 8),),
        {
            "conv": (5, "conv bn ln head:1"),
        },
    ),
    ZooNetwork(
        "u_net",
        nets.UNet,
        lambda: (_input(2, 3, 8, 8),),
        {
            "down": (4, "down middle:1 head:1"),
            "middle": (6, "middle up:0"),
            "up": (5, "up:1 up.bias:0 head:1"),
        },
    ),
    ZooNetwork(
        "shared_module",
        nets.SharedModule,
        lambda: (_input(2, 4),),
        {
            "stem": (6, "stem block block:1 head:1"),
        },
    ),
    ZooNetwork(
        "tied_weight",
        nets.TiedWeight,
        lambda: (torch.arange(10).view(2, 5),),
        {
            "embed": (6, "embed:1 up:1 down"),
            "up": (8, "up down:1 up2"),
        },
    ),
    ZooNetwork(
        "tied_transpose",
        nets.TiedTranspose,
        lambda: (_input(2, 7),),
        {
            "outer": (6, "outer inner:1"),
            "inner": (4, "inner"),
        },
    ),
    ZooNetwork(
        "frozen_stem",
        nets.FrozenStem,
        lambda: (_input(2, 4),),
        {
            "stem": (6, "stem hidden:1"),
            "hidden": (5, "hidden head:1"),
        },
    ),
    ZooNetwork(
        "unused_branch",
        nets.UnusedBranch,
        lambda: (_input(2, 4),),
        {
            "stem": (6, "stem head:1"),
        },
    ),
    ZooNetwork(
        "buffers",
        nets.Buffers,
        lambda: (_input(2, 4),),
        {
            "fc": (6, "fc mean:0 scale:0 head:1"),
        },
    ),
    ZooNetwork(
        "layer_scale",
        nets.LayerScale,
        lambda: (_input(2, 3, 4, 4),),
        {
            "stem": (6, "stem branch gamma:0 fc:1"),
            "fc": (4, "fc delta:0 head:1"),
        },
    ),
    ZooNetwork(
        "norms",
        nets.Norms,
        lambda: (_input(2, 3, 8, 8),),
        {
            "a": (4, "a group_wide b:1"),
            "b": (4, "b group_narrow c:1"),
            "c": (6, "c each d:1"),
            "d": (6, "d instance e:1"),
            "e": (5, "e image f:1"),
            "f": (7, "f g:1"),
            "g": (6, "g plain head:1"),
        },
    ),
    ZooNetwork(
        "two_inputs",
        nets.TwoInputs,
        lambda: (_input(2, 4), _input(2, 3)),
        {
            "left": (6, "left right head:1"),
        },
    ),
    ZooNetwork(
        "two_outputs",
        nets.TwoOutputs,
        lambda: (_input(2, 4),),
        {
            "stem": (6, "stem code:1"),
        },
    ),
    ZooNetwork(
        "dict_output",
        nets.DictOutput,
        lambda: (_input(2, 4),),
        {
            "stem": (6, "stem a:1 b:1"),
        },
    ),
    ZooNetwork(
        "in_place",
        nets.InPlace,
        lambda: (_input(2, 4),),
        {
            "a": (6, "a b b:1 head:1"),
        },
    ),
    ZooNetwork(
        "sequence",
        nets.Sequence,
        lambda: (_input(2, 2, 8),),
        {
            "patch": (6, "patch token:2 position:2 norm up:1 down head:1"),
            "up": (9, "up down:1"),
        },
    ),
    ZooNetwork(
        "token_mixer",
        nets.TokenMixer,
        lambda: (_input(2, 2, 5),),
        {
            "stem": (6, "stem head:1"),
            "mix": (7, "mix unmix:1"),
        },
    ),
    ZooNetwork(
        "volume",
        nets.Volume,
        lambda: (_input(2, 1, 4, 4, 4),),
        {
            "conv": (5, "conv act up:0"),
            "up": (4, "up:1 up.bias:0 head:1"),
        },
    ),
    ZooNetwork(
        "zero_pad_shortcut",
        nets.ZeroPadShortcut,
        lambda: (_input(2, 3, 8, 8),),
        {
            "stem": (4, "stem conv conv:1 head:1"),
        },
    ),
    ZooNetwork(
        "pixel_shuffle",
        nets.PixelShuffle,
        lambda: (_input(2, 3, 4, 4),),
        {
            "conv": (3, "conv head:1"),
        },
    ),
    ZooNetwork(
        "bare_matrix",
        nets.BareMatrix,
        lambda: (_input(2, 4),),
        {
            "w1": (6, "w1:1 w2:0"),
            "w2": (3, "w2:1 head:1"),
        },
    ),
    ZooNetwork(
        "baked_view",
        nets.BakedView,
        lambda: (_input(2, 4),),
        {
            "stem": (6, "stem fc:1"),
        },
    ),
    ZooNetwork(
        "counted_slices",
        nets.CountedSlices,
        lambda: (_input(2, 4),),
        {
            "fc": (7, "fc rest:1"),
        },
    ),
    ZooNetwork(
        "attention",
        nets.Attention,
        lambda: (_input(2, 5, 4),),
        {
            "stem": (6, "stem qkv:1 out up:1"),
            "up": (8, "up head:1"),
        },
    ),
)
