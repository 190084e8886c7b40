"""Forward passes that look up what earlier ones have computed."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from optuna_softprune.evaluation._sizes import Sizes
from optuna_softprune.removal import Kept, smaller

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from optuna_softprune.evaluation._inputs import Place
    from optuna_softprune.evaluation._memory import Memory
    from optuna_softprune.evaluation._program import Operation, Program
    from optuna_softprune.graph import Network

# Candidates in a row that had nothing in common with others, after which none is remembered for a while.
BARREN = 16
# Keys of the last candidates: a few dozen of them.
RECENT = 512


class Candidate(NamedTuple):
    """Units kept: of each group how many, and of all units which."""

    counts: tuple[int, ...]
    kept: Kept


class Sharing:
    """Runs passes of candidates of one network.

    Args:
        network: Its groups.
        weights: Qualified name -> parameter or buffer of the dense network.
        memory: Where values and weights are kept.
    """

    def __init__(self, network: Network, weights: Mapping[str, Tensor], memory: Memory) -> None:
        self._network, self._weights, self._memory = network, weights, memory
        self._barren = 0
        self._recent: deque[Hashable] = deque(maxlen=RECENT)
        self._lock = threading.Lock()

    def is_promising(self, program: Program, candidate: Candidate, place: Place) -> bool:
        """Whether the passes of a candidate may have something in common with those of others.

        Not if many candidates in a row had nothing, and this one has nothing in common with them: a search that jumps
        about pays neither for comparing inputs nor for remembering values.
        """
        operations = program.operations.items()
        keys = [_key(number, each, candidate, place) for number, each in operations if each.shared and each.of_input]
        with self._lock:
            self._barren = 0 if any(key in self._recent for key in keys) else self._barren + 1
            self._recent.extend(keys)
            return self._barren <= BARREN

    def run(
        self,
        program: Program,
        candidate: Candidate,
        flat: Sequence[Any],
        place: Place | None,
        *,
        may_write: bool = False,
        remember: bool = False,
    ) -> list[Any]:
        """Return the flat outputs of a pass.

        Args:
            program: What is computed.
            candidate: For which candidate.
            flat: The flat inputs.
            place: Where these inputs are remembered; None: nowhere.
            may_write: Whether operations may write into operands that nobody needs any more.
            remember: Whether values and weights are looked up and remembered.
        """
        values: list[Any] = [None] * program.length
        for number, given in zip(program.inputs, flat, strict=True):
            values[number] = given
        batch = next((each.shape[0] for each in flat if isinstance(each, Tensor) and each.dim()), 1)
        sizes = Sizes(candidate.kept, batch, program.batch, may_write)
        own = {each.untyped_storage().data_ptr() for each in flat if isinstance(each, Tensor)}
        held: set[int] = set()

        def key_of(number: int) -> Hashable:
            """Return under what a value is remembered, or None if it is not."""
            operation = program.operations[number]
            if not remember or not operation.shared or (place is None and operation.of_input):
                return None
            return _key(number, operation, candidate, place)

        found_something = False
        missing: dict[int, Hashable] = {}  # operation to be done -> under what its value is remembered
        stack = [each for each in program.outputs if isinstance(each, int)]
        while stack:
            number = stack.pop()
            if values[number] is not None or number in missing:
                continue
            if number in program.operations:
                key = key_of(number)
                if key is not None and (found := self._memory.get(key)) is not None:
                    values[number] = found
                    found_something |= program.operations[number].of_input
                    held.add(found.untyped_storage().data_ptr())
                else:
                    missing[number] = key
                    stack += program.operations[number].sources
            elif number in program.weights:
                values[number] = self._weight(program, candidate, number, remember)
                held.add(values[number].untyped_storage().data_ptr())
            elif number in program.constants:
                values[number] = program.constants[number]
                held.add(values[number].untyped_storage().data_ptr())
        if found_something:
            self._barren = 0
        for number, operation in program.operations.items():
            if number not in missing:
                continue
            value = values[number] = operation.run(values, sizes)
            key = missing[number]
            if key is not None and value.untyped_storage().data_ptr() not in own:
                self._memory.put(key, value)
                held.add(value.untyped_storage().data_ptr())
            for done in operation.done_with:
                values[done] = None
        return [
            _own(values[each], held) if isinstance(each, int) else each[0]  # no value, but a constant
            for each in program.outputs
        ]

    def _weight(self, program: Program, candidate: Candidate, number: int, remember: bool) -> Tensor:
        """Return what is kept of a parameter or buffer."""
        name, groups = program.weights[number]
        dense = self._weights[name]
        if not groups or not remember:
            return smaller(self._network, name, dense, candidate.kept)
        key = (name, *(candidate.counts[group] for group in groups))
        found = self._memory.get(key)
        if found is None:
            found = smaller(self._network, name, dense, candidate.kept)
            if found is not dense:
                self._memory.put(key, found)
        return found


def _key(number: int, operation: Operation, candidate: Candidate, place: Place | None) -> Hashable:
    """Return what a value depends on."""
    where = place if operation.of_input else None
    return (number, where, *(candidate.counts[group] for group in operation.groups))


def _own(value: Any, held: set[int]) -> Any:
    """Return an output in memory that nothing here keeps."""
    kept = isinstance(value, Tensor) and value.untyped_storage().data_ptr() in held
    return value.clone() if kept else value
