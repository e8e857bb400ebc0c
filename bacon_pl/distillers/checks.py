"""Checks at the start of a run, so that no computation is wasted and no existing result is lost."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging

from bacon_pl.data import DatasetMeta
from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.errors import BaconError

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")

# Trainer flags that have no meaning for a distillation, which is one epoch of iterations without validation: their
# default values, and what to do instead.
_ITERATIONS = "count the iterations by max_steps"
_NO_VALIDATION = "there is no validation loop; ValidationAccuracy (--validation.every_n_steps) validates"
_FLAGS: dict[str, tuple[tuple[Any, ...], str]] = {
    "limit_train_batches": ((None, 1.0), _ITERATIONS),
    "overfit_batches": ((0.0,), _ITERATIONS),
    "min_steps": ((None,), _ITERATIONS),
    "min_epochs": ((None, 0), _ITERATIONS),
    "reload_dataloaders_every_n_epochs": ((0,), "there is one epoch"),
    "val_check_interval": ((None, 1.0), _NO_VALIDATION),
    "check_val_every_n_epoch": ((1,), _NO_VALIDATION),
    "limit_val_batches": ((None, 1.0), _NO_VALIDATION),
    "gradient_clip_val": ((None, 0, 0.0), "set the method's own, such as --model.clip_gradient"),
    "accumulate_grad_batches": ((1,), "an iteration takes all its images at once, in blocks by --model.memory_gib"),
}


def run_seed(seed: int | None) -> int:
    """Return the seed of a run: the given one, else that of ``lightning.seed_everything``, else 0.

    Raises:
        BaconError: The seed is negative or not a whole number.
    """
    try:
        found = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else operator.index(seed)
    except TypeError:
        found = -1
    if found < 0:
        raise BaconError(f"the seed must be a whole number, zero or positive, got {seed}.")
    return found


def check_nothing_is_new(module: torch.nn.Module, before: Collection[str]) -> None:
    """Check that the parts of a module are those that it had when it was made.

    Args:
        module: The module after its ``prepare``.
        before: Names in its state dict before.

    Raises:
        BaconError: There are more.
    """
    if new := sorted({name.partition(".")[0] for name in set(module.state_dict()) - set(before)}):
        raise BaconError(
            f"{type(module).__name__}.prepare makes '{new[0]}' a part of the module, which no checkpoint could bring "
            "back: make it in __init__, or keep it in a list or dictionary and save it by extra_state."
        )


def check_trainer(trainer: Any) -> None:
    """Check that the Trainer's settings are compatible with a distillation.

    Raises:
        BaconError: The precision, a flag or a callback is not compatible.
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
    for flag, (defaults, instead) in _FLAGS.items():
        if (given := getattr(trainer, flag, defaults[0])) not in defaults and not trainer.fast_dev_run:
            raise BaconError(f"--trainer.{flag} {given} does not go with a distillation: {instead}.")
    if trainer.max_epochs == 0:
        raise BaconError(f"--trainer.max_epochs 0 does not go with a distillation: {_ITERATIONS}.")
    if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):
        raise BaconError(
            "StochasticWeightAveraging averages over epochs, and a distillation is one epoch: take it out."
        )
    if any(isinstance(callback, EarlyStopping) for callback in trainer.callbacks):
        raise BaconError(
            "EarlyStopping looks at an epoch's end, and a distillation is one epoch, so it would never act: take it "
            "out, and use ValidationAccuracy (--validation.every_n_steps, --validation.keep_best true) to end with the "
            "best images."
        )


def check_pixels(meta: DatasetMeta, space: str, clamp_pixels: bool) -> None:
    """Check that settings about single pixels are not applied to whitened images, which mix all pixels.

    Args:
        meta: Description of the dataset.
        space: Space in which steps are taken.
        clamp_pixels: Whether images are clamped to black and white.

    Raises:
        BaconError: The images are whitened, and a setting is about pixels.
    """
    given = {"--model.space pixels": space == "pixels", "--model.clamp_pixels": clamp_pixels}
    if meta.whitening is not None and (wrong := [name for name, value in given.items() if value]):
        raise BaconError(
            f"{' and '.join(wrong)} cannot be used with --data.whitening {meta.whitening.kind}, whose values are not "
            "pixels: give --model.space normalized --model.clamp_pixels false, or leave the whitening out."
        )


def check_nothing_is_lost(trainer: Any, overwrite: bool) -> None:
    """Check that the run will not overwrite the distilled set of another run.

    Args:
        trainer: The Trainer, in whose root directory the set will be written.
        overwrite: Whether an existing set may be replaced.

    Raises:
        BaconError: There is a set that may not be replaced.
    """
    there = Path(trainer.default_root_dir, FILE_NAME)
    if there.exists() and not (overwrite or trainer.fast_dev_run or trainer.ckpt_path):
        raise BaconError(
            f"'{there.parent}' holds a finished run, whose set would be lost: give another default_root_dir, resume "
            "with ckpt_path, or set module.overwrite = True (--overwrite true)."
        )
