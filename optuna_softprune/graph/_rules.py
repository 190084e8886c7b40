"""The table of rules: operation name -> what it does with labels.

A rule has the signature of its ATen operation behind `(propagation, node)`. Operations are named as in ATen,
without overload; an operation in place has the rule of the one that is not.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node

from optuna_softprune.graph import _rules_contraction as contraction
from optuna_softprune.graph import _rules_convolution as convolution
from optuna_softprune.graph import _rules_mixing as mixing
from optuna_softprune.graph import _rules_moving as moving
from optuna_softprune.graph import _rules_recurrent as recurrent
from optuna_softprune.graph import _rules_windows as windows
from optuna_softprune.graph._labels import along
from optuna_softprune.graph._operation import operation_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from optuna_softprune.graph._labels import Value
    from optuna_softprune.graph._propagate import Propagation, Rule


def pointwise(p: Propagation, node: Node, *args: Any, **kwargs: Any) -> Value:
    """Combine operands element by element; broadcasting as torch does it."""
    return p.elementwise(node.all_input_nodes, p.shape(node))


def like(p: Propagation, node: Node, x: Node, *args: Any, **kwargs: Any) -> Value:
    """Make a tensor of the shape of `x`, whatever else the operation is told."""
    return p.value(x)


def getitem(p: Propagation, node: Node, source: Node, index: int) -> Value:
    """Pick one output of an operation with several."""
    return p.outputs(source)[index]


def made(p: Propagation, node: Node, *args: Any, **kwargs: Any) -> Value:
    """Make a tensor of one number in a stated shape: its widths follow whatever they meet."""
    shape = p.shape(node)
    labels = [p.labels.of_made(node, axis, length) for axis, length in enumerate(shape)]
    return tuple(along(each, axis, shape) for axis, each in enumerate(labels) if len(each) > 1)


def unlabelled(p: Propagation, node: Node, *args: Any, **kwargs: Any) -> Value:
    """Make a tensor of a stated shape: nothing of it can shrink, and nothing is touched."""
    return ()


# Rule -> operations. Those of `pointwise` are element by element without the tag in some version of torch.
_NAMES: list[tuple[Rule, str]] = [
    (pointwise, "copy fill zero masked_fill where hardswish mish threshold log_sigmoid softplus hardshrink rsub rrelu"),
    (pointwise, "relu6"),
    (like, "zeros_like ones_like full_like empty_like clone contiguous detach alias to _to_copy type_as"),
    (like, "lift_fresh_copy dropout feature_dropout alpha_dropout feature_alpha_dropout"),
    (made, "zeros ones full new_zeros new_ones new_full"),
    (unlabelled, "empty new_empty _assert_tensor_metadata"),
    (contraction.linear, "linear"),
    (contraction.matmul, "matmul mm bmm"),
    (contraction.addmm, "addmm baddbmm"),
    (contraction.grouped_product, "_grouped_mm grouped_mm_fallback"),
    (contraction.einsum, "einsum"),
    (contraction.attention, "scaled_dot_product_attention"),
    (convolution.convolution, "conv1d conv2d conv3d"),
    (convolution.transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    *((recurrent.recurrent(name), name) for name in recurrent.GATES),
    (mixing.batch_norm, "batch_norm"),
    (mixing.instance_norm, "instance_norm"),
    (mixing.layer_norm, "layer_norm rms_norm"),
    (mixing.group_norm, "group_norm"),
    (mixing.prelu, "prelu"),
    (mixing.reduction, "mean sum prod amax amin max min var std var_mean std_mean any all"),
    (mixing.reduction, "logsumexp"),
    (mixing.position, "argmax argmin"),
    (mixing.accumulation, "softmax _softmax log_softmax cumsum cumprod logcumsumexp"),
    (mixing.norm_reduction, "norm linalg_vector_norm"),
    (windows.window(1), "max_pool1d max_pool1d_with_indices adaptive_avg_pool1d adaptive_max_pool1d"),
    (windows.window(1), "upsample_nearest1d upsample_linear1d _upsample_nearest_exact1d"),
    (windows.window(2), "max_pool2d max_pool2d_with_indices adaptive_avg_pool2d adaptive_max_pool2d"),
    (windows.window(2), "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d"),
    (windows.window(2), "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (windows.window(3), "max_pool3d max_pool3d_with_indices adaptive_avg_pool3d adaptive_max_pool3d"),
    (windows.window(3), "upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact3d"),
    (windows.average(1), "avg_pool1d"),
    (windows.average(2), "avg_pool2d"),
    (windows.average(3), "avg_pool3d"),
    (windows.grid_sample, "grid_sampler grid_sampler_2d grid_sampler_3d"),
    (moving.reshape, "view reshape flatten squeeze unsqueeze _unsafe_view"),
    (moving.unflatten, "unflatten"),
    (moving.same_on_labels, "permute transpose t numpy_T movedim swapaxes flip repeat tile repeat_interleave"),
    (moving.same_on_labels, "pixel_shuffle pixel_unshuffle"),
    (moving.channel_shuffle, "channel_shuffle"),
    (moving.expand, "expand expand_as broadcast_to"),
    (moving.cat, "cat"),
    (moving.stack, "stack"),
    (moving.split, "chunk split split_with_sizes"),
    (moving.unbind, "unbind"),
    (moving.slice_, "slice"),
    (moving.select, "select"),
    (moving.index, "index"),
    (moving.index_put, "index_put"),
    (moving.index_select, "index_select"),
    (moving.gather, "gather"),
    (moving.unfold, "unfold"),
    (moving.embedding, "embedding"),
    (moving.roll, "roll"),
    (moving.pad, "pad constant_pad_nd"),
    (moving.glu, "glu"),
]
RULES: dict[str, Rule] = {name: rule for rule, names in _NAMES for name in names.split()}


def rule_of(target: Any) -> Rule | None:
    """Return the rule of an operation (the target of a node), or None if there is none."""
    if target is operator.getitem:
        return getitem
    if not isinstance(target, torch._ops.OpOverload):
        return None
    name = str(target.overloadpacket.__name__)
    plain = name if name in RULES else name.removesuffix("_")
    if plain in RULES:
        return RULES[plain]
    return pointwise if torch.Tag.pointwise in target.tags else None


def has_rule(node: Node) -> bool:
    """Whether the operation of a node has a rule, as it is used there."""
    if operation_name(node) == "einsum":
        return contraction.is_plain(str(node.args[0]))
    return rule_of(node.target) is not None


# Rule of what relates the elements along some axes to each other -> which argument states the axes.
STATISTICS: dict[Rule | None, int] = {mixing.reduction: 1, mixing.accumulation: 1, mixing.norm_reduction: 2}


def mixed_axes(node: Node) -> Sequence[int]:
    """Return the axes along which an operation relates elements to each other, but for what a contraction sums."""
    name, rule = operation_name(node), rule_of(node.target)
    if name.startswith(("conv", "avg_pool")):
        rank, weight = node.meta["val"].dim(), node.args[1]
        n = weight.meta["val"].dim() - 2 if isinstance(weight, Node) else int(name[-2])
        return range(rank - n, rank)
    return mixing.mixed_axes(node, STATISTICS[rule]) if rule in STATISTICS else ()
