"""The objective of `study.optimize`: a trial is a smaller network, its value is the user's metric."""

from __future__ import annotations

import functools
import math
import threading
import weakref
from typing import TYPE_CHECKING, Any, Literal

import optuna
from optuna.trial import TrialState
from torch import nn

from optuna_softprune._errors import StudyMismatchError
from optuna_softprune._keys import PREFIX
from optuna_softprune._log import LOGGER
from optuna_softprune.coefficients import COUNTED, Of
from optuna_softprune.evaluation import (
    METRIC,
    Evaluator,
    Measurement,
    Metric,
    measure,
    name_of,
    not_finite,
    takes_trial,
)
from optuna_softprune.objective._arguments import check_arguments, check_study
from optuna_softprune.objective._best import best_feasible
from optuna_softprune.objective._dense import check_dense
from optuna_softprune.objective._record import (
    CANDIDATE,
    DENSE,
    FEASIBLE,
    ITERATION,
    METRIC_NAME,
    ROLE,
    Claimed,
    check_finish,
    claim,
    expect_own,
    trial_facts,
)
from optuna_softprune.objective._second_look import WHOLE, SecondLook
from optuna_softprune.plan import note_study
from optuna_softprune.storage import (
    FAILURE,
    History,
    PerStudy,
    all_trials,
    as_run,
    claim_of,
    give_up,
    known_of,
    lease,
    mirror_constraints,
    this_worker,
    write_owner,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from optuna_softprune._space import PruningSpace
    from optuna_softprune.coefficients import SparsityConstraint
    from optuna_softprune.objective._requirement import Requirement

Direction = Literal["maximize", "minimize"]
COUNTS = ("sparsity", "parameters", "macs")


class PruningObjective:
    """Callable `trial -> float`, or a tuple for several objectives.

    A trial's parameters are the coefficients. They are snapped to the lattice, the network is pruned, and its value is
    the metric of exactly that network. Constraints are set with `trial.set_constraint`: `sparsity`, and
    `requirement:<metric>`. An exception in the metric fails the trial and propagates, as always in Optuna; a NaN or
    infinite metric fails the trial, and the search goes on.

    Args:
        space: The search space.
        metric: `metric(model) -> float`, or a mapping of named floats. It is given a network of its own, in eval mode,
            on the device of the dense one, and must run it. One with a further parameter named `trial` is called as
            `metric(model, trial=trial)`: it may `trial.report(value, step)` batch by batch and raise `TrialPruned` when
            `trial.should_prune()`. For the dense network that is a `FixedTrial`, which never prunes. What it does to
            its network is gone with it: `best_model` knows nothing of it.
        constraint: The size to reach.
        objectives: What is optimised: names of metrics (a float metric is called "metric"), "sparsity" (of
            what the constraint counts, else of the parameters), "parameters" or "macs".
        directions: "maximize" or "minimize" for each; compared with the study's.
        requirements: Bounds on named metrics. The dense network must meet them.
        finish: `finish(model) -> nn.Module`, or None where it changes `model` itself: what is done to a smaller network
            before it is measured and before `best_model` returns it, such as an epoch of training, batch-norm
            statistics, quantisation. It is given a network of its own, in eval mode, and the dense one too. It should
            do the same each time (seed what is random), so that the value of a trial is that of `best_model`.
        reuse: Whether a candidate that the study already has gets its metrics from there. False for noisy metrics.
        mirror_constraints: Whether constraints are also written where optuna-dashboard 0.21 looks for them. `GPSampler`
            would then model each of them twice.
        cache_bytes: Memory for what forward passes of different candidates have in common, so that it is computed
            once; outputs are those of the removed network but for rounding. 0 if the metric measures how long a
            forward pass takes or what it does: then each candidate is evaluated whole.

    Raises:
        TypeError: If an argument is of the wrong kind.
        ValueError: If names or directions do not fit together.
    """

    def __init__(
        self,
        space: PruningSpace,
        metric: Metric,
        constraint: SparsityConstraint | None = None,
        *,
        objectives: Sequence[str] = (METRIC,),
        directions: Sequence[Direction] = ("maximize",),
        requirements: Sequence[Requirement] = (),
        finish: Callable[[nn.Module], nn.Module | None] | None = None,
        reuse: bool = True,
        mirror_constraints: bool = True,
        cache_bytes: int = 2**30,
    ) -> None:
        check_arguments(space, metric, constraint, objectives, directions, requirements, finish)
        self._space, self._metric, self._constraint = space, metric, constraint
        self._of: Of = "parameters" if constraint is None else constraint.of
        self._objectives, self._directions = tuple(objectives), tuple(directions)
        self._requirements = tuple(requirements)
        self._finish, self._reuse, self._mirror = finish, reuse, mirror_constraints
        self._cache_bytes = cache_bytes
        self._takes_trial = takes_trial(metric)
        self._lock = threading.Lock()
        # What belongs to a study, found again whenever it is not here: it only saves time.
        self._claimed: PerStudy[Claimed] = PerStudy()
        self._known: PerStudy[History] = PerStudy()
        self._looks: PerStudy[SecondLook] = PerStudy()
        self._dense_of: PerStudy[dict[str, float]] = PerStudy()
        self._dense: dict[str, float] | None = None
        self._making = threading.Lock()
        self._evaluators: weakref.WeakKeyDictionary[PruningSpace, Evaluator] = weakref.WeakKeyDictionary()

    def __repr__(self) -> str:
        wanted = ", ".join(f"{way} {name}" for way, name in zip(self._directions, self._objectives, strict=True))
        return f"PruningObjective(metric={name_of(self._metric)}, {wanted}, constraint={self._constraint!r})"

    @property
    def space(self) -> PruningSpace:
        """The search space."""
        return self._space

    def __call__(self, trial: optuna.trial.BaseTrial) -> float | tuple[float, ...]:
        """Evaluate one candidate."""
        if not isinstance(trial, optuna.Trial):
            return self._evaluated(trial, None)
        try:
            write_owner(trial, this_worker())
            with lease(trial):
                return self._evaluated(trial, trial.study)
        except (KeyboardInterrupt, SystemExit) as interruption:
            give_up(trial, interruption)
            raise

    def _evaluated(self, trial: optuna.trial.BaseTrial, study: optuna.Study | None) -> float | tuple[float, ...]:
        space = self._space if study is None else self._claimed_by(study).space
        dense = self._dense_metrics(space, study)
        c = space.suggest(trial)
        violations = {} if self._constraint is None else {"sparsity": float(self._constraint.violation(c))}
        for key, violation in violations.items():
            trial.set_constraint(key, violation)
        counts = {"sparsity": space.sparsity(c, self._of), "parameters": space.parameters(c), "macs": space.macs(c)}
        for name, count in counts.items():
            trial.set_user_attr(f"{PREFIX}{name}", count)
        known = self._known_trial(trial, space, c) if self._reuse and isinstance(trial, optuna.Trial) else None
        metrics, shared = self._metrics(trial, space, c, known, dense)
        problem = not_finite(metrics)
        if problem:
            return self._failed(trial, problem)
        for requirement in self._requirements:
            violations[requirement.key] = requirement.violation(metrics[requirement.metric])
            trial.set_constraint(requirement.key, violations[requirement.key])
        if violations and self._mirror and isinstance(trial, optuna.Trial):
            mirror_constraints(trial, list(violations.values()))
        feasible = all(each <= 0 for each in violations.values())
        trial.set_user_attr(FEASIBLE, int(feasible))
        found = {**metrics, **counts}
        values = [float(found[name]) for name in self._objectives]
        if study is not None and shared is not None and feasible:
            difference = self._looked_at_again(study, trial.number, space, c, values, shared)
            if difference:
                return self._failed(trial, difference)
        run = as_run(trial) if isinstance(trial, optuna.Trial) else None
        claimed = None if run is None else claim_of(run)
        if claimed is not None:
            trial.set_user_attr(ROLE, claimed.role)
            trial.set_user_attr(ITERATION, claimed.iteration)
        elif run is None or ROLE not in run.user_attrs:
            trial.set_user_attr(ROLE, "candidate")
        kept = space.kept_units(c)
        record: dict[str, Any] = {"kept": list(kept), "metrics": metrics}
        if study is not None:
            record["space"] = self._claimed_by(study).identity
        trial.set_user_attr(CANDIDATE, record)
        return self._returned(values)

    def _failed(self, trial: optuna.trial.BaseTrial, reason: str) -> float | tuple[float, ...]:
        """Fail a trial; the search goes on."""
        trial.set_user_attr(FAILURE, reason)
        LOGGER.warning(f"Trial {trial.number} failed: {reason}.")
        return self._returned([float("nan")] * len(self._objectives))

    def _looked_at_again(
        self, study: optuna.Study, number: int, space: PruningSpace, c: dict[str, float], values: list[float], call: Any
    ) -> str:
        """Return how a candidate that is the best of its study differs from its network; empty if it does not."""
        look = self._look(study)
        if look.since is not None or not look.is_due(values):
            return ""
        evaluator = self._evaluator_of(space)
        difference = evaluator.difference(space.candidate(c), call)
        if difference:
            evaluator.share_nothing()
            look.distrust(study, number, difference)
        return difference

    def _look(self, study: optuna.Study) -> SecondLook:
        with self._lock:
            return self._looks.get(study, lambda: SecondLook(study, self._directions))

    def best_model(self, study: optuna.Study) -> nn.Module:
        """Return the smaller network of the study's best feasible trial, finished; its metric is the trial's value.

        Raises:
            StudyMismatchError: If the study belongs to another network, constraint or objective, or the value of the
                trial is not that of its network.
            ValueError: If no trial is feasible, or the study has several objectives.
        """
        space, identity = self._claimed_by(study)
        expect_own(study, identity, study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
        if len(self._objectives) > 1:
            raise ValueError(
                "Expected a study with one objective, but got several, so there is no best trial: choose one of "
                "`study.best_trials` and call `space.prune(space.coefficients(trial.params))`."
            )
        best = best_feasible(study, self._constraint, self._requirements)
        self._tell_changed(best)
        c = space.coefficients(best.params)
        look = self._look(study)
        if look.since is None or best.number < look.since:
            # What an evaluator that shares nothing any more cannot tell, a new one can.
            evaluator = self._evaluator_of(space) if look.since is None else self._new_evaluator(space)
            difference = evaluator.difference(space.candidate(c), space.example)
            if difference:
                self._evaluator_of(space).share_nothing()
                look.distrust(study, study.trials[-1].number + 1, difference)
                raise StudyMismatchError(
                    f"Expected the value of the best trial, {best.number}, to be of its network, but {difference}. "
                    "Go on with another study name and `cache_bytes=0`, which evaluates each candidate whole."
                )
        small = space.prune(c)
        note_study(small, trial_facts(study, best))
        return small if self._finish is None else self._finished(small.eval())

    def _tell_changed(self, trial: optuna.trial.FrozenTrial) -> None:
        """Say that a study has another value of a trial than this objective returned."""
        name, held = self._objectives[0], trial.user_attrs
        returned = held[f"{PREFIX}{name}"] if name in COUNTS else held[CANDIDATE]["metrics"][name]
        if not math.isclose(trial.value or 0.0, returned, rel_tol=1e-6, abs_tol=1e-12):
            LOGGER.warning(
                f"The value of trial {trial.number} is {trial.value:.6g} in the study, but `{name}` of its network is "
                f"{returned:.6g}: what the objective returned was changed. The network of the best value is returned."
            )

    def _finished(self, model: nn.Module) -> nn.Module:
        made = None if self._finish is None else self._finish(model)
        if made is not None and not isinstance(made, nn.Module):
            raise TypeError(f"Expected `finish` to return a network or None, but got {type(made).__name__}.")
        return model if made is None else made

    @property
    def peak_cache_bytes(self) -> int:
        """The most memory that shared values have taken, in bytes; at most `cache_bytes` for each order of units."""
        return max((evaluator.memory.peak for evaluator in self._evaluators.values()), default=0)

    def _metrics(
        self,
        trial: optuna.trial.BaseTrial,
        space: PruningSpace,
        c: dict[str, float],
        known: optuna.trial.FrozenTrial | None,
        dense: dict[str, float],
    ) -> Measurement:
        if known is not None:
            for step, value in known.intermediate_values.items():  # pruners compare trials by them
                trial.report(value, step)
            return Measurement(known.user_attrs[CANDIDATE]["metrics"], None)
        try:
            return self._measured(space, c, trial, list(dense), dense)
        except optuna.TrialPruned:
            raise
        except Exception as error:
            trial.set_user_attr(FAILURE, f"{type(error).__name__}: {error}"[:500])
            raise

    def _measured(
        self,
        space: PruningSpace,
        c: dict[str, float],
        trial: optuna.trial.BaseTrial,
        names: Sequence[str],
        dense: dict[str, float] | None = None,
    ) -> Measurement:
        metric: Metric = functools.partial(self._metric, trial=trial) if self._takes_trial else self._metric
        if self._finish is not None:
            of_finished = metric
            metric = lambda model: of_finished(self._finished(model))  # noqa: E731
        return measure(metric, self._evaluator_of(space), space.candidate(c), names, dense)

    def _evaluator_of(self, space: PruningSpace) -> Evaluator:
        with self._making:
            if space not in self._evaluators:
                self._evaluators[space] = self._new_evaluator(space)
            return self._evaluators[space]

    def _new_evaluator(self, space: PruningSpace) -> Evaluator:
        return space.evaluator(self._cache_bytes, LOGGER.warning)

    def _known_trial(
        self, trial: optuna.Trial, space: PruningSpace, c: dict[str, float]
    ) -> optuna.trial.FrozenTrial | None:
        """Return a complete trial of the study with the metrics of a candidate."""

        def look() -> optuna.trial.FrozenTrial | None:
            with self._lock:
                history = self._known.get(trial.study, lambda: History(space.lattice.names, space.kept_units))
                history.read(trial.study)
                return history.complete.get(space.kept_units(c))

        known = known_of(trial, look)
        if known is None or CANDIDATE not in known.user_attrs or known.number < (self._look(trial.study).since or 0):
            return None
        return known

    def _returned(self, values: list[float]) -> float | tuple[float, ...]:
        return values[0] if len(values) == 1 else tuple(values)

    def _claimed_by(self, study: optuna.Study) -> Claimed:
        """Return the space with the order of units that the study began with, once the study is known to fit."""
        with self._lock:
            return self._claimed.get(study, lambda: self._claim(study))

    def _claim(self, study: optuna.Study) -> Claimed:
        check_study(study, self._directions, self._constraint)
        claimed = claim(study, self._space, self._settings())
        check_finish(study, self._finish is not None)
        if METRIC_NAME not in study.user_attrs:
            study.set_user_attr(METRIC_NAME, name_of(self._metric))
        space = claimed.space
        if WHOLE in study.user_attrs:
            self._evaluator_of(space).share_nothing()
        highest = space.sparsity(space.lattice.highest, self._of)
        LOGGER.info(
            f"{len(space.groups)} groups; sparsity up to {highest:.3f} of the {COUNTED[self._of]} can be reached; "
            f"study {study.study_name!r} has {len(all_trials(study))} trials."
        )
        return claimed

    def _settings(self) -> dict[str, Any]:
        return {
            "constraint": None if self._constraint is None else self._constraint.describe(),
            "objective": {
                "names": list(self._objectives),
                "directions": list(self._directions),
                "requirements": [requirement.describe() for requirement in self._requirements],
            },
        }

    def _dense_metrics(self, space: PruningSpace, study: optuna.Study | None) -> dict[str, float]:
        """Return the metrics of the dense network: measured once, kept in the study, compared with those kept there."""
        with self._lock:
            if study is not None:
                return self._dense_of.get(study, lambda: self._kept_dense(space, study))
            self._dense = self._dense or self._measured_dense(space)
            return self._dense

    def _kept_dense(self, space: PruningSpace, study: optuna.Study) -> dict[str, float]:
        found = self._dense = self._dense or self._measured_dense(space)
        held: dict[str, float] | None = study.user_attrs.get(DENSE)
        if held is not None:
            check_dense(study.study_name, held, found, noisy=not self._reuse)
            return held
        study.set_user_attr(DENSE, found)
        LOGGER.info(f"Dense network: {found}.")
        return found

    def _measured_dense(self, space: PruningSpace) -> dict[str, float]:
        needed = [name for name in self._objectives if name not in COUNTS]
        needed += [requirement.metric for requirement in self._requirements]
        nothing = dict.fromkeys(space.distributions, 0.0)
        dense = self._measured(space, nothing, optuna.trial.FixedTrial({}), needed).metrics
        problem = not_finite(dense)
        if problem:
            raise ValueError(f"Expected the metrics of the dense network to be finite, but {problem}.")
        for requirement in self._requirements:
            if requirement.violation(dense[requirement.metric]) > 0:
                raise ValueError(
                    f"Expected the dense network to meet {requirement}, but it has {dense[requirement.metric]:.6g}: "
                    "pruning will hardly do better; relax the requirement."
                )
        return dense
