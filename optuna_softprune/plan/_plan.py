"""What was removed from a dense network, and how that is written as JSON.

Schema 1:

| key | value |
| --- | --- |
| `schema` | 1 |
| `versions` | package -> version that made it |
| `model` | class of the network |
| `modules` | path -> `class`, `constants` and `plain`, as in `ModuleRecord` |
| `tensors` | parameter or buffer -> `shape` in the dense network, and `kept`: axis -> place in `indices` |
| `indices` | lists of kept indices, ascending |
| `attributes` | `[module, attribute, index in a tuple or null, dense value, value]` of sizes that modules state |
| `groups` | group -> `[units, units kept]` |
| `traced` | path -> the graph that a submodule runs, as in `program/_written.py` |
| `study` | what is known of the trial: names, metrics, target; or null |
"""

from __future__ import annotations

import html
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna_softprune._table import aligned, html_table

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = 1
Place = tuple[str, str, int | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What is kept of a parameter or buffer.

    Attributes:
        shape: Its shape in the dense network.
        kept: Axis -> kept indices, ascending; axes that are whole are not there.
    """

    shape: tuple[int, ...]
    kept: Mapping[int, tuple[int, ...]]

    @property
    def small_shape(self) -> tuple[int, ...]:
        """Its shape in the smaller network."""
        return tuple(len(self.kept[axis]) if axis in self.kept else n for axis, n in enumerate(self.shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleRecord:
    """What must be equal in a module for its weights to fit.

    Attributes:
        kind: Name of its class; empty where it has children, since those may be renamed.
        constants: What its class declares to be constant (`stride`, `eps`, ...).
        plain: Other numbers, flags and texts, of classes that are not torch's: settings, or mere bookkeeping.
    """

    kind: str
    constants: Mapping[str, Any]
    plain: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was removed from a dense network to give a smaller one; `print` it.

    Attributes:
        model: Name of the network's class.
        modules: Path -> what must be equal in it.
        tensors: Name of each parameter and buffer (the first of its names) -> what is kept of it.
        attributes: (module, attribute, index in a tuple or None) -> its value in the dense and in the smaller network.
        groups: Group -> its units in the dense and in the smaller network.
        traced: Path -> the graph that a submodule runs in place of its own code.
        versions: Package -> version that the plan was made with.
        study: What is known of the trial: `name`, `trial`, `metrics`, `dense`, ...; empty without one.
    """

    model: str
    modules: Mapping[str, ModuleRecord] = field(repr=False)
    tensors: Mapping[str, Cut] = field(repr=False)
    attributes: Mapping[Place, tuple[int, int]] = field(repr=False)
    groups: Mapping[str, tuple[int, int]]
    traced: Mapping[str, dict[str, Any]] = field(repr=False)
    versions: Mapping[str, str] = field(repr=False)
    study: Mapping[str, Any]

    @property
    def coefficients(self) -> dict[str, float]:
        """Group -> the fraction of its units that was removed."""
        return {name: 1 - kept / units for name, (units, kept) in self.groups.items()}

    def _title(self) -> str:
        dense = sum(math.prod(cut.shape) for cut in self.tensors.values())
        small = sum(math.prod(cut.small_shape) for cut in self.tensors.values())
        return (
            f"{_shown(self.model)}: {small:,} of {dense:,} numbers kept, in {len(self.tensors)} parameters and buffers"
        )

    def _table(self) -> list[tuple[str, ...]]:
        rows = [
            (_shown(name), f"{kept:,} of {units:,}", f"{self.coefficients[name]:.3f}")
            for name, (units, kept) in self.groups.items()
        ]
        return [("group", "units kept", "removed"), *rows]

    def _origin(self) -> list[str]:
        traced = ", ".join(map(_shown, self.traced))
        made = ", ".join(f"{_shown(package)} {_shown(version)}" for package, version in self.versions.items())
        known = [f"{_shown(key)}: {json.dumps(value)}" for key, value in self.study.items()]
        return [*([f"runs its own graph: {traced}"] if traced else []), *known, f"made with {made}"]

    def __str__(self) -> str:
        """Return the groups as a table, and where the network comes from."""
        return "\n".join([self._title(), *aligned(self._table(), "<>>"), *self._origin()])

    def _repr_html_(self) -> str:
        """Return the same for a notebook."""
        origin = "<br>".join(map(html.escape, self._origin()))
        return f"<p>{html.escape(self._title())}</p>{html_table(self._table())}<p>{origin}</p>"

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain values that are JSON."""
        numbers: dict[tuple[int, ...], int] = {}
        cuts = {
            name: {
                "shape": list(cut.shape),
                "kept": {str(axis): numbers.setdefault(kept, len(numbers)) for axis, kept in cut.kept.items()},
            }
            for name, cut in self.tensors.items()
        }
        return {
            "schema": SCHEMA,
            "versions": dict(self.versions),
            "model": self.model,
            "modules": {
                path: {"class": each.kind, "constants": dict(each.constants), "plain": dict(each.plain)}
                for path, each in self.modules.items()
            },
            "tensors": cuts,
            "indices": [list(kept) for kept in numbers],
            "attributes": [[*place, *values] for place, values in self.attributes.items()],
            "groups": {name: list(units) for name, units in self.groups.items()},
            "traced": dict(self.traced),
            "study": dict(self.study) or None,
        }

    def text(self) -> str:
        """Return the plan as JSON."""
        return json.dumps(self.to_dict(), separators=(",", ":"))


def _shown(name: str) -> str:
    """Return a name from a file that anybody may have written, fit for a terminal."""
    return name if name.isprintable() else ascii(name)
