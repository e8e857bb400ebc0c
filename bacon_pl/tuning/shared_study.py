"""A study that several processes fill: which settings are tried, which results are there, and who makes the next.

Optuna numbers trials in the order in which they begin, and one that is killed keeps its number. What is tried must not
depend on that, so every trial has a ``point`` of a list that depends on the seed alone. A process holds a lock while it
makes a point, which the system takes from it when it dies, and stores the trial when it is finished.
"""

from __future__ import annotations

import contextlib
import glob
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from bacon_pl.errors import BaconError
from bacon_pl.runtime import held_file, lock
from bacon_pl.tuning.knobs import Knob

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

_POINT = "point"
_PATIENCE = 60.0  # seconds in which another process has opened the study


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


def points(knobs: Sequence[Knob], first: Mapping[str, Any], count: int, seed: int) -> list[FrozenTrial]:
    """List what is tried, as trials without a result. A longer list begins with the shorter one.

    Args:
        knobs: The settings that are tuned.
        first: Those of the first trial, as Optuna calls them.
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
    return list(study.get_trials(deepcopy=False))


def finished(study: Study) -> dict[int, FrozenTrial]:
    """Return the trials with a result, by point. Earlier versions went by the trial's number."""
    optuna = load_optuna()
    done: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(states=(optuna.trial.TrialState.COMPLETE,)):
        done.setdefault(int(trial.user_attrs.get(_POINT, trial.number)), trial)
    return dict(sorted(done.items()))


@dataclass(frozen=True)
class Turn:
    """The turn of this process to make a point; it ends with :meth:`close`, or with the process.

    Attributes:
        point: The point's place in the list.
        file: The locked file.
    """

    point: int
    file: IO[Any]

    def store(self, study: Study, planned: FrozenTrial, accuracy: float, told: Mapping[str, Any]) -> None:
        """Store the result.

        Args:
            study: The study.
            planned: The point of the list.
            accuracy: What is maximized.
            told: What else is to be known of the trial.
        """
        optuna = load_optuna()
        study.add_trial(
            optuna.trial.create_trial(
                value=accuracy,
                params=planned.params,
                distributions=planned.distributions,
                user_attrs={_POINT: self.point, **told},
            )
        )
        # Still locked: whoever has opened the file meanwhile finds the point finished.
        Path(self.file.name).unlink(missing_ok=True)

    def close(self) -> None:
        """Let others have the point, if it is not finished."""
        self.file.close()


@contextlib.contextmanager
def opening(result: Path) -> Iterator[None]:
    """Let one process at a time open a study, mark it as its own, or take a turn in it.

    Args:
        result: The file of the tuning's result, beside which the lock lies.

    Raises:
        BaconError: No file can be written there, or another process holds the lock for very long.
    """
    path = result.with_name(f".{result.name}.opening")  # no name of a turn's lock, whatever other results are called
    give_up = time.monotonic() + _PATIENCE
    while True:
        with contextlib.ExitStack() as stack:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                taken = stack.enter_context(held_file(path))
            except OSError as error:
                raise _unwritable(path, error) from error
            if taken:
                yield
                return
        if time.monotonic() > give_up:
            raise BaconError(f"another process has kept '{path}' locked: end it, or give another --out.")
        time.sleep(0.05)


def _unwritable(path: Path, error: OSError) -> BaconError:
    return BaconError(f"cannot write '{path}' ({error.strerror or error}): give another --out.")


def under_way(result: Path) -> bool:
    """Return whether a process is making a point of the tuning with this result."""
    for path in result.parent.glob(f".{glob.escape(result.stem)}-*.lock"):
        with contextlib.suppress(OSError), open(path, "a") as file:
            if not lock(file):
                return True
    return False


def take_turn(study: Study, count: int, result: Path) -> Turn | None:
    """Take the first point that is missing and that no other process is making.

    Args:
        study: The study.
        count: Number of points.
        result: The file of the tuning's result, beside which locks lie.

    Returns:
        The turn, which the caller closes; None if there is nothing to make.

    Raises:
        BaconError: No file can be written there.
    """
    done = finished(study)
    for point in range(count):
        if point in done:
            continue
        path = result.with_name(f".{result.stem}-{point}.lock")
        try:
            file = open(path, "a")  # noqa: SIM115
        except OSError as error:
            raise _unwritable(path, error) from error
        if lock(file) and point not in finished(study):
            return Turn(point, file)
        file.close()
    return None
