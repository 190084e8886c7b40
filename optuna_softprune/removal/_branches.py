"""Lines of code that decide by comparing widths: no candidate may decide otherwise than the dense network.

The evaluation runs the exported graph, in which every decision is the dense network's. Whether a candidate decides
otherwise is computed, from how the compared widths follow the units kept; no network runs for it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from optuna_softprune.removal._findings import Findings
    from optuna_softprune.removal._widths import Branch, IntArray

# Up to here all combinations of widths are looked at, beyond so many random ones.
COMBINATIONS = 2**18


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
    by_line: dict[str, list[Branch]] = {}
    for branch in branches:
        by_line.setdefault(branch.line, []).append(branch)
    for line, own in by_line.items():
        # Candidates that decide otherwise, each with the comparisons that turn in it: those of groups apart, at once.
        otherwise: list[tuple[dict[int, int], list[Branch]]] = []
        for branch in own:
            flips = _flips(branch, findings)
            if not len(flips):
                continue
            leaders = findings.led(branch.holds.groups)
            turned = dict(zip(leaders, flips[flips.sum(1).argmax()][leaders].tolist(), strict=True))
            kept, turning = next((each for each in otherwise if not each[0].keys() & turned.keys()), ({}, []))
            if not kept:
                otherwise.append((kept, turning))
            kept.update(turned)
            turning.append(branch)
        for kept, turning in otherwise:
            if not all(len(_flips(branch, findings)) for branch in turning) or not (problem := harm(kept, findings)):
                continue
            changed = True
            for branch in turning:
                _settle(branch, findings, f"at {line} the forward pass decides by this width ({problem})")
    return changed


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
    kept = candidates(leaders, findings)
    flips: IntArray = kept[_at(branch, kept) != _dense(branch, findings)]
    return flips


def _dense(branch: Branch, findings: Findings) -> bool:
    return bool(_at(branch, findings.sizes[None])[0])


def _at(branch: Branch, kept: IntArray) -> NDArray[np.bool_]:
    with np.errstate(divide="ignore", invalid="ignore"):
        holds: NDArray[np.bool_] = np.broadcast_to(np.asarray(branch.holds.at(kept), bool), len(kept))
    return holds


def candidates(leaders: list[int], findings: Findings) -> IntArray:
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
