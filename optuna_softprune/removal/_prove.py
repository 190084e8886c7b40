"""Removed = masked, for every candidate: what has to be coupled, bounded or protected for it.

Sizes are proven on shapes alone (`_fit`), decisions by widths by arithmetic (`_branches`). What is left is values: the
removed network against the masked one where groups keep different numbers of units, where they keep equally many,
where they keep the fewest, and where what is normalised over few units hides nothing (`_draws`).
"""

from __future__ import annotations

import contextlib
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from optuna_softprune._errors import ExportError, VerificationWarning
from optuna_softprune.coefficients import mac_count
from optuna_softprune.graph import Bound, first_line, normalised_groups, user_line
from optuna_softprune.program import follows_units
from optuna_softprune.removal._branches import keep_branches
from optuna_softprune.removal._draws import all_levels, allowed, draws, random_units
from optuna_softprune.removal._findings import Findings
from optuna_softprune.removal._fit import let_any_widths_fit, let_fewest_fit
from optuna_softprune.removal._shapes import Shapes
from optuna_softprune.removal._verify import LEAST_RESPONSE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from optuna_softprune.graph import Group, Kept, Network
    from optuna_softprune.removal._findings import Levels
    from optuna_softprune.removal._verify import Comparison, Verifier

    # Line of code -> names of the groups whose width it makes a number of.
    Uses = Mapping[str, frozenset[str]]


FAILS = "the removed network fails"
# Numbers in 16 bytes in half precision: some operations take only rows that are a multiple (grouped matrix products).
ROW = 8
# On so many inputs a candidate is compared that runs other operations than the dense network.
DRAWS = 3


def prove(verifier: Verifier, network: Network, levels: Levels = all_levels) -> Network:
    """Return the network in which every candidate, removed, is what it is masked.

    Groups that must keep equally many units are joined, those that must keep several say how many, and a group that
    makes the removed network fail, or another than the masked one, is protected with the reason.

    Args:
        verifier: The dense network and its example.
        network: The groups that discovery found.
        levels: Units of a group -> how many of them a candidate may keep, ascending, all of them last.

    Raises:
        ExportError: If the graph computes something else than the network with nothing removed.
    """
    if not network.groups:
        return network
    shapes = None
    # A network may need values, or operations that have no form without; values alone then tell.
    with contextlib.suppress(Exception):
        shapes = Shapes(verifier.model, verifier.args, verifier.kwargs, network)
    if shapes is None:
        return _with_equal_values(verifier, network, levels, {})
    findings, uses = _fitting(verifier, shapes, levels)
    proven = _with_equal_values(verifier, findings.applied(), levels, uses)
    needed = {path: part for path, part in proven.traced.items() if follows_units(proven, part)}
    return replace(proven, traced=needed)


def _fitting(verifier: Verifier, shapes: Shapes, levels: Levels) -> tuple[Findings, Uses]:
    """Return what sizes alone demand, and the lines that make numbers of widths."""
    network = shapes.network
    names = [group.name for group in network.groups]
    findings = Findings(network, levels)

    def harm(kept: dict[int, int], found: Findings) -> str:
        widths = found.widths(kept)
        there = shapes.at(widths)
        if there.problem:
            return there.problem
        chosen = random_units(network, dict(zip(names, widths.tolist(), strict=True)))
        # Other operations may be another way to the same (torch's own fast paths); what hides it on one input seldom
        # does on more.
        for draw in range(1 if there.alike else DRAWS):
            if problem := _problem(verifier, network, chosen, draw):
                return problem
        return _other_operations(verifier, network, chosen)

    uses: Uses = {}
    while (fits := let_any_widths_fit(shapes, findings)) and let_fewest_fit(shapes, findings):
        notes = fits.notes
        uses = {line: frozenset(names[each] for each in groups) for line, groups in notes.uses.items()}
        if not keep_branches(notes.branches.values(), findings, harm):
            break
    findings.traced = shapes.traced
    return findings, uses


