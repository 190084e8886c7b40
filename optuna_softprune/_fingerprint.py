"""What a study must agree with to belong to a search space."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

from optuna_softprune.graph import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn

    from optuna_softprune.coefficients import Lattice
    from optuna_softprune.graph import Group


def fingerprint(
    model: nn.Module, groups: Sequence[Group], lattice: Lattice, counts: Mapping[str, int], settings: Mapping[str, str]
) -> dict[str, Any]:
    """Return what makes a search space the one that a study belongs to, as JSON; each value is below 60 kB.

    They are compared in this order, what follows from others last.

    Args:
        model: The dense network.
        groups: Its groups.
        lattice: Their coefficients.
        counts: Parameters and multiply-accumulates of the dense network.
        settings: How units are ranked and weights refitted, as text.
    """
    return {
        "groups": _brief({group.name: group.size for group in groups}),
        "components": _brief(sorted({name for group in groups for name in group.components})),
        "weights": digest(model),
        "counts": dict(counts),
        **{name: _without_addresses(text) for name, text in settings.items()},
        "widths": _brief([int(levels[-1]) for levels in lattice.levels]),
    }


def _brief(value: Any) -> Any:
    """Return `value`, or what identifies it where it is too long for a study's attribute."""
    text = json.dumps(value)
    return value if len(text) < 50_000 else f"sha256 {hashlib.sha256(text.encode()).hexdigest()}"


def _without_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
