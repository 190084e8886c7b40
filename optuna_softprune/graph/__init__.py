"""From a network to its groups: export, labels, rules, groups."""

from optuna_softprune.graph._components import REST, component_of, component_paths, parts
from optuna_softprune.graph._copy import copy_with, let_go, map_tensors, to_working, working_copy
from optuna_softprune.graph._dependences import (
    CONTRACTIONS,
    dependences,
    groups_of,
    normalised_groups,
    value_dependences,
)
from optuna_softprune.graph._discover import discover
from optuna_softprune.graph._export import ExportedGraph, export, export_training, working_dtypes
from optuna_softprune.graph._faithful import expect_copies_to_be_alike, surroundings_kept
from optuna_softprune.graph._groups import (
    FIXED,
    UNUSED,
    Bound,
    Group,
    Kept,
    Network,
    Protected,
    Side,
    Slices,
    Units,
    kept_indices,
)
from optuna_softprune.graph._meta import meta_copy, returned, shortcut, to_meta
from optuna_softprune.graph._network import digest, modes_kept, tensors, unwrapped
from optuna_softprune.graph._operation import operation_name
from optuna_softprune.graph._reasons import is_users, user_line
from optuna_softprune.graph._refusal import NotExportableError, first_line
from optuna_softprune.graph._regions import AUTOCAST, region
from optuna_softprune.graph._rules import mixed_axes, rule_of
from optuna_softprune.graph._rules_mixing import keeps_whole_groups
from optuna_softprune.graph._rules_recurrent import GATES as RECURRENT
from optuna_softprune.graph._stated import Held, StatedSize, dense_pass
from optuna_softprune.graph._traced import NotTraceableError, TracedPart, Tracing
from optuna_softprune.graph._unread import follow_unread

__all__ = [
    "AUTOCAST",
    "CONTRACTIONS",
    "FIXED",
    "RECURRENT",
    "REST",
    "UNUSED",
    "Bound",
    "ExportedGraph",
    "Group",
    "Held",
    "Kept",
    "Network",
    "NotExportableError",
    "NotTraceableError",
    "Protected",
    "Side",
    "Slices",
    "StatedSize",
    "TracedPart",
    "Tracing",
    "Units",
    "component_of",
    "component_paths",
    "copy_with",
    "dense_pass",
    "dependences",
    "digest",
    "discover",
    "expect_copies_to_be_alike",
    "export",
    "export_training",
    "first_line",
    "follow_unread",
    "groups_of",
    "is_users",
    "keeps_whole_groups",
    "kept_indices",
    "let_go",
    "map_tensors",
    "meta_copy",
    "mixed_axes",
    "modes_kept",
    "normalised_groups",
    "operation_name",
    "parts",
    "region",
    "returned",
    "rule_of",
    "shortcut",
    "surroundings_kept",
    "tensors",
    "to_meta",
    "to_working",
    "unwrapped",
    "user_line",
    "value_dependences",
    "working_copy",
    "working_dtypes",
]
