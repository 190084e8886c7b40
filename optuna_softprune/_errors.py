"""Errors and warnings that a caller may want to tell apart."""

from __future__ import annotations


class SoftPruneError(Exception):
    """Base of the errors that belong to this package."""


class ExportError(SoftPruneError, RuntimeError):
    """`torch.export` could not turn the network into a graph."""


class NothingToPruneError(SoftPruneError, ValueError):
    """No group of the network can be pruned."""


class InfeasibleTargetError(SoftPruneError, ValueError):
    """No network within the tolerance of the target was found."""


class StudyMismatchError(SoftPruneError, ValueError):
    """A study belongs to another network, constraint or objective."""


class StorageError(SoftPruneError, RuntimeError):
    """A storage cannot be opened."""


class PrunedFileError(SoftPruneError, ValueError):
    """A file of a smaller network is damaged, of another version, or does not fit the network."""


class SoftPruneWarning(UserWarning):
    """Base of the warnings of this package; each is given once per search space."""


class ModeWarning(SoftPruneWarning):
    """The network was given in train mode or in a wrapper; the plain network in eval mode is analysed."""


class UnusedParameterWarning(SoftPruneWarning):
    """Parameters take no part in the forward pass in eval mode, so nothing is known of them."""


class CalibrationWarning(SoftPruneWarning):
    """Calibration data says little of a layer."""


class ComponentWarning(SoftPruneWarning):
    """The components that were named do not hold all of the network's parameters."""


class CountWarning(SoftPruneWarning):
    """Multiply-accumulates of the dense network are others than those that torch counts."""


class SettingsWarning(SoftPruneWarning):
    """A network that takes up saved weights has other settings than the one that was pruned."""


class VerificationWarning(SoftPruneWarning):
    """The test that removing units equals masking them could see little."""


def kind_of(value: object) -> str:
    """Return what kind of value something is; of a class, what to write to have an object of it."""
    if isinstance(value, type):
        return f"the class {value.__name__}: write `{value.__name__}(...)`"
    return type(value).__name__


def shorten(items: list[str], limit: int = 5) -> str:
    """Join `items` with commas, cut after `limit` of them."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f", ... ({rest} more)" if rest > 0 else "")
