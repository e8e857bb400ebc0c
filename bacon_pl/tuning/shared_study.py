"""A study that several processes fill: which settings it tries, which trials are there, and who makes the next.

Optuna numbers the trials in the order in which they begin, and one that was killed keeps its number. What is tried must
not depend on that, so every trial has a ``point`` of a list that depends on the seed alone, and a point whose trial was
broken off is tried again.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from bacon_pl.errors import BaconError
from bacon_pl.tuning.knobs import Knob

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

_POINT = "point"
_MAKER = "process"

GIVEN_UP = timedelta(days=1)
"""After what time a trial that has not ended is taken for broken off, wherever it was begun."""


def load_optuna() -> Any:
    """Import Optuna.

    Raises:
        BaconError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise BaconError("bacon tune needs Optuna: pip install 'bacon_pl[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    return optuna


def points(knobs: Sequence[Knob], first: Mapping[str, Any], count: int, seed: int) -> list[dict[str, Any]]:
    """List the settings that are tried, as Optuna calls them. A longer list begins with the shorter one.

    Args:
        knobs: The settings that are tuned.
        first: Those of the first trial.
        count: Number of trials.
        seed: Seed of the others, which are spread evenly (quasi-random).
    """
    optuna = load_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=seed, warn_independent_sampling=False)
    study = optuna.create_study(sampler=sampler)  # in memory
    study.enqueue_trial(dict(first))
    for _ in range(count):
        trial = study.ask()
        for knob in knobs:
            knob.suggest(trial)
        study.tell(trial, 0.0)
    return [dict(trial.params) for trial in study.get_trials(deepcopy=False)]


def finished(study: Study) -> dict[int, FrozenTrial]:
    """Return the trials with a result, by point."""
    optuna = load_optuna()
    done: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        done.setdefault(_point(trial), trial)
    return dict(sorted(done.items()))


def claim(study: Study, settings: Sequence[Mapping[str, Any]]) -> tuple[int, Trial] | None:
    """Begin the first trial that is missing and that no other process has begun.

    Args:
        study: The study.
        settings: What :func:`points` returned.

    Returns:
        The point and its trial; None if there is none left to begin.
    """
    optuna = load_optuna()
    while True:
        states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.RUNNING)
        there = study.get_trials(deepcopy=False, states=states)
        taken = {_point(trial) for trial in there if trial.state.is_finished() or not _broken_off(trial)}
        missing = [point for point in range(len(settings)) if point not in taken]
        if not missing:
            return None
        study.enqueue_trial(dict(settings[missing[0]]), user_attrs={_POINT: missing[0], _MAKER: _here()})
        trial = study.ask()
        point = int(trial.user_attrs[_POINT])
        trial.set_user_attr(_MAKER, _here())
        # Two processes may have looked at the same time: the trial with the smaller number is made.
        others = study.get_trials(deepcopy=False, states=states)
        if all(
            _point(other) != point
            or other.number >= trial.number
            or (_broken_off(other) and not other.state.is_finished())
            for other in others
        ):
            return point, trial
        give_up(study, trial)


def give_up(study: Study, trial: Trial) -> None:
    """End a trial without a result, so that its point is tried again.

    Args:
        study: The study.
        trial: A trial that this process has begun.
    """
    study.tell(trial, state=load_optuna().trial.TrialState.FAIL)


def _point(trial: FrozenTrial) -> int:
    """The point of a trial; earlier versions went by its number."""
    return int(trial.user_attrs.get(_POINT, trial.number))


def _here() -> list[Any]:
    return [socket.gethostname(), os.getpid()]


def _broken_off(trial: FrozenTrial) -> bool:
    """Whether the process that has begun a trial is no longer there, as far as one can tell from here."""
    host, process = trial.user_attrs.get(_MAKER, (None, 0))
    if host is None or (trial.datetime_start is not None and datetime.now() - trial.datetime_start > GIVEN_UP):
        return True
    if host != socket.gethostname():
        return False
    if process == os.getpid():  # of an earlier process with this number, for this one has ended its own
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
