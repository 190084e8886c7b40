"""Read a plan that anybody may have written."""

from __future__ import annotations

import itertools
import json
import reprlib
from typing import TYPE_CHECKING, Any, NoReturn

from optuna_softprune._errors import PrunedFileError
from optuna_softprune.plan._plan import SCHEMA, Cut, ModuleRecord, Place, Plan
from optuna_softprune.program import read

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS = {"schema", "versions", "model", "modules", "tensors", "indices", "attributes", "groups", "traced", "study"}
# An axis or an attribute is never longer: what is stated beyond it is no size.
LARGEST = 2**40


def parsed(text: str) -> Plan:
    """Return the plan that is written in `text`.

    Raises:
        PrunedFileError: If it is no plan of this schema; the message names the first place that is wrong.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PrunedFileError(f"Expected a plan in JSON, but it cannot be read: {error}.") from None
    if not isinstance(content, dict):
        _refuse("the plan", "a mapping", content)
    schema = content.get("schema")
    if schema != SCHEMA or type(schema) is not int:
        raise PrunedFileError(
            f"Expected a plan of schema {SCHEMA}, but got schema {_short(schema)}: another version of "
            "`optuna_softprune` wrote it; install a newer one."
        )
    if set(content) != KEYS:
        odd = sorted(set(content) ^ KEYS, key=str)[0]
        raise PrunedFileError(
            f"Expected a plan with the keys {sorted(KEYS)}, but {_short(odd)} is one too few or many."
        )
    indices = [_indices(f"indices[{i}]", each) for i, each in enumerate(_list("indices", content["indices"]))]
    modules = {path: _module(path, each) for path, each in _mapping("modules", content["modules"]).items()}
    return Plan(
        model=_text("model", content["model"]),
        modules=modules,
        tensors={name: _cut(name, each, indices) for name, each in _mapping("tensors", content["tensors"]).items()},
        attributes=dict(_attribute(each, modules) for each in _list("attributes", content["attributes"])),
        groups={name: _units(name, each) for name, each in _mapping("groups", content["groups"]).items()},
        traced={path: _traced(path, each, modules) for path, each in _mapping("traced", content["traced"]).items()},
        versions={name: _text("versions", each) for name, each in _mapping("versions", content["versions"]).items()},
        study=_mapping("study", content["study"] if content["study"] is not None else {}),
    )


def _module(path: str, value: Any) -> ModuleRecord:
    record = _mapping(f"modules[{path!r}]", value)
    if set(record) != {"class", "constants", "plain"}:
        _refuse(f"modules[{path!r}]", "class, constants and plain", value)
    return ModuleRecord(
        kind=_text(f"modules[{path!r}]", record["class"]),
        constants=_mapping(f"modules[{path!r}]", record["constants"]),
        plain=_mapping(f"modules[{path!r}]", record["plain"]),
    )


def _cut(name: str, value: Any, indices: list[tuple[int, ...]]) -> Cut:
    where = f"tensors[{name!r}]"
    record = _mapping(where, value)
    if set(record) != {"shape", "kept"}:
        _refuse(where, "shape and kept", value)
    shape = tuple(_size(where, length) for length in _list(where, record["shape"]))
    kept = {}
    for axis, number in _mapping(where, record["kept"]).items():
        if axis not in map(str, range(len(shape))):
            _refuse(where, f"axes of shape {shape}", axis)
        if type(number) is not int or not 0 <= number < len(indices):
            _refuse(where, "a place in `indices`", number)
        found = indices[number]
        if found[-1] >= shape[int(axis)] or len(found) == shape[int(axis)]:
            _refuse(where, f"indices of a part of {shape[int(axis)]}", found[-1])
        kept[int(axis)] = found
    return Cut(shape=shape, kept=kept)


def _indices(where: str, value: Any) -> tuple[int, ...]:
    found = _list(where, value)
    if not found or any(type(each) is not int for each in found) or found[0] < 0:
        _refuse(where, "indices", value)
    if any(a >= b for a, b in itertools.pairwise(found)):
        _refuse(where, "ascending indices", value)
    return tuple(found)


def _attribute(value: Any, modules: Mapping[str, ModuleRecord]) -> tuple[Place, tuple[int, int]]:
    where = f"attribute {_short(value)}"
    record = _list("attributes", value)
    if len(record) != 5:
        _refuse("attributes", "module, attribute, index, dense value and value", value)
    module, name, index, dense, small = record
    if not isinstance(module, str) or module not in modules:
        _refuse(where, "a module of the network", module)
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("__"):
        _refuse(where, "the name of an attribute", name)
    if index is not None:
        _size(where, index)
    if not 0 < _size(where, small) < _size(where, dense):
        _refuse(where, "a smaller value than the dense network's", small)
    return (module, name, index), (dense, small)


def _traced(path: str, value: Any, modules: Mapping[str, ModuleRecord]) -> dict[str, Any]:
    if path not in modules:
        _refuse("traced", "modules of the network", path)
    try:
        read(value)
    except ValueError as error:
        raise PrunedFileError(f"{error} It is `traced[{path!r}]` of the plan.") from None
    return _mapping("traced", value)


def _units(name: str, value: Any) -> tuple[int, int]:
    where = f"groups[{name!r}]"
    found = _list(where, value)
    if len(found) != 2 or not 0 < _size(where, found[1]) <= _size(where, found[0]):
        _refuse(where, "units and units kept", value)
    return found[0], found[1]


def _size(where: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value < LARGEST:
        _refuse(where, "a size", value)
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        _refuse(where, "a text", value)
    return value


def _mapping(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, "a mapping", value)
    return value


def _list(where: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        _refuse(where, "a list", value)
    return value


def _refuse(where: str, expected: str, got: Any) -> NoReturn:
    raise PrunedFileError(f"Expected `{where}` of the plan to be {expected}, but got {_short(got)}.")


def _short(value: Any) -> str:
    return reprlib.repr(value)
