"""The network as a graph of ATen operations, by `torch.export`."""

from __future__ import annotations

import functools
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from optuna_softprune._errors import ExportError
from optuna_softprune.graph._copy import map_tensors, to_working, working_copy
from optuna_softprune.graph._decompose import decompose
from optuna_softprune.graph._network import canonical_names

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn
    from torch.fx import Graph

# Verification is sharp in float64. A network that names a dtype in its forward pass may not run in float64 at all:
# then float32 is the working precision.
WORKING_DTYPES = (torch.float64, torch.float32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedGraph:
    """One forward pass in eval mode, on the CPU, in a working precision.

    Attributes:
        graph: The operations in execution order.
        tensors: Placeholder name -> qualified name of the parameter or buffer (the first of its names).
        constants: Placeholder name -> the constant tensor that the forward pass closed over.
        inputs: Placeholder names of the user's inputs, flattened as `flatten_inputs` flattens them.
        flatten_inputs: `(args, kwargs)` -> flat list of inputs.
        flatten_outputs: What the network returned -> flat list, in the order of the graph's outputs.
        restore_outputs: Flat list -> what the network returns.
        dtype: The working precision.
    """

    graph: Graph
    tensors: Mapping[str, str]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    flatten_inputs: Callable[[Any], list[Any]]
    flatten_outputs: Callable[[Any], list[Any]]
    restore_outputs: Callable[[list[Any]], Any]
    dtype: torch.dtype


def export(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype
) -> tuple[ExportedGraph, nn.Module]:
    """Export `model` in eval mode; return the graph and the copy in working precision that it was made of.

    Neither the model nor the random state is touched.

    Raises:
        ExportError: If the inputs do not fit, or `torch.export` refuses the network.
    """
    working = working_copy(model, dtype)
    inputs = map_tensors((args, dict(kwargs)), functools.partial(to_working, dtype=dtype))
    # Under `no_grad` a `with torch.no_grad()` of the network's own leaves no subgraph behind.
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Recurrent layers keep their parameters in a list too; `torch.export` warns of what it makes of that itself.
        warnings.filterwarnings("ignore", message="The tensor attributes self")
        try:
            program = torch.export.export(working, *inputs)
        except Exception as error:
            raise _refused(working, inputs, error) from error
    return _exported(model, program, dtype), working


def _exported(model: nn.Module, program: torch.export.ExportedProgram, dtype: torch.dtype) -> ExportedGraph:
    decompose(program.graph)
    signature = program.graph_signature
    names = canonical_names(model)
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    placeholders = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    assert in_spec is not None
    assert out_spec is not None
    return ExportedGraph(
        graph=program.graph,
        tensors={placeholder: names[name] for placeholder, name in held.items()},
        constants={placeholder: program.constants[name] for placeholder, name in lifted.items()},
        inputs=tuple(p for p in placeholders if p not in held and p not in lifted),
        flatten_inputs=in_spec.flatten_up_to,
        flatten_outputs=out_spec.flatten_up_to,
        restore_outputs=out_spec.unflatten,
        dtype=dtype,
    )


def user_line(error: BaseException) -> str:
    """Return `file:line: code` of the innermost frame of `error` outside of torch, or an empty string."""
    library = str(Path(torch.__file__).parent)
    ours = tuple(str(Path(__file__).parents[1] / folder) for folder in ("graph", "removal"))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((library, *ours, "<"))
    ]
    return f"{frames[-1].filename}:{frames[-1].lineno}: `{frames[-1].line}`" if frames else ""


def first_line(error: BaseException) -> str:
    """Return the class of `error` and the first line of its message."""
    message = str(error).strip()
    return f"{type(error).__name__}: {message.splitlines()[0]}" if message else type(error).__name__


def _refused(working: nn.Module, inputs: tuple[Any, Any], error: Exception) -> ExportError:
    """Tell inputs that do not fit from a network that cannot be exported."""
    try:
        working(*inputs[0], **inputs[1])
    except Exception as forward_error:
        error = forward_error
        expected = "Expected `example_inputs` and `example_kwargs` to fit the network, but its forward pass on the CPU"
        remedy = (
            "Give them as `model(*example_inputs, **example_kwargs)` takes them; a device named inside the "
            "forward pass must follow its input's."
        )
    else:
        expected = "Expected `model` to be exportable, but `torch.export`"
        remedy = (
            "A branch on the values of a tensor, `.item()` and code outside of torch cannot be exported: write "
            "the branch with `torch.where`, or hand over the part of the network without it."
        )
    line = user_line(error)
    return ExportError(f"{expected} failed{f' at {line}' if line else ''}: {first_line(error)}. {remedy}")
