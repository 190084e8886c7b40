"""From the best trial to something that ships: files, tables, figures of speed, training on."""

from optuna_softprune.plan import Plan
from optuna_softprune.shipping._load import load_pruned
from optuna_softprune.shipping._save import read_plan, save_pruned

__all__ = ["Plan", "load_pruned", "read_plan", "save_pruned"]
