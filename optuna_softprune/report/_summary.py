"""A table by module of what became smaller, counted on both networks."""

from __future__ import annotations

import contextlib
import html
import warnings
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from optuna_softprune._table import aligned, html_table
from optuna_softprune.graph import REST, component_of, component_paths
from optuna_softprune.report._running import checked_call, evaluating, plain

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from optuna_softprune.report._running import Call

# What modules of torch and of most libraries call the length of what they return; of a tuple the last.
WIDTHS = (
    *("out_features", "out_channels", "num_features", "num_channels"),
    *("normalized_shape", "embedding_dim", "hidden_size", "embed_dim"),
)
COLUMNS = ("width", "parameters", "MACs")


class ModuleRow(NamedTuple):
    """What a module has in the dense and in the smaller network, without the modules inside of it.

    Attributes:
        module: Its path; of sums over modules a name.
        component: The component that it lies in, or "-".
        dense_width: What it says of the length of its output; None if it says nothing.
        width: The same in the smaller network.
        dense_parameters: Its parameters.
        parameters: The same in the smaller network.
        dense_macs: Multiply-accumulates of one forward pass.
        macs: The same in the smaller network.
    """

    module: str
    component: str
    dense_width: int | None
    width: int | None
    dense_parameters: int
    parameters: int
    dense_macs: int
    macs: int


@dataclass(frozen=True, slots=True)
class Summary:
    """What became smaller; `print` it, or `pandas.DataFrame(summary.rows)`.

    Attributes:
        model: Name of the network's class.
        rows: A row for each module with parameters or multiply-accumulates of its own, in the order of the network.
        components: A row for each component; their sums are the network's.
        total: The whole network.
    """

    model: str
    rows: tuple[ModuleRow, ...]
    components: tuple[ModuleRow, ...]
    total: ModuleRow

    def title(self) -> str:
        """Return parameters and multiply-accumulates of the whole network, before and after."""
        total = self.total
        counted = [
            (total.dense_parameters, total.parameters, "parameters"),
            (total.dense_macs, total.macs, "MACs"),
        ]
        texts = [
            f"{dense:,} -> {small:,} {name}{f' ({1 - small / dense:.3f} removed)' if dense else ''}"
            for dense, small, name in counted
        ]
        return f"{self.model}: {', '.join(texts)}"

    def __str__(self) -> str:
        """Return the tables as aligned text."""
        modules = [("module", "component", *COLUMNS), *(_cells(row) for row in self.rows)]
        lines = [self.title(), *aligned(modules, "<<>>>")]
        if 1 < len(self.components) < len(self.rows):
            sums = [("component", *COLUMNS[1:]), *((row.module, *_cells(row)[3:]) for row in self.components)]
            lines += ["by component", *aligned(sums, "<>>")]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the tables for a notebook."""
        rows = [_cells(row) for row in (*self.rows, *self.components, self.total)]
        return f"<p>{html.escape(self.title())}</p>{html_table([('module', 'component', *COLUMNS), *rows])}"


def summary(
    dense: nn.Module,
    small: nn.Module,
    inputs: tuple[Any, ...],
    *,
    kwargs: Mapping[str, Any] | None = None,
    components: Mapping[str, nn.Module] | None = None,
) -> Summary:
    """Return what of a dense network is in a smaller one, module by module; `print` it.

    Everything is counted on the two networks: parameters as they are, multiply-accumulates in one forward pass of each
    with `torch.utils.flop_counter`.

    Args:
        dense: The dense network.
        small: What `space.prune`, `objective.best_model` or `load_pruned` returned, trained on or not.
        inputs: Positional inputs, as a tuple, on the device where the networks are.
        kwargs: Keyword inputs.
        components: Name -> submodule of `dense`, for the sums. Default: its children.

    Raises:
        TypeError: If `inputs` is no tuple.
        ValueError: If the networks do not have the same parameters by name.
    """
    call = checked_call(inputs, kwargs)
    dense, small = plain(dense), plain(small)
    odd = sorted({name for name, _ in dense.named_parameters()} ^ {name for name, _ in small.named_parameters()})
    if odd:
        raise ValueError(
            f"Expected `small` to be a smaller `dense`, with parameters of the same names, but only one of them has "
            f"`{odd[0]}`."
        )
    counted = [sum(parameter.numel() for parameter in each.parameters()) for each in (dense, small)]
    if counted[1] > counted[0]:
        raise ValueError(
            f"Expected `small` to have no more parameters than `dense`, but it has {counted[1]:,} of {counted[0]:,}: "
            "are they in the other order?"
        )
    modules = dict(dense.named_modules())
    with evaluating(dense, small):
        counts = [
            (_parameters(model, modules), _macs(model, call, modules), dict(model.named_modules()))
            for model in (dense, small)
        ]
    paths = component_paths(dense, dict(dense.named_children()) if components is None else components)
    rows = []
    for path in modules:
        (parameters, macs, _), (small_parameters, small_macs, small_modules) = counts
        if parameters[path] or macs[path]:
            rows.append(
                ModuleRow(
                    module=path or "(itself)",
                    component=component_of(path, paths) or "-",
                    dense_width=_width(modules[path]),
                    width=_width(small_modules.get(path)),
                    dense_parameters=parameters[path],
                    parameters=small_parameters[path],
                    dense_macs=macs[path],
                    macs=small_macs[path],
                )
            )
    names = [*dict.fromkeys(row.component for row in rows if row.component != "-"), "-"]
    sums = [_sum(REST if name == "-" else name, (row for row in rows if row.component == name)) for name in names]
    return Summary(
        model=type(dense).__name__,
        rows=tuple(rows),
        components=tuple(row for row in sums if row.dense_parameters or row.dense_macs),
        total=_sum("total", rows),
    )


def _owner(path: str, modules: Mapping[str, nn.Module]) -> str:
    """Return the innermost of the dense network's modules that a path lies in."""
    while path not in modules:
        path = path.rpartition(".")[0]
    return path


