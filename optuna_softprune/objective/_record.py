"""What a study keeps of its space: the public, stable format, schema 1.

Keys begin with `softprune:`. In the study: `schema`, `versions`, `groups`, `components`, `weights`, `counts`
(parameters and multiply-accumulates of the dense network), `importance`, `reconstruction`, `tied`, `widths`,
`order:<i>`, `constraint`, `objective`, `dense`, `metric` (the name of the metric's function), `finish` (whether
candidates are finished before they are measured), `formula` (of the parameters, `Count.to_dict`; left out where it is
long).
In a trial: `sparsity` (of what the constraint counts), `parameters`, `macs`, `feasible`, `role`, `iteration`,
`failure`, `interrupted`, and `candidate`: units kept of each group, all named metrics, and what identifies the space
and its order of units.
"""

from __future__ import annotations

import hashlib
import json
import platform
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scipy
import torch
from optuna.trial import TrialState

from optuna_softprune._errors import StudyMismatchError, shorten
from optuna_softprune._keys import CONSTRAINT, PREFIX
from optuna_softprune._log import LOGGER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

    from optuna_softprune._space import PruningSpace

SCHEMA = 1
CANDIDATE = f"{PREFIX}candidate"
DENSE = f"{PREFIX}dense"
ROLE = f"{PREFIX}role"
ITERATION = f"{PREFIX}iteration"
FEASIBLE = f"{PREFIX}feasible"
GROUPS = f"{PREFIX}groups"
METRIC_NAME = f"{PREFIX}metric"
FINISH = f"{PREFIX}finish"
WEIGHTS = f"{PREFIX}weights"
COUNTS_OF_DENSE = f"{PREFIX}counts"
FORMULA = f"{PREFIX}formula"
# What a study is found to differ in, where that is not called as its key.
DIFFER = {"schema": "stored format", "tied": "tied groups"}
# MySQL keeps values of up to 65,535 bytes.
CHUNK = 50_000


class Claimed(NamedTuple):
    """What an objective evaluates a study's candidates with.

    Attributes:
        space: The space, with the study's order of units.
        identity: What tells its networks from those of other spaces and orders; each trial keeps it.
    """

    space: PruningSpace
    identity: str


def claim(study: optuna.Study, space: PruningSpace, settings: Mapping[str, Any]) -> Claimed:
    """Make a study this space's own, or check that it and its trials are.

    Args:
        study: The study.
        space: The search space.
        settings: What must be equal besides the space: constraint and objective.

    Raises:
        StudyMismatchError: If the study belongs to something else; the message names the first difference.
    """
    fingerprint = space.fingerprint
    mine = {"schema": SCHEMA, **fingerprint, **settings}
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    held = study.user_attrs  # read after the trials: another worker writes them in the other order
    if f"{PREFIX}schema" not in held:
        if complete:
            raise StudyMismatchError(
                f"Expected study {study.study_name!r} to have a record of the search that it belongs to, but it has "
                f"{len(complete)} complete trials and none: it was made by something else, or a copy lost its user "
                "attributes. Use another study name, or copy it again with `optuna.copy_study`."
            )
        _write(study, mine, space)
        held = study.user_attrs
    for key, value in mine.items():
        if held.get(f"{PREFIX}{key}") != _plain(value):
            raise StudyMismatchError(
                f"Expected study {study.study_name!r} to belong to this search, but they differ in their "
                f"{DIFFER.get(key, key)}: the study has "
                f"{_short(held.get(f'{PREFIX}{key}'))}, this search has {_short(value)}. Use another study name, or "
                "the model and settings that the study was made with."
            )
    _tell_versions(held.get(f"{PREFIX}versions", {}))
    text = _joined(held)
    order = [np.array(units, np.int64) for units in json.loads(text)]
    moved = sum(int((a != b).any()) for a, b in zip(order, space.order, strict=True))
    if moved:
        LOGGER.warning(
            f"The units of {moved} groups rank differently here than when the study began (another device or other "
            "calibration batches): the study's order is used."
        )
    identity = hashlib.sha256(f"{json.dumps(_plain(fingerprint), sort_keys=True)} {text}".encode()).hexdigest()[:16]
    expect_own(study, identity, complete)
    return Claimed(space.with_order(order), identity)


