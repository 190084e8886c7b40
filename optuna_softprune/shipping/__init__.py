"""From the best trial to something that ships: files, and training on without labels."""

from optuna_softprune.plan import Plan
from optuna_softprune.shipping._distill import distill
from optuna_softprune.shipping._load import load_pruned
from optuna_softprune.shipping._save import read_plan, save_pruned

__all__ = ["Plan", "distill", "load_pruned", "read_plan", "save_pruned"]
