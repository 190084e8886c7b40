"""After a crash: fail what dead workers left running, and count what is left to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from optuna_softprune._log import LOGGER
from optuna_softprune.storage._lease import LEASE_S, has_expired
from optuna_softprune.storage._optuna import all_trials, as_run, claim_of, close_connections, owner_of
from optuna_softprune.storage._worker import is_here, lives

if TYPE_CHECKING:
    from collections.abc import Mapping

    import optuna
    from optuna.trial import FrozenTrial

    from optuna_softprune.storage._optuna import Claim

# Trial attribute: why the metric of a trial has no value. A failed trial without it was killed or interrupted.
FAILURE = "softprune:failure"
# Study attribute: the search is of this package, whose trials have owners from their first moment on.
SCHEMA_KEY = "softprune:schema"
# Trial attribute: what interrupted it.
INTERRUPTED = "softprune:interrupted"


@dataclass(frozen=True, slots=True)
class Recovery:
    """What `recover` found and did: numbers of trials.

    Attributes:
        taken_up: Left by dead workers; failed, and what they evaluated is evaluated again.
        alive: Running, of workers that live.
        unknown: Running, of workers on other machines that were seen in the last ten minutes, or of nobody known.
    """

    taken_up: tuple[int, ...]
    alive: tuple[int, ...]
    unknown: tuple[int, ...]


def recover(study: optuna.Study, *, force: bool = False) -> Recovery:
    """Fail the running trials of workers that are dead, and queue their candidates again.

    A worker on this machine is known by boot, process namespace, process id and start time, which the objective writes
    when a trial begins. One on another machine shows every minute that it lives, and is dead when it did not for ten.
    Trials of living workers are never touched. What a sampler of this package had claimed is not queued: the sampler
    proposes it again by itself.

    Args:
        study: The study, before `optimize`.
        force: Fail all running trials: only if no other worker runs.
    """
    ours = SCHEMA_KEY in study.user_attrs
    taken_up, alive, unknown = [], [], []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        owner = owner_of(trial)
        if force or is_left(trial) or (ours and owner is None and has_expired(trial)):
            if _take_up_again(study, trial):
                taken_up.append(trial.number)
        elif owner is not None and is_here(owner):
            alive.append(trial.number)
        else:
            unknown.append(trial.number)
    if taken_up:
        LOGGER.warning(
            f"Trials {taken_up} were left by dead workers: they are failed, and what they evaluated is taken up again."
        )
    if unknown:
        LOGGER.warning(
            f"Trials {unknown} run on other machines, or were killed before they began. Workers that are not seen for "
            f"{LEASE_S / 60:.0f} minutes count as dead. If no other worker runs, `recover(study, force=True)` takes "
            "their trials up now."
        )
    return Recovery(tuple(taken_up), tuple(alive), tuple(unknown))


def _take_up_again(study: optuna.Study, trial: FrozenTrial) -> bool:
    """Fail a trial and queue its candidate; return whether no other worker did so in the same moment."""
    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (UpdateFinishedTrialError, ValueError):
        return False
    _queue_again(study, trial.params, claim_of(trial))
    return True


def give_up(trial: optuna.Trial, interruption: BaseException) -> None:
    """Leave a trial that Ctrl-C or a signal interrupts so that another worker evaluates its candidate."""
    close_connections(trial.study, interruption)
    trial.set_user_attr(INTERRUPTED, type(interruption).__name__)
    # A parameter may have been stored that the interrupted call did not return.
    _queue_again(trial.study, all_trials(trial.study)[trial.number].params, claim_of(as_run(trial)))
    if not isinstance(interruption, KeyboardInterrupt):  # which Optuna fails a trial for by itself
        trial.study.tell(trial.number, state=TrialState.FAIL)


def _queue_again(study: optuna.Study, params: Mapping[str, Any], claim: Claim | None) -> None:
    """Queue a candidate that got no value; a sampler that claims points proposes its own by itself."""
    if params and claim is None:
        study.enqueue_trial(dict(params))


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
        return owner_of(trial) is not None and not is_left(trial)
    if trial.state == TrialState.PRUNED:
        return bool(trial.params)  # a worker that found nothing left to do evaluated nothing
    return trial.state == TrialState.COMPLETE or metric_failed(trial)


def metric_failed(trial: FrozenTrial) -> bool:
    """Whether a trial failed because its metric did: not one that was killed, interrupted or recovered.

    An objective of the user's own leaves no reason; what it fails counts.
    """
    return trial.state == TrialState.FAIL and (FAILURE in trial.user_attrs or owner_of(trial) is None)


def is_left(trial: FrozenTrial) -> bool:
    """Whether the worker of a running trial is known to be dead."""
    owner = owner_of(trial)
    if owner is None:
        return False
    return not lives(owner) if is_here(owner) else has_expired(trial)
