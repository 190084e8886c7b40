"""After a crash: fail what dead workers left running, and count what is left to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from optuna_softprune.storage._optuna import claim_of
from optuna_softprune.storage._worker import OWNER, is_here, lives

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

# Trial attribute: why the metric of a trial has no value. A failed trial without it was killed or interrupted.
FAILURE = "softprune:failure"

_logger = optuna.logging.get_logger("optuna_softprune")


def recover(study: optuna.Study, *, force: bool = False) -> list[int]:
    """Fail the running trials of workers that are dead, and queue their candidates again.

    A worker is known by host, boot, process namespace, process id and start time, which the objective writes when a
    trial begins. Trials of living workers, and of workers on other machines, are left alone. What a sampler of this
    package had claimed is not queued: the sampler proposes it again by itself.

    Args:
        study: The study, before `optimize`.
        force: Fail all running trials: only if no other worker runs.

    Returns:
        The numbers of the trials that were failed.
    """
    failed, unknown = [], []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = trial.user_attrs.get(OWNER)
        if force or is_left(trial):
            if _take_up_again(study, trial):
                failed.append(trial.number)
        elif owner is None or not is_here(owner):
            unknown.append(trial.number)
    if failed:
        _logger.warning(
            f"Trials {failed} were left by dead workers: they are failed, and what they evaluated is taken up again."
        )
    if unknown:
        _logger.warning(
            f"Trials {unknown} run on another machine, or were killed before they began. If no other worker runs, "
            "`recover(study, force=True)` takes them up."
        )
    return failed


def _take_up_again(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Fail a trial and queue its candidate; return whether no other worker did so in the same moment."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return False
    if trial.params and claim_of(trial) is None:  # a sampler that claims points proposes this one again by itself
        study.enqueue_trial(trial.params)
    return True


def remaining_trials(study: optuna.Study, total: int) -> int:
    """Return how many of `total` trials are left to do, for `n_trials`; at least 0.

    Done is a trial that is complete, pruned, or whose metric failed. Trials that were killed, interrupted or failed by
    `recover` are not done. A running one counts as long as its worker may live; one that nobody has claimed was killed
    as it began.
    """
    if isinstance(total, bool) or not isinstance(total, int) or total < 0:
        raise ValueError(f"Expected `total` to be an integer of at least 0, but got {total!r}.")
    done = sum(_is_done(trial) for trial in study.get_trials(deepcopy=False))
    return max(total - done, 0)


def _is_done(trial: FrozenTrial) -> bool:
    if trial.state == TrialState.RUNNING:
        return OWNER in trial.user_attrs and not is_left(trial)
    if trial.state == TrialState.PRUNED:
        return bool(trial.params)  # a worker that found nothing left to do evaluated nothing
    return trial.state == TrialState.COMPLETE or metric_failed(trial)


def metric_failed(trial: FrozenTrial) -> bool:
    """Whether a trial failed because its metric did: not one that was killed, interrupted or recovered.

    An objective of the user's own leaves no reason; what it fails counts.
    """
    return trial.state == TrialState.FAIL and (FAILURE in trial.user_attrs or OWNER not in trial.user_attrs)


def is_left(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial is known to be dead."""
    owner = trial.user_attrs.get(OWNER)
    return owner is not None and is_here(owner) and not lives(owner)
