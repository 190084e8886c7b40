"""Forward passes that look up what earlier ones have computed."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from torch import Tensor

from optuna_softprune.evaluation._pass import Pass, key_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from optuna_softprune.evaluation._candidate import Candidate
    from optuna_softprune.evaluation._inputs import Place
    from optuna_softprune.evaluation._memory import Memory
    from optuna_softprune.evaluation._program import Program
    from optuna_softprune.evaluation._sums import Sum
    from optuna_softprune.graph import Network

# Candidates in a row that had nothing in common with others, after which none is remembered for a while.
BARREN = 16
# Keys of the last candidates: a few dozen of them.
RECENT = 512


class Sharing:
    """Runs passes of candidates of one network.

    Args:
        network: Its groups.
        program: What a pass computes.
        weights: Qualified name -> parameter or buffer of the dense network.
        memory: Where values and weights are kept.

    Attributes:
        program: The program.
    """

    def __init__(self, network: Network, program: Program, weights: Mapping[str, Tensor], memory: Memory) -> None:
        self.program = program
        self._network, self._memory = network, memory
        self._weights = {number: weights[name] for number, (name, _) in program.weights.items()}
        kernels = {number: taps.of(self._weights[number]) for number, taps in program.taps.items()}
        fit = memory.reserve(sum(kernel.nbytes for kernel in kernels.values()))
        self._small = {**self._weights, **kernels} if kernels and fit else None
        self._barren = 0
        self._recent: deque[Hashable] = deque(maxlen=RECENT)
        self._lock = threading.Lock()

    def is_promising(self, candidate: Candidate, place: Place) -> bool:
        """Whether the passes of a candidate may have something in common with those of others.

        Not if many candidates in a row had nothing, and this one has nothing in common with them: a search that jumps
        about pays neither for comparing inputs nor for remembering values.
        """
        shared = [(n, each) for n, each in self.program.operations.items() if each.shared and each.of_input]
        keys = [key_of(number, operation, candidate.counts, place) for number, operation in shared]
        with self._lock:
            self._barren = 0 if any(key in self._recent for key in keys) else self._barren + 1
            self._recent.extend(keys)
            return self._barren <= BARREN

    def run(
        self,
        candidate: Candidate,
        flat: Sequence[Any],
        place: Place | None,
        sums: Mapping[int, Sum],
        *,
        exact: bool = False,
        remember: bool = False,
    ) -> list[Any]:
        """Return the flat outputs of a pass.

        Args:
            candidate: For which candidate.
            flat: The flat inputs.
            place: Where these inputs are remembered; None: nowhere.
            sums: Number -> sum of an operation that is made in parts.
            exact: Whether operations compute in the precision of their operands.
            remember: Whether values and weights are looked up and remembered.
        """
        small = self._small if _have_sizes(flat, self.program.example) else None
        weights, memory = small or self._weights, self._memory if remember else None
        this = Pass(
            self._network, self.program, weights, memory, flat, place, sums, small=small is not None, exact=exact
        )
        outputs = this.run(candidate)
        if this.found_something:
            self._barren = 0
        return outputs


def _have_sizes(flat: Sequence[Any], example: Sequence[Any]) -> bool:
    """Whether inputs have the example's shapes but for the batch."""
    pairs = [(given, other) for given, other in zip(flat, example, strict=True) if isinstance(given, Tensor)]
    return all(given.shape[1:] == other.shape[1:] for given, other in pairs)
