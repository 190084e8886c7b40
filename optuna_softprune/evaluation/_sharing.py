"""Forward passes that look up what earlier ones have computed."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from optuna_softprune.evaluation._inputs import Place
from optuna_softprune.evaluation._pass import Pass, key_of, weight_key

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from torch import Tensor

    from optuna_softprune.evaluation._candidate import Candidate
    from optuna_softprune.evaluation._memory import Memory
    from optuna_softprune.evaluation._shareable import Shareable
    from optuna_softprune.reconstruction import Solutions, Statistics, Weights

# Candidates in a row that had nothing in common with others, after which none is remembered for a while.
BARREN = 16
# Keys of the last candidates: a few dozen of them.
RECENT = 512


class Sharing:
    """Runs passes of candidates of one network.

    Args:
        program: What a pass computes.
        weights: What gives a candidate its weights.
        dense: Qualified name -> parameter or buffer of the dense network.
        memory: Where values and weights are kept.

    Attributes:
        program: The program.
    """

    def __init__(self, program: Shareable, weights: Weights, dense: Mapping[str, Tensor], memory: Memory) -> None:
        self.program = program
        self._weights, self._memory = weights, memory
        self._dense = {number: dense[name] for number, (name, _) in program.weights.items()}
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
        known: Solutions,
        *,
        exact: bool = False,
        remember: bool = False,
    ) -> list[Any]:
        """Return the flat outputs of a pass.

        Args:
            candidate: For which candidate.
            flat: The flat inputs.
            place: Where these inputs are remembered; None: nowhere.
            known: What is known of the candidate's weights.
            exact: Whether operations compute in the precision of their operands.
            remember: Whether values and weights are looked up and remembered.
        """
        memory = self._memory if remember else None
        this = Pass(self.program, self._weights, self._dense, memory, flat, place, exact=exact)
        outputs = this.run(candidate, known)
        if this.found_something:
            self._barren = 0
        return outputs

    def measure(
        self,
        candidate: Candidate,
        statistics: Sequence[Statistics],
        batches: Sequence[Sequence[Any]],
        known: Solutions,
        *,
        remember: bool,
    ) -> None:
        """Measure statistics of a candidate's batch norms, as far as they are not remembered.

        Args:
            candidate: The candidate.
            statistics: What is measured.
            batches: Flat inputs to measure it on.
            known: What is known of the candidate's weights; they are added to it.
            remember: Whether values and weights are looked up and remembered.
        """
        memory, weights = self._memory if remember else None, self.program.weights
        places = {
            name: (number, weight_key(number, groups, candidate.counts)) for number, (name, groups) in weights.items()
        }
        unknown = []
        for each in statistics:
            names = (each.mean, each.variance)
            found = {name: memory.get(places[name][1]) for name in names} if memory is not None else {}
            remembered = {name: tensor for name, tensor in found.items() if tensor is not None}
            known.own.update(remembered)
            if len(remembered) < len(names):
                unknown.append(each)
        if not unknown:
            return
        pooled = {places[each.mean][0]: each.pooled(candidate.kept) for each in statistics}
        norms = {number: pooled[mean] for number, (mean, _) in self.program.norms.items() if mean in pooled}
        means = {places[each.mean][0] for each in unknown}
        targets = [number for number in norms if self.program.norms[number][0] in means]
        for i, flat in enumerate(batches):
            place = Place(-1 - i, None)
            this = Pass(self.program, self._weights, self._dense, memory, flat, place, exact=True)
            this.measure(candidate, known, norms, targets)
        for each in unknown:
            for name, value in zip((each.mean, each.variance), pooled[places[each.mean][0]].moments(), strict=True):
                known.own[name] = value.to(self._dense[places[name][0]].dtype)
                if memory is not None:
                    memory.put(places[name][1], known.own[name])