def expect_own(study: optuna.Study, identity: str, complete: Sequence[optuna.trial.FrozenTrial]) -> None:
    """Raise unless complete trials of a study are of the search that is identified so.

    Raises:
        StudyMismatchError: If some are not.
    """
    foreign = [trial.number for trial in complete if trial.user_attrs.get(CANDIDATE, {}).get("space") != identity]
    if foreign:
        raise StudyMismatchError(
            f"Expected all complete trials of study {study.study_name!r} to be of this search, but trials "
            f"{shorten([str(number) for number in foreign])} are not: they were added from another study, or were not "
            "evaluated by a `PruningObjective`. Use another study name."
        )


def check_finish(study: optuna.Study, finishes: bool) -> None:
    """Note whether a study's candidates are finished before they are measured, or check that they are.

    Raises:
        StudyMismatchError: If the study was begun the other way.
    """
    held = study.user_attrs.get(FINISH)
    if held is None:
        study.set_user_attr(FINISH, finishes)
    elif held != finishes:
        theirs, mine = "are measured as they are", "has a `finish`: leave it out"
        if held:
            theirs, mine = "are finished before they are measured", "has no `finish`: give it the one of the study"
        raise StudyMismatchError(
            f"Expected study {study.study_name!r} to belong to this search, but its candidates {theirs}, this search "
            f"{mine}, or use another study name."
        )


def _write(study: optuna.Study, mine: Mapping[str, Any], space: PruningSpace) -> None:
    text = json.dumps([units.tolist() for units in space.order], separators=(",", ":"))
    for i in range(0, len(text), CHUNK):
        study.set_user_attr(f"{PREFIX}order:{i // CHUNK}", text[i : i + CHUNK])
    formula = space.count("parameters").to_dict()
    if len(json.dumps(formula)) <= CHUNK:
        study.set_user_attr(FORMULA, formula)
    study.set_user_attr(f"{PREFIX}versions", versions())
    for key in reversed(list(mine)):  # `schema` last: a study with it is whole
        study.set_user_attr(f"{PREFIX}{key}", mine[key])


def _joined(held: Mapping[str, Any]) -> str:
    chunks = [key for key in held if key.startswith(f"{PREFIX}order:")]
    return "".join(held[key] for key in sorted(chunks, key=lambda key: int(key.rpartition(":")[2])))


def trial_facts(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Return what a smaller network's file says of the trial that it comes from, as JSON."""
    held, found = study.user_attrs, trial.user_attrs
    return {
        "name": study.study_name,
        "trial": trial.number,
        "metrics": found.get(CANDIDATE, {}).get("metrics", {}),
        "dense": held.get(DENSE, {}),
        "constraint": held.get(CONSTRAINT),
        **{name: found.get(f"{PREFIX}{name}") for name in ("sparsity", "parameters", "macs")},
        "weights": held.get(WEIGHTS),
    }


def versions() -> dict[str, str]:
    """Return the versions that a study's results may depend on."""
    from optuna_softprune import __version__

    return {
        "optuna_softprune": __version__,
        "torch": torch.__version__,
        "scipy": scipy.__version__,
        "python": platform.python_version(),
    }


def _tell_versions(held: Mapping[str, str]) -> None:
    changed = [f"{name} {held.get(name)} -> {now}" for name, now in versions().items() if held.get(name) != now]
    if changed:
        LOGGER.warning(f"The study was begun with other versions: {', '.join(changed)}. Its results are kept.")


def _plain(value: Any) -> Any:
    """Return `value` as JSON gives it back."""
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}..."
