"""Widths that say which groups they follow, and what Python code does with them.

A network is run at widths that none of its groups has: a prime for each group, so that every length tells what it is
made of, and no length fits another by luck. What the code decides by comparing widths it decides as in the dense
network, and it is noted: whether a candidate would decide otherwise is arithmetic.
"""

from __future__ import annotations

import linecache
import operator
import sys
from numbers import Real
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from optuna_softprune.graph import is_users

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import FrameType

IntArray = NDArray[np.int64]


class Expression(NamedTuple):
    """A number that depends on the units kept.

    Attributes:
        groups: Positions of the groups that it depends on.
        at: Units kept (candidates, groups) -> its values (candidates,).
    """

    groups: frozenset[int]
    at: Callable[[IntArray], NDArray[Any]]


class Branch(NamedTuple):
    """A comparison of widths in the forward pass.

    Attributes:
        line: The line of code.
        holds: Whether it holds in a network with given units kept.
        equality: Whether it asks for equal widths (or unequal ones).
        sides: What is compared.
    """

    line: str
    holds: Expression
    equality: bool
    sides: tuple[Expression, Expression]


class Notes:
    """What the code of one forward pass did with widths.

    Attributes:
        meaning: Length -> what it is in the dense network, and how it follows the units kept.
        branches: The comparisons, each once.
        uses: Line of code -> groups whose width became a number that is no size.
    """

    def __init__(self, meaning: Mapping[int, tuple[int, Expression]]) -> None:
        self.meaning = meaning
        self.branches: dict[Any, Branch] = {}
        self.uses: dict[str, set[int]] = {}

    def marked(self, length: Any) -> Any:
        """Return a length that says what it follows, if it follows anything."""
        if type(length) is not int or length not in self.meaning:
            return length
        dense, of = self.meaning[length]
        return Width.new(length, dense, of, self)

    def use(self, *widths: Any) -> None:
        """Note that `widths` became numbers."""
        for width in widths:
            if isinstance(width, Followed):
                self.uses.setdefault(calling_line(), set()).update(width.of.groups)


class Followed:
    """A number that is computed from lengths of axes.

    Attributes:
        dense: Its value in the dense network.
        of: How it follows the units kept.
        notes: Where it is noted what is done with it.
    """

    dense: Any
    of: Expression
    notes: Notes

    @classmethod
    def new(cls, value: float, dense: float, of: Expression, notes: Notes) -> Any:
        """Return a number of this kind."""
        made = cls(value)  # type: ignore[call-arg]
        made.dense, made.of, made.notes = dense, of, notes
        return made


class Width(Followed, int):
    """A length of an axis, or what may be one."""

    def __neg__(self) -> Any:
        """Return what counts from an end."""
        return 0 - self

    def __float__(self) -> float:
        """Note that a size is used as a number."""
        self.notes.use(self)
        return float(int.__index__(self))


class Ratio(Followed, float):
    """A number that is no size."""


def dense(value: Any) -> Any:
    """Return what `value` is in the dense network."""
    return value.dense if isinstance(value, Followed) else value


def expression(value: Any) -> Expression:
    """Return how a number depends on the units kept; one that follows nothing is always the same."""
    if isinstance(value, Followed):
        return value.of
    return Expression(frozenset(), lambda kept: np.full(len(kept), value))


def _plain(value: Any) -> Any:
    """Return a width, or what was computed from such, as the number that it is."""
    return int(value) if isinstance(value, Width) else float(value) if isinstance(value, Ratio) else value


def _arithmetic(name: str) -> Callable[[Any, Any], Any]:
    mirrored = name.startswith("__r")
    operation: Any = getattr(operator, name.replace("__r", "__") if mirrored else name)

    def method(self: Followed, other: Any) -> Any:
        if not isinstance(other, Real):
            return NotImplemented
        other = self.notes.marked(other)
        a, b = (other, self) if mirrored else (self, other)
        one, two = expression(a), expression(b)
        value, in_dense = operation(_plain(a), _plain(b)), operation(dense(a), dense(b))
        of = Expression(one.groups | two.groups, lambda kept: operation(one.at(kept), two.at(kept)))
        if isinstance(value, int):
            return Width.new(value, in_dense, of, self.notes)
        self.notes.use(self, other)
        return Ratio.new(value, in_dense, of, self.notes) if isinstance(value, float) else value

    return method


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    operation: Any = getattr(operator, name)

    def method(self: Followed, other: Any) -> Any:
        if not isinstance(other, Real):
            return NotImplemented
        other = self.notes.marked(other)
        decided = bool(operation(self.dense, dense(other)))
        one, two = self.of, expression(other)
        line = calling_line()
        key = (line, name, one.groups, two.groups, self.dense, dense(other))
        if key not in self.notes.branches:
            holds = Expression(one.groups | two.groups, lambda kept: operation(one.at(kept), two.at(kept)))
            self.notes.branches[key] = Branch(line, holds, name in ("__eq__", "__ne__"), (one, two))
        return decided

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Followed, f"__{_name}__", _arithmetic(f"__{_name}__"))
    setattr(Followed, f"__r{_name}__", _arithmetic(f"__r{_name}__"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(Followed, f"__{_name}__", _comparison(f"__{_name}__"))


def calling_line() -> str:
    """Return `file:line: code` of the innermost frame outside of torch and of this package's own runs."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_users(frame.f_code.co_filename):
        frame = frame.f_back
    if frame is None:
        return ""
    name, number = frame.f_code.co_filename, frame.f_lineno
    return f"{name}:{number}: `{linecache.getline(name, number).strip()}`"


def primes(count: int, least: int) -> IntArray:
    """Return `count` primes of at least `least`, ascending."""
    bound = 2 * least
    while True:
        sieve = np.ones(bound, bool)
        sieve[:2] = False
        for i in range(2, int(bound**0.5) + 1):
            if sieve[i]:
                sieve[i * i :: i] = False
        found: IntArray = np.flatnonzero(sieve[least:]) + least
        if len(found) >= count:
            return found[:count]
        bound *= 2
