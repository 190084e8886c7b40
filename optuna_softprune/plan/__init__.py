"""What was removed from a dense network: a record that goes along with the smaller one, in memory and in files."""

from optuna_softprune.plan._making import (
    ATTRIBUTE,
    attach,
    attach_later,
    attach_now,
    held_plan,
    module_records,
    note_study,
    plan_of,
    set_length,
)
from optuna_softprune.plan._plan import Cut, ModuleRecord, Plan
from optuna_softprune.plan._reading import parsed

__all__ = [
    "ATTRIBUTE",
    "Cut",
    "ModuleRecord",
    "Plan",
    "attach",
    "attach_later",
    "attach_now",
    "held_plan",
    "module_records",
    "note_study",
    "parsed",
    "plan_of",
    "set_length",
]
