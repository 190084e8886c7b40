"""What a network must reach besides its size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requirement:
    """A bound on a named metric, a constraint `requirement:<metric>` of every trial.

    Args:
        metric: The name that the metric's mapping uses; of a metric that returns a float, "metric".
        at_least: The lowest value allowed.
        at_most: The highest value allowed. One of the two must be given, or both.
    """

    metric: str
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        if self.at_least is None and self.at_most is None:
            raise ValueError(
                f"Expected `at_least` or `at_most` for the requirement on {self.metric!r}, but got neither."
            )
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError(
                f"Expected `at_least` to be at most `at_most`, but got {self.at_least} and {self.at_most}."
            )

    @property
    def key(self) -> str:
        """The name of the constraint."""
        return f"requirement:{self.metric}"

    def violation(self, value: float) -> float:
        """Return how far `value` is outside, relative to a bound that is not 0; at most 0 is feasible."""
        excesses = []
        if self.at_least is not None:
            excesses.append((self.at_least - value) / (abs(self.at_least) or 1.0))
        if self.at_most is not None:
            excesses.append((value - self.at_most) / (abs(self.at_most) or 1.0))
        return max(excesses)

    def describe(self) -> dict[str, float | str | None]:
        """Return what makes it this requirement, for the study."""
        return {"metric": self.metric, "at_least": self.at_least, "at_most": self.at_most}
