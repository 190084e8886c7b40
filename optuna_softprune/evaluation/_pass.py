"""One forward pass that looks up what earlier ones have computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from optuna_softprune.evaluation._shareable import examples
from optuna_softprune.program import Sizes, counted

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from optuna_softprune.calibration import Pooled
    from optuna_softprune.evaluation._candidate import Candidate
    from optuna_softprune.evaluation._inputs import Place
    from optuna_softprune.evaluation._memory import Memory
    from optuna_softprune.evaluation._shareable import Operation, Shareable
    from optuna_softprune.reconstruction import Solutions, Weights


class Pass:
    """One forward pass.

    Args:
        program: What is computed.
        weights: What gives a candidate its weights.
        dense: Number -> parameter or buffer of the dense network.
        memory: Where values and weights are kept; None: nothing is looked up or remembered.
        flat: The flat inputs.
        place: Where these inputs are remembered; None: nowhere.
        exact: Whether operations compute in the precision of their operands, so that some may write into operands
            that nobody needs any more.

    Attributes:
        found_something: Whether a value that depends on the inputs was looked up.
    """

    def __init__(
        self,
        program: Shareable,
        weights: Weights,
        dense: Mapping[int, Tensor],
        memory: Memory | None,
        flat: Sequence[Any],
        place: Place | None,
        *,
        exact: bool,
    ) -> None:
        self._program, self._weights, self._dense, self._memory = program, weights, dense, memory
        self._flat, self._place, self._exact = flat, place, exact
        self._own = {_memory_of(each) for each in flat if isinstance(each, Tensor)}
        self._held: set[int] = set()
        self.found_something = False

    def run(self, candidate: Candidate, known: Solutions) -> list[Any]:
        """Return the flat outputs for a candidate, of whose weights something is known."""
        values = self._computed(candidate, known, [each for each in self._program.outputs if isinstance(each, int)], {})
        return [
            self._owned(values[each]) if isinstance(each, int) else each[0]  # no value, but a constant
            for each in self._program.outputs
        ]

    def measure(
        self, candidate: Candidate, known: Solutions, norms: Mapping[int, Pooled], targets: Sequence[int]
    ) -> None:
        """Let batch norms normalise by the statistics of these inputs, and pool them.

        Args:
            candidate: The candidate.
            known: What is known of its weights.
            norms: Number of a batch norm -> where its statistics are pooled.
            targets: Those whose statistics are wanted: so far goes the pass.
        """
        self._computed(candidate, known, targets, norms)

    def _computed(
        self, candidate: Candidate, known: Solutions, targets: Sequence[int], norms: Mapping[int, Pooled]
    ) -> list[Any]:
        """Return the values, of which those of `targets` are there; `norms` are measured on the way."""
        program = self._program
        values: list[Any] = [None] * program.length
        for number, given in zip(program.inputs, self._flat, strict=True):
            values[number] = given
        missing: dict[int, Hashable] = {}  # operation to be done -> under what its value is remembered
        stack, wanted = list(targets), set(targets) & norms.keys()
        while stack:
            number = stack.pop()
            if values[number] is not None or number in missing:
                continue
            if number in program.operations:
                key = self._key(number, candidate.counts)
                found = None if number in wanted else self._found(key)
                if found is None:
                    missing[number] = key
                    measured = program.norms[number] if number in norms else ()
                    stack += [each for each in program.operations[number].sources if each not in measured]
                else:
                    values[number] = found
                    self.found_something |= program.operations[number].of_input
            elif number in program.weights:
                values[number] = self._weight(candidate, number, known)
            elif number in program.constants:
                values[number] = self._holding(program.constants[number])
        sizes = Sizes(counted(candidate.kept), examples(self._flat), program.batch)
        for number, operation in program.operations.items():
            if number not in missing:
                continue
            if number in norms:
                mean, variance = program.norms[number]
                values[mean], values[variance] = norms[number].add(values[operation.sources[0]])
            values[number] = operation.run(values, sizes, self._exact)
            self._put(missing[number], values[number])
            for done in operation.done_with:
                values[done] = None
        return values

    def _weight(self, candidate: Candidate, number: int, known: Solutions) -> Tensor:
        """Return a parameter or buffer of the smaller network."""
        name, groups = self._program.weights[number]
        if name in known.own:
            return self._holding(known.own[name])
        dense = self._dense[number]
        key = None if self._memory is None or not groups else weight_key(number, groups, candidate.counts)
        found = self._found(key)
        if found is None:
            found = self._weights.of(name, dense, candidate.kept, known)
            if found is not dense:
                self._put(key, found)
        return self._holding(found)

    def _key(self, number: int, counts: tuple[int, ...]) -> Hashable:
        """Return under what a value is remembered, or None if it is not."""
        operation = self._program.operations[number]
        if self._memory is None or (self._place is None and operation.of_input) or not operation.shared:
            return None
        return key_of(number, operation, counts, self._place)

    def _found(self, key: Hashable) -> Tensor | None:
        """Return what is remembered under a key."""
        found = self._memory.get(key) if self._memory is not None and key is not None else None
        return None if found is None else self._holding(found)

    def _put(self, key: Hashable, value: Any) -> None:
        """Remember a value under a key, unless it is an input's memory."""
        if self._memory is not None and key is not None and _memory_of(value) not in self._own:
            self._memory.put(key, self._holding(value))

    def _holding(self, value: Tensor) -> Tensor:
        """Return a value that something here keeps."""
        self._held.add(_memory_of(value))
        return value

    def _owned(self, value: Any) -> Any:
        """Return an output in memory that nothing here keeps."""
        return value.clone() if isinstance(value, Tensor) and _memory_of(value) in self._held else value


def weight_key(number: int, groups: tuple[int, ...], counts: tuple[int, ...]) -> Hashable:
    """Return what a parameter or buffer depends on."""
    return (number, *(counts[group] for group in groups))


def key_of(number: int, operation: Operation, counts: tuple[int, ...], place: Place | None) -> Hashable:
    """Return what a value depends on."""
    return (number, place if operation.of_input else None, *(counts[group] for group in operation.groups))


def _memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
