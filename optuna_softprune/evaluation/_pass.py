"""One forward pass that looks up what earlier ones have computed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from optuna_softprune.evaluation._candidate import Candidate, Count, replaced
from optuna_softprune.evaluation._program import examples
from optuna_softprune.evaluation._sizes import Sizes
from optuna_softprune.evaluation._sums import added
from optuna_softprune.removal import smaller

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from optuna_softprune.evaluation._inputs import Place
    from optuna_softprune.evaluation._memory import Memory
    from optuna_softprune.evaluation._program import Operation, Program
    from optuna_softprune.evaluation._sums import Sum
    from optuna_softprune.graph import Network


class Pass:
    """One forward pass.

    Args:
        network: The groups.
        program: What is computed.
        weights: Number -> parameter or buffer of the dense network; of kernels the taps that are needed, if `small`.
        memory: Where values and weights are kept; None: nothing is looked up or remembered.
        flat: The flat inputs.
        place: Where these inputs are remembered; None: nowhere.
        sums: Number -> sum of an operation that is made in parts.
        small: Whether maps have the example's size, on which kernels need only some taps.
        exact: Whether operations compute in the precision of their operands, so that some may write into operands
            that nobody needs any more.

    Attributes:
        found_something: Whether a value that depends on the inputs was looked up.
    """

    def __init__(
        self,
        network: Network,
        program: Program,
        weights: Mapping[int, Tensor],
        memory: Memory | None,
        flat: Sequence[Any],
        place: Place | None,
        sums: Mapping[int, Sum],
        *,
        small: bool,
        exact: bool,
    ) -> None:
        self._network, self._program, self._weights, self._memory = network, program, weights, memory
        self._flat, self._place, self._sums, self._small, self._exact = flat, place, sums, small, exact
        self._batch = examples(flat)
        self._own = {_memory_of(each) for each in flat if isinstance(each, Tensor)}
        self._held: set[int] = set()
        self.found_something = False

    def run(self, candidate: Candidate) -> list[Any]:
        """Return the flat outputs for a candidate."""
        values: list[Any] = [None] * self._program.length
        for number, given in zip(self._program.inputs, self._flat, strict=True):
            values[number] = given
        self._compute(candidate, values, [each for each in self._program.outputs if isinstance(each, int)])
        return [
            self._owned(values[each]) if isinstance(each, int) else each[0]  # no value, but a constant
            for each in self._program.outputs
        ]

    def _compute(self, candidate: Candidate, values: list[Any], targets: Iterable[int]) -> None:
        """Fill in the values of `targets`, and what they need that is not there."""
        program, sums = self._program, self._sums
        missing: dict[int, Hashable] = {}  # operation to be done -> under what its value is remembered
        stack = [*targets]
        while stack:
            number = stack.pop()
            if values[number] is not None or number in missing:
                continue
            if number in program.operations:
                key = self._key(number, candidate.counts)
                found = self._found(key)
                if found is None:
                    missing[number] = key
                    stack += sums[number].roots if number in sums else program.operations[number].sources
                else:
                    values[number] = found
                    self.found_something |= program.operations[number].of_input
            elif number in program.weights:
                values[number] = self._weight(candidate, number)
            elif number in program.constants:
                values[number] = self._holding(program.constants[number])
        sizes = Sizes(candidate.kept, self._batch, program.batch, self._small, self._exact)
        for number, operation in program.operations.items():
            if number not in missing:
                continue
            if number in sums:
                values[number] = self._sum(number, candidate, values)
            else:
                values[number] = operation.run(values, sizes)
            self._put(missing[number], values[number], brief=number in sums and not operation.shared)
            for done in operation.done_with:
                values[done] = None

    def _sum(self, number: int, candidate: Candidate, values: list[Any]) -> Tensor:
        """Return the value of a sum, from the last part of it that is known."""
        this = self._sums[number]
        kept = candidate.counts[this.group]
        assert isinstance(kept, int)

        def key(stop: int) -> Hashable:
            return self._key(number, replaced(candidate.counts, this.group, stop))

        *ends, _ = range(0, kept + this.block, this.block)  # of whole blocks; the last part ends at `kept`
        found = ((stop, self._found(key(stop))) for stop in reversed(ends[1:]))
        start, value = next((each for each in found if each[1] is not None), (0, None))
        for stop in (*ends[start // this.block + 1 :], kept):
            part, inside = candidate.part(self._network, this.group, start, stop), values.copy()
            self._compute(part, inside, (this.x, this.weight))
            bias = None if this.bias is None else values[this.bias]
            value = added(value, inside[this.x], inside[this.weight], bias)
            if stop < kept:
                self._put(key(stop), value, brief=True)
            start = stop
        assert value is not None
        return value

    def _weight(self, candidate: Candidate, number: int) -> Tensor:
        """Return what is kept of a parameter or buffer."""
        name, groups = self._program.weights[number]
        dense = self._weights[number]
        key = (
            None
            if self._memory is None or not groups
            else (number, self._small, *(candidate.counts[i] for i in groups))
        )
        found = self._found(key)
        if found is None:
            found = smaller(self._network, name, dense, candidate.kept)
            if found is not dense:
                self._put(key, found)
        return self._holding(found)

    def _key(self, number: int, counts: tuple[Count, ...]) -> Hashable:
        """Return under what a value is remembered, or None if it is not."""
        operation = self._program.operations[number]
        if self._memory is None or (self._place is None and operation.of_input):
            return None
        if not operation.shared and not (number in self._sums and self._sums[number].is_whole(counts)):
            return None
        return key_of(number, operation, counts, self._place)

    def _found(self, key: Hashable) -> Tensor | None:
        """Return what is remembered under a key."""
        found = self._memory.get(key) if self._memory is not None and key is not None else None
        return None if found is None else self._holding(found)

    def _put(self, key: Hashable, value: Any, *, brief: bool = False) -> None:
        """Remember a value under a key, unless it is an input's memory."""
        if self._memory is not None and key is not None and _memory_of(value) not in self._own:
            self._memory.put(key, self._holding(value), brief=brief)

    def _holding(self, value: Tensor) -> Tensor:
        """Return a value that something here keeps."""
        self._held.add(_memory_of(value))
        return value

    def _owned(self, value: Any) -> Any:
        """Return an output in memory that nothing here keeps."""
        return value.clone() if isinstance(value, Tensor) and _memory_of(value) in self._held else value


def key_of(number: int, operation: Operation, counts: tuple[Count, ...], place: Place | None) -> Hashable:
    """Return what a value depends on."""
    return (number, place if operation.of_input else None, *(counts[group] for group in operation.groups))


def _memory_of(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
