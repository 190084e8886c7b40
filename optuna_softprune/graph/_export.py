"""The network as a graph of ATen operations, by `torch.export`."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.fx.immutable_collections import immutable_dict, immutable_list
from torch.utils import _pytree as pytree

from optuna_softprune.graph._copy import map_tensors, to_working, working_copy
from optuna_softprune.graph._decompose import decompose
from optuna_softprune.graph._faithful import attributes_kept, names_of_tensors
from optuna_softprune.graph._network import canonical_names, tensors
from optuna_softprune.graph._refusal import refused
from optuna_softprune.graph._regions import inline_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from torch import Tensor, nn
    from torch.fx import Graph
    from torch.utils._pytree import TreeSpec


# Which say at length on what values a draft depends.
LOGGERS = ("torch.export._draft_export", "torch.fx.experimental.symbolic_shapes")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedGraph:
    """One forward pass in eval mode, on the CPU, in a working precision.

    Attributes:
        graph: The operations in execution order.
        tensors: Placeholder name -> qualified name of the parameter or buffer (the first of its names).
        constants: Placeholder name -> the constant tensor that the forward pass closed over.
        held_at: Placeholder name -> where the network holds that constant, if it does.
        inputs: Placeholder names of the user's inputs, flattened as `flatten_inputs` flattens them.
        flatten_inputs: `(args, kwargs)` -> flat list of inputs.
        flatten_outputs: What the network returned -> flat list, in the order of the graph's outputs.
        restore_outputs: Flat list -> what the network returns.
        dtype: The working precision; None where every tensor has its own.
    """

    graph: Graph
    tensors: Mapping[str, str]
    constants: Mapping[str, Tensor]
    held_at: Mapping[str, str]
    inputs: tuple[str, ...]
    flatten_inputs: Callable[[Any], list[Any]]
    flatten_outputs: Callable[[Any], list[Any]]
    restore_outputs: Callable[[list[Any]], Any]
    dtype: torch.dtype | None


def working_dtypes(model: nn.Module) -> tuple[torch.dtype | None, ...]:
    """Return the working precisions in which a network may run, best first; None leaves every tensor its own dtype.

    Verification is sharp in float64. A network that names a dtype in its forward pass may not run in it: then in
    float32, and if it keeps parts of itself in other dtypes, only as it is.
    """
    own = {tensor.dtype for _, tensor in tensors(model) if tensor.is_floating_point()}
    uniform = (torch.float64, torch.float32)
    return uniform if len(own) <= 1 and own <= set(uniform) else (*uniform, None)


def export(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype | None
) -> tuple[ExportedGraph, nn.Module]:
    """Export `model` in eval mode; return the graph and the copy in working precision that it was made of.

    Neither the model nor the random state is touched.

    Raises:
        ExportError: If the inputs do not fit.
        NotExportableError: If they do, and `torch.export` refuses the network.
    """
    working = working_copy(model, dtype)
    inputs = map_tensors((args, dict(kwargs)), functools.partial(to_working, dtype=dtype))
    with _quietly(), attributes_kept(working):
        try:
            program = torch.export.export(working, *inputs)
        except Exception as error:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                refusal = refused(working, inputs, error)
            raise refusal from error
    return _exported(model, working, program, dtype), working


def export_training(
    model: nn.Module, working: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], exported: ExportedGraph
) -> ExportedGraph | None:
    """Return the graph of train mode where eval mode leaves parameters unused; None: it does not, or has none.

    Args:
        model: The network.
        working: Its copy in working precision, in eval mode, as it is afterwards.
        args: The example's positional inputs.
        kwargs: The example's keyword inputs.
        exported: The graph of eval mode.
    """
    parameters = dict(model.named_parameters())
    unused = [
        node
        for node in exported.graph.nodes
        if node.op == "placeholder" and not node.users and exported.tensors.get(node.name) in parameters
    ]
    if not unused:
        return None
    inputs = map_tensors((args, dict(kwargs)), functools.partial(to_working, dtype=exported.dtype))
    # A network may draw the way that it takes (layers that are left out): a draft takes the one that was drawn.
    for exporting in (torch.export.export, torch.export.draft_export):
        try:
            with _quietly(), attributes_kept(working):
                return _exported(model, working, exporting(working.train(), *inputs), exported.dtype)
        except Exception:
            continue  # a network may need targets to train
        finally:
            working.eval()
    return None


def export_submodule(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], dtype: torch.dtype | None
) -> tuple[ExportedGraph, TreeSpec, TreeSpec]:
    """Return the graph of a part of a working copy, and how its inputs and its outputs are flattened.

    Raises:
        Exception: What `torch.export` raises.
    """
    with _quietly():
        program = torch.export.export(module, args, dict(kwargs))
    specs: Any = program.call_spec
    return _exported(module, module, program, dtype), specs.in_spec, specs.out_spec


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Export without a trace on the screen or in the random state."""
    # Under `no_grad` a `with torch.no_grad()` of the network's own leaves no subgraph behind.
    with torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Recurrent layers keep their parameters in a list too, and others what they look up; `torch.export` warns of
        # what it makes of that itself.
        warnings.filterwarnings("ignore", message="The tensor attributes? self")
        warnings.filterwarnings("ignore", "unclosed file", ResourceWarning)  # what a draft writes its log to
        loggers = [logging.getLogger(name) for name in LOGGERS]
        levels = [each.level for each in loggers]
        with contextlib.redirect_stderr(io.StringIO()):  # where torch prints the graph of what it refuses
            for each in loggers:
                each.setLevel(logging.ERROR)
            try:
                yield
            finally:
                for each, level in zip(loggers, levels, strict=True):
                    each.setLevel(level)


