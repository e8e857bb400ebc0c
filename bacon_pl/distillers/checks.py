"""What is told at the start of a run, whoever starts it, so that no hours are spent for nothing and nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import EarlyStopping

from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.errors import BaconError

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")


def run_seed(seed: int | None) -> int:
    """The seed of a run: the one given, else that of ``lightning.seed_everything``, else 0.

    Raises:
        BaconError: It is negative.
    """
    found = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
    if found < 0:
        raise BaconError(f"the seed must be zero or positive, got {found}.")
    return found


def check_trainer(trainer: Any) -> None:
    """Refuse what a distillation cannot heed.

    Raises:
        BaconError: The precision or a callback does not go with it.
    """
    if trainer.precision == "16-mixed":
        raise BaconError(
            "--trainer.precision 16-mixed scales losses, which the images' own gradient does not go through: use "
            "bf16-mixed."
        )
    if trainer.precision not in _PRECISIONS:
        raise BaconError(
            f"--trainer.precision {trainer.precision} would make the images themselves half precision, and steps "
            f"smaller than their rounding would be lost: use one of {', '.join(_PRECISIONS)}."
        )
    if any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks):
        raise BaconError(
            "EarlyStopping looks at an epoch's end, and a distillation is one epoch, so it would never act: take it "
            "out, and use ValidationAccuracy (--validation.every_n_steps, --validation.keep_best true) to end with the "
            "best images."
        )


def check_nothing_is_lost(trainer: Any, overwrite: bool) -> None:
    """Refuse to write over a distilled set that is not this run's.

    Args:
        trainer: Its root directory is where the set will be written.
        overwrite: The set that is there may be replaced.

    Raises:
        BaconError: There is one.
    """
    there = Path(trainer.default_root_dir, FILE_NAME)
    if there.exists() and not (overwrite or trainer.fast_dev_run or trainer.ckpt_path):
        raise BaconError(
            f"'{there.parent}' holds a finished run, whose set would be lost: give another default_root_dir, resume "
            "with ckpt_path, or set module.overwrite = True (--overwrite true)."
        )
