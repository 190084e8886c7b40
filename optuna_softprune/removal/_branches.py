"""Lines of code that decide by comparing widths: no candidate may decide otherwise than the dense network.

The evaluation runs the exported graph, in which every decision is the dense network's. Whether a candidate decides
otherwise is computed, from how the compared widths follow the units kept; no network runs for it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from optuna_softprune.removal._findings import Findings
    from optuna_softprune.removal._widths import Branch, IntArray

# Up to here all combinations of widths are looked at, beyond so many random ones.
COMBINATIONS = 2**18
# So many ways in which comparisons of the same widths turn together are tried.
MOST_WAYS = 16


def keep_branches(
    branches: Iterable[Branch], findings: Findings, harm: Callable[[dict[int, int], Findings], str]
) -> bool:
    """Couple groups, or let them keep more units, so that no line decides otherwise where that does harm.

    Args:
        branches: The comparisons of widths in the forward pass.
        findings: What is known of the groups.
        harm: (leader -> units kept) -> what is wrong with that candidate; empty if nothing is.

    Returns:
        Whether anything was found.
    """
    changed = False
    branches = list(branches)
    for kept, turning in _otherwise(branches, findings):
        turning = [branch for branch in turning if len(_flips(branch, findings))]
        if turning and (problem := harm(kept, findings)):
            changed = True
            for branch in turning:
                _settle(branch, findings, f"at {branch.line} the forward pass decides by this width ({problem})")
    return changed


def _otherwise(branches: Sequence[Branch], findings: Findings) -> list[tuple[dict[int, int], list[Branch]]]:
    """Return candidates (leader -> units kept) that decide otherwise, and the comparisons that turn in each.

    Comparisons of the same widths may undo each other (equal, or else less): of each way in which they turn together
    there are the candidates that remove least and most. One does for those of the same lines and other groups.
    """
    found: list[tuple[dict[int, int], list[Branch]]] = []
    seen: set[bytes] = set()
    compared = [tuple(findings.led(branch.holds.groups)) for branch in branches]
    for leaders in filter(None, dict.fromkeys(compared)):
        own = [branch for branch, some in zip(branches, compared, strict=True) if set(some) <= set(leaders)]
        candidates = _candidates(list(leaders), findings)
        turns = np.stack([_at(branch, candidates) != _dense(branch, findings) for branch in own], axis=1)
        nearest = np.argsort(-candidates.sum(1), kind="stable")
        ends = []
        for ordered in (nearest, nearest[::-1]):
            _, first = np.unique(turns[ordered], axis=0, return_index=True)
            ends += ordered[np.sort(first)[:MOST_WAYS]].tolist()
        for candidate in ends:
            turning = [branch for branch, turned in zip(own, turns[candidate], strict=True) if turned]
            if not turning or (key := candidates[candidate].tobytes()) in seen:
                continue
            seen.add(key)
            kept = dict(zip(leaders, candidates[candidate, list(leaders)].tolist(), strict=True))
            lines = {branch.line for branch in turning}
            for other, together in found:
                if not other.keys() & kept.keys() and {branch.line for branch in together} == lines:
                    other.update(kept)
                    together.extend(turning)
                    break
            else:
                found.append((kept, turning))
    return found


def _settle(branch: Branch, findings: Findings, reason: str) -> None:
    """Take from the candidates, at the least cost, those for which the branch is another."""
    while len(flips := _flips(branch, findings)):
        leaders = findings.led(branch.holds.groups)
        if branch.equality and len(leaders) == 2 and len(set(findings.sizes[leaders].tolist())) == 1:
            equal = _dense(branch, findings) == _at(branch, flips[:1] * 0 + findings.sizes)
            alike = flips.copy()
            alike[:, findings.members([leaders[1]])] = alike[:, [leaders[0]]]
            if equal and (_at(branch, alike) == _dense(branch, findings)).all():
                findings.tie(leaders)
                continue
        costs = {}
        for leader in leaders:
            levels = findings.levels(leader)
            above = levels[levels > flips[:, leader].max()]
            if len(above):
                costs[leader] = (1 - len(above) / len(levels), int(above[0]))
        if costs:
            leader = min(costs, key=lambda each: costs[each][0])
            findings.bound(leader, costs[leader][1], reason)
        else:
            findings.protect(min(leaders, key=lambda each: int(findings.sizes[each])), reason)


def _flips(branch: Branch, findings: Findings) -> IntArray:
    """Return units kept (candidates, groups) for which the branch is another than in the dense network."""
    leaders = findings.led(branch.holds.groups)
    if not leaders:
        return np.zeros((0, len(findings.sizes)), np.int64)
    kept = _candidates(leaders, findings)
    flips: IntArray = kept[_at(branch, kept) != _dense(branch, findings)]
    return flips


def _dense(branch: Branch, findings: Findings) -> bool:
    return bool(_at(branch, findings.sizes[None])[0])


def _at(branch: Branch, kept: IntArray) -> NDArray[np.bool_]:
    with np.errstate(divide="ignore", invalid="ignore"):
        holds: NDArray[np.bool_] = np.broadcast_to(np.asarray(branch.holds.at(kept), bool), len(kept))
    return holds


def _candidates(leaders: list[int], findings: Findings) -> IntArray:
    """Return units kept (candidates, groups) in which some groups vary: all combinations, or many."""
    levels = [findings.levels(leader) for leader in leaders]
    if np.prod([float(len(each)) for each in levels]) <= COMBINATIONS:
        varied = np.array(list(itertools.product(*levels)), np.int64)
    else:
        random = np.random.default_rng(0)
        varied = np.stack([random.choice(each, COMBINATIONS) for each in levels], axis=1)
        common = np.unique(np.concatenate(levels))
        nearest = [each[np.searchsorted(each, common).clip(max=len(each) - 1)] for each in levels]
        varied = np.concatenate([varied, np.stack(nearest, axis=1)])  # widths that are equal
    kept = np.repeat(findings.sizes[None], len(varied), axis=0)
    for leader, column in zip(leaders, varied.T, strict=True):
        kept[:, findings.members([leader])] = column[:, None]
    return kept