def _is_frozen(value: Any) -> bool:
    return isinstance(value, (immutable_dict, immutable_list))


def _thawed(spec: TreeSpec) -> TreeSpec:
    """Return how outputs are nested when the network runs: what `torch.fx` wrote is frozen in a trace."""

    def thawed(value: Any) -> Any:
        if not _is_frozen(value):
            return value
        return pytree.tree_map(thawed, dict(value) if isinstance(value, dict) else list(value), is_leaf=_is_frozen)

    nested = spec.unflatten(range(spec.num_leaves))
    if not any(map(_is_frozen, pytree.tree_leaves(nested, is_leaf=_is_frozen))):
        return spec
    return pytree.tree_structure(pytree.tree_map(thawed, nested, is_leaf=_is_frozen))


def _place(tensor: Tensor) -> tuple[Any, ...]:
    """Return what two tensors have in common that are the same elements in the same order."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _exported(
    model: nn.Module, working: nn.Module, program: torch.export.ExportedProgram, dtype: torch.dtype | None
) -> ExportedGraph:
    inline_regions(program.graph_module)
    _drop_failed(program.graph)
    decompose(program.graph)
    signature = program.graph_signature
    names = canonical_names(model)
    held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted = signature.inputs_to_lifted_tensor_constants
    placeholders = [node.name for node in program.graph.nodes if node.op == "placeholder"]
    in_spec, out_spec = program.call_spec.in_spec, program.call_spec.out_spec
    assert in_spec is not None
    assert out_spec is not None
    out_spec = _thawed(out_spec)
    constants = {placeholder: program.constants[name] for placeholder, name in lifted.items()}
    # A parameter that the forward pass finds in a list or a dict is a constant to `torch.export`.
    registered = {_place(tensor): name for name, tensor in tensors(working)} if constants else {}
    found = {name: registered[_place(each)] for name, each in constants.items() if _place(each) in registered}
    held_at = names_of_tensors(working) if len(found) < len(constants) else {}
    return ExportedGraph(
        graph=program.graph,
        tensors={placeholder: names[name] for placeholder, name in {**held, **found}.items()},
        constants={placeholder: each for placeholder, each in constants.items() if placeholder not in found},
        held_at={name: held_at[each.data_ptr()] for name, each in constants.items() if each.data_ptr() in held_at},
        inputs=tuple(p for p in placeholders if p not in held and p not in lifted),
        flatten_inputs=in_spec.flatten_up_to,
        flatten_outputs=out_spec.flatten_up_to,
        restore_outputs=out_spec.unflatten,
        dtype=dtype,
    )


def _drop_failed(graph: Graph) -> None:
    """Erase, in place, the operations whose exceptions the forward pass catches: they made nothing."""
    for node in reversed(graph.nodes):
        makes = isinstance(node.target, torch._ops.OpOverload) and node.target._schema.returns
        if makes and node.meta.get("val") is None and not node.users:
            graph.erase_node(node)
