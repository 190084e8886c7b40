"""From a network to its groups: export, labels, rules, groups."""

from optuna_softprune.graph._discover import discover
from optuna_softprune.graph._export import (
    WORKING_DTYPES,
    ExportedGraph,
    copy_with,
    export,
    first_line,
    map_tensors,
    to_working,
    user_line,
    working_copy,
)
from optuna_softprune.graph._groups import FIXED, UNUSED, Group, Network, Protected, Side, Slices, Units
from optuna_softprune.graph._network import digest, tensors, unwrapped
from optuna_softprune.graph._propagate import operation_name
from optuna_softprune.graph._rules import mixed_axes
from optuna_softprune.graph._rules_mixing import keeps_whole_groups

__all__ = [
    "FIXED",
    "UNUSED",
    "WORKING_DTYPES",
    "ExportedGraph",
    "Group",
    "Network",
    "Protected",
    "Side",
    "Slices",
    "Units",
    "copy_with",
    "digest",
    "discover",
    "export",
    "first_line",
    "keeps_whole_groups",
    "map_tensors",
    "mixed_axes",
    "operation_name",
    "tensors",
    "to_working",
    "unwrapped",
    "user_line",
    "working_copy",
]
