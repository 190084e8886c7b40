"""What became smaller, and what became faster: tables for people, and rows for pandas."""

from optuna_softprune.report._speed import Comparison, Measured, compare, latency_ms
from optuna_softprune.report._summary import ModuleRow, Summary, summary

__all__ = ["Comparison", "Measured", "ModuleRow", "Summary", "compare", "latency_ms", "summary"]
