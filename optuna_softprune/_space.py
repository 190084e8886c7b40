"""The search space: from a trained network to coefficients, and from coefficients to smaller networks."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, overload

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import FloatDistribution

from optuna_softprune._errors import ExportError, ModeWarning
from optuna_softprune._fingerprint import fingerprint
from optuna_softprune._space_arguments import (
    check_arguments,
    checked_components,
    raise_nothing_to_prune,
    reasons_of_settings,
    shared_coefficients,
    warn_of_macs,
    warn_of_rest,
    warn_of_unused,
)
from optuna_softprune._table import SpaceTable, Totals
from optuna_softprune.coefficients import COUNTED, Count, Lattice, Of, mac_count, parameter_count, removable
from optuna_softprune.evaluation import Candidate, Evaluator
from optuna_softprune.graph import (
    REST,
    Group,
    Held,
    Network,
    NotExportableError,
    Protected,
    StatedSize,
    dense_pass,
    discover,
    expect_copies_to_be_alike,
    export,
    export_training,
    follow_unread,
    let_go,
    map_tensors,
    parts,
    surroundings_kept,
    to_working,
    unwrapped,
    working_copy,
    working_dtypes,
)
from optuna_softprune.importance import Importance, Magnitude, checked_scores
from optuna_softprune.plan import attach_now
from optuna_softprune.reconstruction import LeastSquares, Sliced
from optuna_softprune.removal import Verifier, prove, remove

if TYPE_CHECKING:
    import optuna
    from torch import nn

    from optuna_softprune.graph import Kept
    from optuna_softprune.reconstruction import Weights

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
Coefficients = Mapping[str, float]


class PruningSpace:
    """The groups of a trained network, with a coefficient for each: the fraction of its units that is removed.

    The network is exported with `torch.export` on a copy in eval mode, its groups are found, and all of them are
    verified together: what is removed must equal what is masked. A group that fails, and everything else that
    cannot be pruned, is in `protected` with the reason. The model itself is never written to; it is read whenever
    a smaller one is made, so its weights should stay as they are while a search runs.

    Coefficients `c` are given as a mapping (group name -> coefficient in [0, 1), every group once), or as a float
    array of shape (..., groups) in the order of `groups`, which gives arrays (...) of counts. Where groups are `tied`,
    names and order are those of `tied_groups`.

    Args:
        model: The trained network. `DataParallel`, `DistributedDataParallel` and `torch.compile` are taken off.
        example_inputs: Positional inputs, as a tuple: `model(*example_inputs, **example_kwargs)` must run. The
            shapes count; multiply-accumulates are those of one forward pass on them.
        example_kwargs: Keyword inputs.
        components: Name -> submodule, for the table and the reports. Default: the model's children.
        importance: Which units of a group go first. Ranked once, on the dense network.
        ignored: Names or globs of groups, modules or parameters whose own width stays: no group that they make,
            scale or shift is offered. What they only read may still shrink.
        round_to: Groups keep all their units, or a multiple of this number of them. At least 1.
        min_units: Units that every group keeps. At least 1.
        reconstruction: How the weights that read what is pruned are refitted. `prune`, and all that is evaluated, then
            mean the refitted network. Default: what is kept of the dense weights.
        tied: Names or globs, as in `ignored`: the groups that each matches, of equally many units, share one
            coefficient, which is called by it. Which units go is each group's own affair.

    Raises:
        TypeError: If an argument is of the wrong kind, or the model of a kind that cannot be pruned.
        ValueError: If an argument is out of its range or names what is not there.
        ExportError: If the inputs do not fit or `torch.export` refuses the model.
        NothingToPruneError: If no group is left.
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: tuple[Any, ...],
        *,
        example_kwargs: Mapping[str, Any] | None = None,
        components: Mapping[str, nn.Module] | None = None,
        importance: Importance | None = None,
        ignored: Sequence[str] = (),
        round_to: int = 1,
        min_units: int = 1,
        reconstruction: LeastSquares | None = None,
        tied: Sequence[str] = (),
    ) -> None:
        self._model = unwrapped(model)
        importance = Magnitude() if importance is None else importance
        example_kwargs = {} if example_kwargs is None else example_kwargs
        check_arguments(example_inputs, example_kwargs, importance, round_to, min_units, reconstruction)
        named = components is not None
        components = checked_components(self._model, components)
        if self._model.training:
            warnings.warn(
                "`model` is in train mode: it is analysed and evaluated in eval mode. `prune` returns it in the mode "
                "that it has; call `model.eval()` to say that this is meant.",
                ModeWarning,
                stacklevel=2,
            )
        self._example = (example_inputs, example_kwargs)
        with surroundings_kept(self._model):
            expect_copies_to_be_alike(self._model, *self._example)
            self._network, macs = _proven_network(
                self._model,
                self._example,
                components,
                lambda network: reasons_of_settings(network, ignored, round_to, min_units),
                lambda size: size - removable(size, round_to, min_units)[::-1],
            )
        warn_of_unused(self._network, self._model)
        if not self._network.groups:
            raise_nothing_to_prune(self._network)
        shared = shared_coefficients(self.groups, tied)
        self.tied_groups: Final = {name: tuple(self.groups[i].name for i in places) for name, places in shared.items()}
        # Of each group the place of its coefficient.
        self._owner = np.empty(len(self.groups), np.int64)
        for place, members in enumerate(shared.values()):
            self._owner[members] = place
        sizes = {name: self.groups[members[0]].size for name, members in shared.items()}
        least = {name: max(self.groups[i].least for i in members) for name, members in shared.items()}
        multiples = {name: math.lcm(*(self.groups[i].multiple for i in members)) for name, members in shared.items()}
        self.lattice: Final = Lattice.of(
            sizes, round_to=round_to, min_units=min_units, least=least, multiples=multiples
        )
        names = [name for name, _ in self._model.named_parameters()]
        self._group_counts = {"parameters": parameter_count(self._network, names), "macs": mac_count(self._network)}
        warn_of_macs(self._network, int(self._group_counts["macs"](self._sizes)), macs)
        self._counts = {of: count.tied(self._owner) if tied else count for of, count in self._group_counts.items()}
        self._parts = parts(self._model, self._network, components)
        if named:
            warn_of_rest(self._model, self._parts[REST].parameters)
        self._settings = {
            "importance": repr(importance),
            "reconstruction": repr(reconstruction),
            "tied": repr(tuple(tied)),
        }
        self._weights: Weights = (
            Sliced(self._network) if reconstruction is None else reconstruction.fitted(self._model, self._network)
        )
        self.scores: Final = checked_scores(importance, self._model, self.groups)
        self._set_order([np.argsort(scores, kind="stable") for scores in self.scores])

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that can be pruned, in execution order."""
        return self._network.groups

    @property
    def example(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example inputs: `(args, kwargs)`."""
        args, kwargs = self._example
        return args, dict(kwargs)

    @property
    def protected(self) -> tuple[Protected, ...]:
        """What cannot be pruned, with reasons; every index of every axis is in here or in a group."""
        return self._network.protected

    @property
    def traced(self) -> dict[str, str]:
        """Path of a submodule -> the line of its code that states a size, which nothing but its own graph can change.

        In a smaller network such a submodule keeps its class, parameters and attributes, and runs its own graph in
        place of its `forward`: any number of examples, of the example inputs' other sizes; always as in eval mode,
        so without dropout. The network itself is never traced: hand over `nn.Sequential(model)` if it should be.
        """
        return {path: part.line for path, part in self._network.traced.items()}

    @property
    def distributions(self) -> dict[str, FloatDistribution]:
        """Group name -> distribution of its coefficient, from 0 to the largest that leaves `min_units`."""
        highest = self.lattice.highest.tolist()
        return {name: FloatDistribution(0.0, high) for name, high in zip(self.lattice.names, highest, strict=True)}

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, float]:
        """Return coefficients on the lattice that a trial suggests, one parameter for each group."""
        wanted = {name: trial.suggest_float(name, found.low, found.high) for name, found in self.distributions.items()}
        return self.snap(wanted)

    def coefficients(self, params: Mapping[str, Any]) -> dict[str, float]:
        """Return the coefficients on the lattice that a trial's `params` stand for; other parameters are left out."""
        return self.snap({name: params[name] for name in self.lattice.names if name in params})

    @overload
    def snap(self, c: Coefficients) -> dict[str, float]: ...
    @overload
    def snap(self, c: FloatArray) -> FloatArray: ...
    def snap(self, c: Coefficients | FloatArray) -> dict[str, float] | FloatArray:
        """Return the nearest coefficients of whole units (halves up, towards removing more)."""
        return self.lattice.snap(c)

    @overload
    def parameters(self, c: Coefficients) -> int: ...
    @overload
    def parameters(self, c: FloatArray) -> IntArray: ...
    def parameters(self, c: Coefficients | FloatArray) -> Any:
        """Return the number of parameters of the pruned network."""
        return _scalar(self._count(c, "parameters"))

    def component_counts(self, c: Coefficients, of: Of = "parameters") -> dict[str, tuple[int, int]]:
        """Return for each component its parameters (or multiply-accumulates), dense and pruned.

        They add up to the network's: what lies in several components is counted in the innermost, what lies in none
        in a row `(rest)`, which is there if something does.
        """
        sizes, kept = self._sizes, np.array(self.kept_units(c))
        found = {}
        for component, part in self._parts.items():
            if of == "macs":
                count = mac_count(self._network, part.nodes)
            else:
                count = parameter_count(self._network, part.parameters)
            found[component] = int(count(sizes)), int(count(kept))
        return {name: counts for name, counts in found.items() if name != REST or counts[0]}

    @overload
    def macs(self, c: Coefficients) -> int: ...
    @overload
    def macs(self, c: FloatArray) -> IntArray: ...
    def macs(self, c: Coefficients | FloatArray) -> Any:
        """Return the multiply-accumulates of the pruned network's forward pass on the example inputs."""
        return _scalar(self._count(c, "macs"))

    @overload
    def sparsity(self, c: Coefficients, of: Of = "parameters") -> float: ...
    @overload
    def sparsity(self, c: FloatArray, of: Of = "parameters") -> FloatArray: ...
    def sparsity(self, c: Coefficients | FloatArray, of: Of = "parameters") -> Any:
        """Return 1 - pruned / dense, in [0, 1), over parameters or multiply-accumulates."""
        dense = int(self.count(of)(self.lattice.sizes))
        sparsity: FloatArray = 1 - self._count(c, of) / dense
        return _scalar(sparsity)

    def prune(self, c: Coefficients) -> nn.Module:
        """Return a new network of the user's own class without the units that `c` removes.

        With a reconstruction its weights are refitted. It shares no memory with the dense network, is on the same
        device, in the same dtype and mode, and can be trained, copied and pickled where the dense one can.

        Raises:
            ValueError: If the dense network's weights have changed since they were calibrated.
        """
        self._weights.expect_unchanged(self._model)
        kept = self._kept(self._removed(c))
        small = remove(self._model, self._network, kept, share=False, weights=self._weights)
        attach_now(small)
        return small

    def evaluator(self, budget: int, say: Callable[[str], None]) -> Evaluator:
        """Return what evaluates candidates of this space; see `Evaluator`."""
        self._weights.expect_unchanged(self._model)
        return Evaluator(self._model, self._network, self._weights, budget, say)

    def candidate(self, c: Coefficients) -> Candidate:
        """Return the units that `c` keeps."""
        removed = self._removed(c)
        return Candidate(self._widths(removed), self._kept(removed))

    def verify(self, c: Coefficients) -> float:
        """Return the largest relative error of the removed network against the masked one, nothing refitted.

        Both run on the CPU, in float64 where the network's forward pass allows it, on noisy example inputs. About
        1e-12 is rounding.
        """
        with surroundings_kept(self._model):
            working = working_copy(self._model, self._network.exported.dtype)
            verifier = Verifier.sharpest(working, *self._example, self._network)
            return verifier.compare(self._network, self._kept(self._removed(c))).error

    def __str__(self) -> str:
        """Return a table of the groups, and what is protected and why."""
        return self._table().text()

    def __repr__(self) -> str:
        """Return one line."""
        return f"<PruningSpace of {self._table().title()}>"

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        return self._table().html()

    def _table(self) -> SpaceTable:
        fewest = np.array(self._widths(np.array([levels[-1] for levels in self.lattice.levels])))
        parameters, macs = (Totals.of(self._group_counts[of], self._sizes, fewest) for of in COUNTED)
        return SpaceTable(
            model=type(self._model).__name__,
            network=self._network,
            parameters={name for name, _ in self._model.named_parameters()},
            counts=(parameters, macs),
            weights=self._weights.describe(),
            tied={name: groups for name, groups in self.tied_groups.items() if len(groups) > 1},
        )

    def kept_units(self, c: Coefficients | FloatArray) -> tuple[int, ...]:
        """Return the units that each group keeps, in the order of `groups`."""
        return self._widths(self._removed(c))

    def with_order(self, order: Sequence[IntArray]) -> PruningSpace:
        """Return the same space with another order of removal: for each group its units, first to go first."""
        other = copy.copy(self)
        other._set_order(order)
        return other

    def _set_order(self, order: Sequence[IntArray]) -> None:
        self.order = tuple(order)
        self._ranks = np.concatenate([len(each) - 1 - np.argsort(each) for each in order])
        self._weights = self._weights.ordered(self._ranks)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What makes this search space the one that a study belongs to, as JSON; each value is below 60 kB."""
        dense = {of: int(count(self.lattice.sizes)) for of, count in self._counts.items()}
        return fingerprint(self._model, self.groups, self.lattice, dense, self._settings)

    def named(self, c: FloatArray) -> dict[str, float]:
        """Return an array (groups,) of coefficients as a mapping by name."""
        return self.lattice.named(c)

    def count(self, of: Of) -> Count:
        """Return the formula that counts parameters or multiply-accumulates of units kept (..., groups)."""
        if of not in self._counts:
            raise ValueError(f'Expected `of` to be "parameters" or "macs", but got {of!r}.')
        return self._counts[of]

    def _count(self, c: Coefficients | FloatArray, of: Of) -> IntArray:
        return self._counts[of](self.lattice.sizes - self._removed(c))

    def _removed(self, c: Coefficients | FloatArray) -> IntArray:
        """Return the units that go by each coefficient (..., coefficients)."""
        return self.lattice.removed(self.array(c))

    def _kept(self, removed: IntArray) -> Kept:
        """Return which units are kept when so many of each group go."""
        kept: Kept = self._ranks < np.repeat(self._widths(removed), self._sizes)
        return kept

    def _widths(self, removed: IntArray) -> tuple[int, ...]:
        """Return the units that each group keeps when so many go by each coefficient."""
        kept: list[int] = (self.lattice.sizes - removed)[self._owner].tolist()
        return tuple(kept)

    @property
    def _sizes(self) -> IntArray:
        """Shape (groups,): the units of each group."""
        return self.lattice.sizes[self._owner]

    def array(self, c: Coefficients | FloatArray) -> FloatArray:
        """Return coefficients as a checked array (..., groups) in the order of `groups`."""
        return self.lattice.array(c)


def _proven_network(
    model: nn.Module,
    example: tuple[tuple[Any, ...], Mapping[str, Any]],
    components: Mapping[str, nn.Module],
    protect: Callable[[Network], dict[str, str]],
    levels: Callable[[int], IntArray],
) -> tuple[Network, int | None]:
    """Return the groups of `model` that `protect` does not rule out, verified in the best precision it runs in.

    With them come the multiply-accumulates that torch counts, if it can. Of a group's units as many may be kept as
    `levels` says, ascending.
    """
    refused: ExportError | None = None
    for dtype in working_dtypes(model):
        try:
            exported, working = export(model, *example, dtype)
            inputs = map_tensors((example[0], dict(example[1])), functools.partial(to_working, dtype=dtype))

            training = export_training(model, working, *example, exported)

            def proven(stated: Mapping[StatedSize, Held]) -> tuple[Network, Network]:
                network = discover(model, exported, components, stated, training)  # noqa: B023
                offered = network.without(protect(network))
                verifier = Verifier.sharpest(working, *example, offered)  # noqa: B023
                return offered, prove(verifier, offered, levels)

            read, macs = dense_pass(working, *inputs)
            stated = read or {}
            offered, network = proven(stated)
            # An integer that a module holds follows a width if, and only if, the network is right with that.
            wrong = stated.keys() & offered.attributes.keys() - network.attributes.keys()
            if wrong:
                _, other = proven({size: length for size, length in stated.items() if size not in wrong})
                network = min(network, other, key=_fewest_parameters)
            let_go(working)
            return follow_unread(network, model, read), macs
        except NotExportableError:
            raise
        except ExportError as error:
            refused = error
    assert refused is not None
    raise refused


def _fewest_parameters(network: Network) -> int:
    """Return the number of parameters when every group keeps one unit."""
    return int(parameter_count(network, network.shapes)(np.ones(len(network.groups), np.int64)))


def _scalar(counts: NDArray[Any]) -> Any:
    """Return what one candidate has as a Python number, what many have as it is."""
    return counts.item() if counts.ndim == 0 else counts
