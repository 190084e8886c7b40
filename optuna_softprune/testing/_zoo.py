"""The zoo: tiny networks that each state the groups they must give."""

from __future__ import annotations

import torch

from optuna_softprune.testing import _modules as nets
from optuna_softprune.testing._zoo_attention import ATTENTION
from optuna_softprune.testing._zoo_copies import COPIES
from optuna_softprune.testing._zoo_network import ZooNetwork, normal
from optuna_softprune.testing._zoo_recurrent import RECURRENT
from optuna_softprune.testing._zoo_regions import REGIONS
from optuna_softprune.testing._zoo_stated import STATED
from optuna_softprune.testing._zoo_statistics import STATISTICS
from optuna_softprune.testing._zoo_traced import TRACED
from optuna_softprune.testing._zoo_weights import WEIGHTS
from optuna_softprune.testing._zoo_widths import WIDTHS

ZOO: tuple[ZooNetwork, ...] = (
    ZooNetwork(
        "chain",
        lambda: torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)),
        lambda: (normal(2, 4),),
        {"0": (6, "0 2:1")},
    ),
    ZooNetwork(
        "residual",
        nets.Residual,
        lambda: (normal(2, 3, 8, 8),),
        {
            "stem": (6, "stem conv1:1 conv2 head:1"),
            "conv1": (5, "conv1 bn1 conv2:1"),
        },
    ),
    ZooNetwork(
        "pre_activation",
        nets.PreActivation,
        lambda: (normal(2, 3, 8, 8),),
        {
            "stem": (6, "stem bn1 conv1:1 conv2 head:1"),
            "conv1": (4, "conv1 bn2 conv2:1"),
        },
    ),
    ZooNetwork(
        "dense_concat",
        nets.DenseConcat,
        lambda: (normal(2, 3, 4, 4),),
        {
            "a": (4, "a b:1 c:1 head:1"),
            "b": (5, "b c:1 head:1"),
            "c": (6, "c head:1"),
        },
    ),
    ZooNetwork(
        "concat_with_input",
        nets.ConcatWithInput,
        lambda: (normal(2, 3, 4, 4),),
        {
            "a": (4, "a head:1"),
        },
    ),
    ZooNetwork(
        "split_sum",
        nets.SplitSum,
        lambda: (normal(2, 5),),
        {
            "fc": (4, "fc left:1 right:1"),
        },
    ),
    ZooNetwork(
        "gated_linear",
        nets.GatedLinear,
        lambda: (normal(2, 5),),
        {},
    ),
    ZooNetwork(
        "squeeze_excite",
        nets.SqueezeExcite,
        lambda: (normal(2, 3, 8, 8),),
        {
            "conv": (6, "conv down:1 up head:1"),
            "down": (4, "down up:1"),
        },
    ),
    ZooNetwork(
        "spatial_gate",
        nets.SpatialGate,
        lambda: (normal(2, 3, 8, 8),),
        {
            "conv": (6, "conv gate:1 head:1"),
        },
    ),
    ZooNetwork(
        "channel_shuffle",
        nets.ChannelShuffle,
        lambda: (normal(2, 3, 4, 4),),
        {
            "stem": (4, "stem grouped:1"),
            "grouped": (4, "grouped head:1"),
        },
    ),
    ZooNetwork(
        "channel_shuffle_module",
        lambda: torch.nn.Sequential(torch.nn.Conv1d(3, 6, 1), torch.nn.ChannelShuffle(3), torch.nn.Conv1d(6, 2, 1)),
        lambda: (normal(2, 3, 4),),
        {"0": (2, "0 2:1")},
    ),
    ZooNetwork(
        "depthwise",
        nets.Depthwise,
        lambda: (normal(2, 3, 4, 4),),
        {
            "expand": (6, "expand depthwise bn project:1"),
            "project": (4, "project head:1"),
        },
    ),
    ZooNetwork(
        "channel_multiplier",
        lambda: nets.Depthwise(multiplier=2),
        lambda: (normal(2, 3, 4, 4),),
        {
            "expand": (6, "expand depthwise bn project:1"),
            "project": (4, "project head:1"),
        },
    ),
    ZooNetwork(
        "gated_linear_unit",
        lambda: torch.nn.Sequential(torch.nn.Linear(5, 12), torch.nn.GLU(), torch.nn.Linear(6, 3)),
        lambda: (normal(2, 5),),
        {"0": (6, "0 2:1")},
    ),
    ZooNetwork(
        "grouped",
        nets.Grouped,
        lambda: (normal(2, 3, 4, 4),),
        {
            "stem": (4, "stem wide:1"),
            "wide": (3, "wide narrow head:1"),
        },
    ),
    ZooNetwork(
        "transposed",
        nets.Transposed,
        lambda: (normal(2, 3, 4, 4),),
        {
            "stem": (8, "stem up:0"),
            "up": (4, "up:1 up.bias:0 grouped:0"),
            "grouped": (6, "grouped:1 grouped.bias:0 depthwise head:0"),
        },
    ),
    ZooNetwork(
        "bottleneck",
        nets.Bottleneck,
        lambda: (normal(2, 1, 8, 8),),
        {
            "encoder.0": (5, "encoder.0 encoder.3:1"),
            "encoder.3": (6, "encoder.3 decoder.0:1"),
            "decoder.0": (4, "decoder.0 decoder.3:0"),
        },
    ),
    ZooNetwork(
        "flatten_norm",
        nets.FlattenNorm,
        lambda: (normal(2, 1, 8, 8),),
        {
            "conv": (5, "conv bn ln head:1"),
        },
    ),
    ZooNetwork(
        "u_net",
        nets.UNet,
        lambda: (normal(2, 3, 8, 8),),
        {
            "down": (4, "down middle:1 head:1"),
            "middle": (6, "middle up:0"),
            "up": (5, "up:1 up.bias:0 head:1"),
        },
    ),
    ZooNetwork(
        "shared_module",
        nets.SharedModule,
        lambda: (normal(2, 4),),
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
        lambda: (normal(2, 7),),
        {
            "outer": (6, "outer inner:1"),
            "inner": (4, "inner"),
        },
    ),
    ZooNetwork(
        "frozen_stem",
        nets.FrozenStem,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem hidden:1"),
            "hidden": (5, "hidden head:1"),
        },
    ),
    ZooNetwork(
        "unused_branch",
        nets.UnusedBranch,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem auxiliary:1 head:1"),
        },
    ),
    ZooNetwork(
        "buffers",
        nets.Buffers,
        lambda: (normal(2, 4),),
        {
            "fc": (6, "fc mean:0 scale:0 head:1"),
        },
    ),
    ZooNetwork(
        "layer_scale",
        nets.LayerScale,
        lambda: (normal(2, 3, 4, 4),),
        {
            "stem": (6, "stem branch gamma:0 fc:1"),
            "fc": (4, "fc delta:0 head:1"),
        },
    ),
    ZooNetwork(
        "norms",
        nets.Norms,
        lambda: (normal(2, 3, 8, 8),),
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
        lambda: (normal(2, 4), normal(2, 3)),
        {
            "left": (6, "left right head:1"),
        },
    ),
    ZooNetwork(
        "two_outputs",
        nets.TwoOutputs,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem code:1"),
        },
    ),
    ZooNetwork(
        "dict_output",
        nets.DictOutput,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem a:1 b:1"),
        },
    ),
    ZooNetwork(
        "in_place",
        nets.InPlace,
        lambda: (normal(2, 4),),
        {
            "a": (6, "a b b:1 head:1"),
        },
    ),
    ZooNetwork(
        "sequence",
        nets.Sequence,
        lambda: (normal(2, 2, 8),),
        {
            "patch": (6, "patch token:2 position:2 norm up:1 down head:1"),
            "up": (9, "up down:1"),
        },
    ),
    ZooNetwork(
        "token_mixer",
        nets.TokenMixer,
        lambda: (normal(2, 2, 5),),
        {
            "stem": (6, "stem head:1"),
            "mix": (7, "mix unmix:1"),
        },
    ),
    ZooNetwork(
        "volume",
        nets.Volume,
        lambda: (normal(2, 1, 4, 4, 4),),
        {
            "conv": (5, "conv act up:0"),
            "up": (4, "up:1 up.bias:0 head:1"),
        },
    ),
    ZooNetwork(
        "zero_pad_shortcut",
        nets.ZeroPadShortcut,
        lambda: (normal(2, 3, 8, 8),),
        {
            "stem": (4, "stem conv conv:1 head:1"),
        },
    ),
    ZooNetwork(
        "pixel_shuffle",
        nets.PixelShuffle,
        lambda: (normal(2, 3, 4, 4),),
        {
            "conv": (3, "conv head:1"),
        },
    ),
    ZooNetwork(
        "bare_matrix",
        nets.BareMatrix,
        lambda: (normal(2, 4),),
        {
            "w1": (6, "w1:1 w2:0"),
            "w2": (3, "w2:1 head:1"),
        },
    ),
    ZooNetwork(
        "baked_view",
        nets.BakedView,
        lambda: (normal(2, 4),),
        {
            "stem": (6, "stem fc:1"),
        },
    ),
    ZooNetwork(
        "counted_slices",
        nets.CountedSlices,
        lambda: (normal(2, 4),),
        {
            "fc": (7, "fc rest:1"),
        },
    ),
    *ATTENTION,
    *RECURRENT,
    *STATED,
    *TRACED,
    *STATISTICS,
    *WIDTHS,
    *WEIGHTS,
    *REGIONS,
    *COPIES,
)
