"""The table of rules: operation name -> what it does with labels.

A rule has the signature of its ATen operation behind `(propagation, node)`. Operations are named as in ATen,
without overload; an operation in place has the rule of the one that is not.
"""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

import torch

from optuna_softprune.graph import _rules_convolution as convolution
from optuna_softprune.graph import _rules_mixing as mixing
from optuna_softprune.graph import _rules_moving as moving
from optuna_softprune.graph._propagate import operation_name

if TYPE_CHECKING:
    from torch.fx import Node

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


def unlabelled(p: Propagation, node: Node, *args: Any, **kwargs: Any) -> Value:
    """Make a tensor of a stated shape: nothing of it can shrink, and nothing is touched."""
    return ()


# Rule -> operations. Those of `pointwise` are element by element without the tag in some version of torch.
_NAMES: list[tuple[Rule, str]] = [
    (pointwise, "copy fill zero masked_fill where hardswish mish threshold log_sigmoid softplus hardshrink rsub rrelu"),
    (pointwise, "relu6"),
    (like, "zeros_like ones_like full_like empty_like clone contiguous detach alias to _to_copy type_as"),
    (like, "lift_fresh_copy dropout feature_dropout alpha_dropout feature_alpha_dropout"),
    (unlabelled, "new_zeros new_ones new_full new_empty _assert_tensor_metadata"),
    (mixing.linear, "linear"),
    (mixing.matmul, "matmul mm"),
    (convolution.convolution, "conv1d conv2d conv3d"),
    (convolution.transposed_convolution, "conv_transpose1d conv_transpose2d conv_transpose3d"),
    (mixing.batch_norm, "batch_norm"),
    (mixing.instance_norm, "instance_norm"),
    (mixing.layer_norm, "layer_norm"),
    (mixing.group_norm, "group_norm"),
    (mixing.prelu, "prelu"),
    (mixing.reduction, "mean sum prod amax amin max min var std var_mean std_mean any all argmax argmin"),
    (mixing.reduction, "logsumexp softmax log_softmax cumsum cumprod"),
    (mixing.norm_reduction, "norm linalg_vector_norm"),
    (mixing.window(1), "max_pool1d max_pool1d_with_indices avg_pool1d adaptive_avg_pool1d adaptive_max_pool1d"),
    (mixing.window(1), "upsample_nearest1d upsample_linear1d _upsample_nearest_exact1d"),
    (mixing.window(2), "max_pool2d max_pool2d_with_indices avg_pool2d adaptive_avg_pool2d adaptive_max_pool2d"),
    (mixing.window(2), "upsample_nearest2d upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d"),
    (mixing.window(2), "_upsample_bilinear2d_aa _upsample_bicubic2d_aa"),
    (mixing.window(3), "max_pool3d max_pool3d_with_indices avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d"),
    (mixing.window(3), "upsample_nearest3d upsample_trilinear3d _upsample_nearest_exact3d"),
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
    (moving.index_select, "index_select"),
    (moving.embedding, "embedding"),
    (moving.roll, "roll"),
    (moving.pad, "pad constant_pad_nd"),
    (moving.glu, "glu"),
]
RULES: dict[str, Rule] = {name: rule for rule, names in _NAMES for name in names.split()}


def rule_of(node: Node) -> Rule | None:
    """Return the rule of a node's operation, or None if there is none."""
    if node.target is operator.getitem:
        return getitem
    if not isinstance(node.target, torch._ops.OpOverload):
        return None
    name = operation_name(node)
    plain = name if name in RULES else name.removesuffix("_")
    if plain in RULES:
        return RULES[plain]
    return pointwise if torch.Tag.pointwise in node.target.tags else None