def _with_equal_values(verifier: Verifier, network: Network, levels: Levels, uses: Uses) -> Network:
    """Return the network with every group protected that, removed, is not what it is masked.

    All groups are tried together. If that fails, those are blamed whose width becomes a number at some line; only what
    that does not explain is bisected: a part is accepted if it works together with what was accepted before.
    """
    accepted: list[Group] = []
    reasons: dict[str, str] = {}
    normalised = {network.groups[i].name for i in normalised_groups(network)}
    hidden = not _all_reaches_an_output(network)

    def failure_of(groups: Sequence[Group]) -> str:
        """Return what goes wrong when units of `groups` are removed, or an empty string."""
        for draw, kept in enumerate(draws(groups, levels, normalised)):
            chosen = random_units(network, kept)
            if problem := _problem(verifier, network, chosen, draw):
                return problem
            if hidden and (problem := _other_operations(verifier, network, chosen)):
                return problem
        return ""

    def accept(groups: Sequence[Group], line: str = "") -> None:
        if not groups:
            return
        failure = failure_of([*accepted, *groups])
        if not failure:
            accepted.extend(groups)
        elif len(groups) == 1 and (aligned := _in_whole_rows(groups[0], failure, levels)):
            if other := failure_of([*accepted, aligned]):
                reasons[aligned.name] = other
            else:
                accepted.append(aligned)
        elif line:
            reason = f"at {line} the forward pass makes a number of this width ({failure.partition(':')[0]})"
            reasons.update((group.name, reason) for group in groups)
        elif len(groups) == 1:
            reasons.update((group.name, failure) for group in groups)
        else:
            middle = len(groups) // 2
            accept(groups[:middle])
            accept(groups[middle:])

    if network.groups and failure_of(network.groups):
        _expect_dense_network_to_agree(verifier, network)
        used = frozenset().union(*uses.values())
        accept([group for group in network.groups if group.name not in used])
        for line, names in uses.items():
            known = {*reasons, *(group.name for group in accepted)}
            accept([group for group in network.groups if group.name in names - known], line)
    bounds = {group.name: Bound(group.least, group.multiple, group.why_bounded) for group in accepted}
    return network.bounded(bounds).without(reasons)


def _in_whole_rows(group: Group, failure: str, levels: Levels) -> Group | None:
    """Return a group that does not run at any number of units so that it keeps a multiple of `ROW`, if it can."""
    if group.multiple > 1 or not failure.startswith(FAILS):
        return None
    aligned = replace(group, multiple=ROW, why_bounded=failure)
    return aligned if len(allowed(aligned, levels)) > 1 else None


def _problem(verifier: Verifier, network: Network, kept: Kept, draw: int = 0) -> str:
    """Return in what the removed network is not the masked one, or an empty string."""
    try:
        comparison = verifier.compare(network, kept, draw)
    except Exception as failure:
        line = user_line(failure)
        return f"{FAILS}{f' at {line}' if line else ''}: {first_line(failure)}"
    if not comparison.error <= verifier.tolerance(network):
        return (
            f"the removed network is not the masked one (relative error {comparison.error:.1g}): "
            "a size or a position is fixed in the forward pass"
        )
    if draw == 0:
        _warn_of_little_response(verifier, network, comparison)
    return ""


def _other_operations(verifier: Verifier, network: Network, kept: Kept) -> str:
    """Return that the removed network runs other operations than the graph, or an empty string; values do not tell all.

    Multiply-accumulates tell, where torch counts those of the dense network as the graph's.
    """
    formula, firsts = mac_count(network), [group.first_unit for group in network.groups]

    def counted(kept: Kept) -> tuple[int, int]:
        return verifier.macs(network, kept), int(formula(np.add.reduceat(kept, firsts, dtype=np.int64)))

    with contextlib.suppress(Exception):  # some networks cannot be counted
        found, expected = counted(kept)
        if found != expected:
            dense, expected_dense = counted(np.ones(network.units, bool))
            if dense == expected_dense:
                return f"it runs {found:,} multiply-accumulates instead of {expected:,}"
    return ""


def _all_reaches_an_output(network: Network) -> bool:
    """Whether every contraction has to do with an output: values tell nothing of others."""
    reaching = {node for node in network.exported.graph.nodes if node.op == "output"}
    for node in reversed(network.exported.graph.nodes):
        if node in reaching:
            reaching.update(node.all_input_nodes)
    return network.macs.keys() <= reaching


def _warn_of_little_response(verifier: Verifier, network: Network, comparison: Comparison) -> None:
    response = comparison.response
    if response < LEAST_RESPONSE:  # of a random half; the dense network tells whether that is the network's way
        response = verifier.compare(network, np.ones(network.units, bool)).response
    if response < LEAST_RESPONSE:
        warnings.warn(
            "The output hardly moves with the input, so it could hardly be tested that removing units equals masking "
            f"them (it moves by {response:.1g} of its size): give trained weights, and example inputs like real ones.",
            VerificationWarning,
            stacklevel=2,
        )


def _expect_dense_network_to_agree(verifier: Verifier, network: Network) -> None:
    problem = _problem(verifier, network, np.ones(network.units, bool), draw=1)
    if problem:
        raise ExportError(
            "Expected the exported graph to compute what the network computes, but with nothing removed "
            f"{problem}. Randomness, state or a branch on Python values in the forward pass is fixed by "
            "`torch.export`: take it out of the network that is pruned."
        )
