"""Why a width cannot shrink: the operation, and the line of the user's code, at which that begins.

A reason is told when all labels have settled: until then it is not known what passes units on.
"""

from __future__ import annotations

import operator
import os
import re
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch

from optuna_softprune.graph._operation import operation_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch.fx import Node

    from optuna_softprune.graph._labels import Value

Reason: TypeAlias = "str | Callable[[], str]"
MADE_HERE = "coupled to a tensor made in the forward pass"
_PACKAGE = Path(__file__).parents[1]
# Of all that runs when a network is called, what is neither the user's nor of a library of networks.
_INSIDE = tuple(
    f"{folder}{os.sep}"
    for folder in (Path(torch.__file__).parent, *(_PACKAGE / room for room in ("graph", "program", "removal")))
)
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in [^\n]*\n\s*(?P<code>[^\n]*)')


def told(reason: Reason) -> str:
    """Return a reason as text."""
    return reason if isinstance(reason, str) else reason()


def user_line(error: BaseException) -> str:
    """Return `file:line: code` of the innermost frame of `error` outside of torch, or an empty string."""
    frames = traceback.extract_tb(error.__traceback__)
    return _innermost([(each.filename, str(each.lineno), each.line or "") for each in frames])


def line_of(node: Node) -> str:
    """Return `file:line: code` of the innermost frame outside of torch that made a node, or an empty string."""
    return _innermost(_FRAME.findall(node.meta.get("stack_trace") or ""))


def is_users(file: str) -> bool:
    """Whether the code of a file is the user's, or of a library of networks."""
    return not file.startswith((*_INSIDE, "<"))


def _innermost(frames: list[tuple[str, str, str]]) -> str:
    for file, line, code in reversed(frames):
        if is_users(file):
            return f"{file}:{line}: `{code}`"
    return ""


def made_by(node: Node) -> str:
    """Name the operation of a node, and its line."""
    if node.op == "placeholder":
        return f"`{node.name}`"
    line = line_of(node)
    return f"`{operation_name(node)}`{f' at {line}' if line else ''}"


def why_fixed(
    node: Node,
    value: Callable[[Node], Value],
    tensors: Mapping[str, str],
    constants: Mapping[str, object],
    held_at: Mapping[str, str],
    without_rule: Mapping[Node, str],
) -> str:
    """Say why a node has a width that cannot shrink.

    Args:
        node: The node.
        value: Node -> its layers.
        tensors: Placeholder name -> qualified name of a parameter or buffer.
        constants: Placeholder names of constants.
        held_at: Placeholder name of a constant -> where the network holds it.
        without_rule: Node whose operation has no rule -> what is said of that.
    """
    while node not in without_rule:
        if node.op == "placeholder":
            if node.name in held_at:
                return (
                    f"coupled to {held_at[node.name]}, which is no parameter or buffer of the network: register it "
                    "(`nn.Parameter`, `register_buffer`; layers in an `nn.ModuleList`) if it should shrink too"
                )
            kind = "constant" if node.name in constants else "input"
            known = tensors.get(node.name)
            return f"coupled to `{known}`" if known else f"coupled to the {kind} `{node.name}`"
        data = [source for source in node.all_input_nodes if source.name not in tensors]
        if node.target is not operator.getitem and any(len(value(source)) > len(value(node)) for source in data):
            return f"coupled to what {made_by(node)} makes, which passes no units on"
        sources = data or node.all_input_nodes
        if not sources:
            return MADE_HERE
        node = sources[0]
    return without_rule[node]
