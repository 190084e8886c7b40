"""Groups whose sizes do not fit each other, or what the forward pass states: found on shapes, without data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna_softprune.graph import NotTraceableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna_softprune.removal._findings import Findings
    from optuna_softprune.removal._shapes import Pass, Shapes


def let_any_widths_fit(shapes: Shapes, findings: Findings) -> Pass | None:
    """Couple or protect groups until the forward pass runs at widths that have nothing in common.

    Where an operation fails, the groups whose widths it was given are tried alone. Those that fail alone and run
    together, at one width, must keep equally many units. Else the smallest submodule whose code does not run becomes
    its own graph, and where none can, the group is protected.

    Returns:
        The pass that runs, or None if no group was found that could be blamed.
    """
    said: dict[str, str] = {}
    useless: set[tuple[str, type]] = set()

    def run(leaders: Sequence[int]) -> Pass:
        return shapes.generic(findings.members(leaders), findings.leader)

    while (found := run(findings.leaders)).problem:
        failing = {group: run([group]) for group in findings.led(found.groups)}
        guilty = [group for group, alone in failing.items() if alone.problem]
        if not guilty:
            together = smallest_failing(findings.leaders, lambda leaders: bool(run(leaders).problem))
            if not together:
                return None
            guilty = together[-1:]
        tied = _tied(shapes, findings, guilty)
        if tied:
            findings.tie(tied)
            continue
        if _traced(shapes, found, lambda: run(findings.leaders), useless):
            continue
        place = found.problem.split("`: ")[0]
        if place not in said:
            said[place] = _in_candidate(shapes, findings, guilty[0]) or found.problem
            if found.line in shapes.refusals:
                said[place] += f"; {shapes.refusals[found.line]}"
        for group in guilty:
            findings.protect(group, said[place])
    return found


def _traced(shapes: Shapes, failed: Pass, run: Callable[[], Pass], useless: set[tuple[str, type]]) -> bool:
    """Let the smallest submodule around a failure run its own graph; return whether it then runs at such widths.

    Classes whose graph was `useless` against a failure at the same line come last: in a network of many blocks of one
    kind the first of them tells which.
    """

    def kind(path: str) -> tuple[str, type]:
        return failed.line, type(shapes.module(path))

    for path in sorted(reversed(failed.modules), key=lambda path: kind(path) in useless):
        if path in shapes.traced or shapes.is_torchs(path):
            continue
        try:
            undo = shapes.trace(path, failed.line)
        except NotTraceableError as refusal:
            shapes.refusals.setdefault(failed.line, str(refusal))
            continue
        if path not in run().modules:
            return True
        undo()
        useless.add(kind(path))
    return False


def _tied(shapes: Shapes, findings: Findings, guilty: Sequence[int]) -> list[int]:
    """Return the groups that have to keep as many units as `guilty` for the forward pass to run; empty if none do."""
    size = findings.sizes[guilty[0]]
    if any(findings.sizes[group] != size for group in guilty):
        return []

    def run(leaders: Sequence[int]) -> Pass:
        first = min(leaders)
        return shapes.generic(findings.members(leaders), [first] * len(findings.sizes))

    tied = list(guilty)
    while (found := run(tied)).problem:
        more = [g for g in findings.led(found.groups) if g not in tied and findings.sizes[g] == size]
        if not more:
            return []
        tied += more
    for group in [group for group in tied if group not in guilty]:
        without = [other for other in tied if other != group]
        if not run(without).problem:
            tied = without
    return tied if len(tied) > 1 else []


def _in_candidate(shapes: Shapes, findings: Findings, leader: int) -> str:
    """Return why a network fails that lacks as few units as it can, of this group only; empty if it does not fail."""
    levels = findings.levels(leader)
    return shapes.at(findings.widths({leader: int(levels[-2])})).problem if len(levels) > 1 else ""


def let_fewest_fit(shapes: Shapes, findings: Findings) -> bool:
    """Raise the fewest units of groups until the forward pass runs where every group keeps its fewest.

    Returns:
        Whether it runs; if not, no group was found that could be blamed.
    """

    def run(leaders: Sequence[int]) -> Pass:
        return shapes.at(findings.widths(findings.fewest(leaders)))

    def fails(leaders: Sequence[int]) -> bool:
        return bool(run(leaders).problem)

    while (found := run(findings.leaders)).problem:
        whole = shapes.generic(findings.free, findings.leader)
        given = whole.given(found.operations - 1) if 0 < found.operations <= whole.operations else frozenset()
        guilty = [group for group in findings.led(given) if fails([group])][:1]
        guilty = guilty or smallest_failing(findings.leaders, fails)
        if not guilty:
            return False
        *others, group = guilty
        levels = findings.levels(group).tolist()
        low, high = 0, len(levels) - 1  # fails at levels[low]; all units are those of the dense network
        while high - low > 1:
            middle = (low + high) // 2
            kept = {**findings.fewest(others), group: levels[middle]}
            low, high = (middle, high) if shapes.at(findings.widths(kept)).problem else (low, middle)
        findings.bound(group, levels[high], run(guilty).problem)
    return True


def smallest_failing(groups: Sequence[int], fails: Callable[[Sequence[int]], bool]) -> list[int]:
    """Return groups that fail together, none of which can be left out; empty if all of them together do not fail."""
    found: list[int] = []
    rest = list(groups)
    if not fails(rest):
        return []
    while not fails(found):
        low, high = 0, len(rest)  # with rest[:high] it fails, with rest[:low] it does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if fails([*found, *rest[:middle]]) else (middle, high)
        found.append(rest[high - 1])
        rest = rest[: high - 1]
    return found