def _parameters(model: nn.Module, modules: Mapping[str, nn.Module]) -> Counter[str]:
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        found[_owner(name.rpartition(".")[0], modules)] += parameter.numel()
    return found


@contextlib.contextmanager
def _unfused() -> Iterator[None]:
    """Let layers run as what they are made of: the counter does not know fused attention and recurrent layers."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    warnings.filterwarnings("ignore", "TF32 acceleration")  # said whenever flags of `mkldnn` are set
    try:
        with (
            sdpa_kernel(SDPBackend.MATH),
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
        ):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _macs(model: nn.Module, call: Call, modules: Mapping[str, nn.Module]) -> Counter[str]:
    """Return the multiply-accumulates of each module without those of the modules inside of it."""
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, where that is installed

    with warnings.catch_warnings(), _unfused(), FlopCounterMode(display=False) as counter:
        model(*call[0], **call[1])
    root = type(model).__name__
    whole = {
        name.removeprefix(root).removeprefix("."): sum(flops.values()) // 2
        for name, flops in counter.get_flop_counts().items()
        if name == root or name.startswith(f"{root}.")
    }
    found: Counter[str] = Counter()
    for path, macs in whole.items():
        found[_owner(path, modules)] += macs
        if path:
            above = path.rpartition(".")[0]
            while above not in whole:
                above = above.rpartition(".")[0]
            found[_owner(above, modules)] -= macs
    return found


def _width(module: nn.Module | None) -> int | None:
    for name in WIDTHS:
        stated = getattr(module, name, None)
        if isinstance(stated, (tuple, list)) and stated:
            stated = stated[-1]
        if type(stated) is int:
            return stated
    return None


def _sum(name: str, rows: Iterable[ModuleRow]) -> ModuleRow:
    counts = [(0, 0, 0, 0), *(row[4:] for row in rows)]
    return ModuleRow(name, "-", None, None, *map(sum, zip(*counts, strict=True)))


def _cells(row: ModuleRow) -> tuple[str, ...]:
    def change(small: int | None, dense: int | None) -> str:
        if dense is None or small is None:
            return "-"
        return f"{small:,} / {dense:,}" if small != dense else f"{dense:,}"

    counts = [(row.parameters, row.dense_parameters), (row.macs, row.dense_macs)]
    return (row.module, row.component, change(row.width, row.dense_width), *(change(*each) for each in counts))
