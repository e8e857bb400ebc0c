"""Checks at the start of a run, so that no computation is wasted and no existing result is lost."""

from __future__ import annotations

import operator
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch import callbacks
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from bacon_pl import time_limit
from bacon_pl.data import DatasetMeta
from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.errors import BaconError, TimeUpError

_PRECISIONS = ("32-true", "64-true", "bf16-mixed")

# Trainer flags that have no meaning for a distillation, which is one epoch of iterations without validation: their
# default values, and what to do instead.
_ITERATIONS = "count the iterations by max_steps"
_NO_VALIDATION = "there is no validation loop; ValidationAccuracy (--validation.every_n_steps) validates"
_FLAGS: dict[str, tuple[tuple[Any, ...], str]] = {
    "overfit_batches": ((0, 0.0), _ITERATIONS),  # first, since it sets limits
    "limit_train_batches": ((None, 1.0), _ITERATIONS),
    "min_steps": ((None,), _ITERATIONS),
    "min_epochs": ((None, 0), _ITERATIONS),
    "reload_dataloaders_every_n_epochs": ((0,), "there is one epoch"),
    "val_check_interval": ((None, 1.0), _NO_VALIDATION),
    "check_val_every_n_epoch": ((1,), _NO_VALIDATION),
    "limit_val_batches": ((None, 1.0), _NO_VALIDATION),
    "gradient_clip_val": ((None, 0, 0.0), "set the method's own, such as --model.clip_gradient"),
    "accumulate_grad_batches": ((1,), "an iteration takes all its images at once, in blocks by --model.memory_gib"),
}


_NEVER = ("on_before_backward", "on_after_backward", "on_before_optimizer_step", "on_before_zero_grad")
"""Hooks of callbacks around Lightning's own backward pass and optimizers."""


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
        given = getattr(trainer, flag, defaults[0])
        # A fraction of 1.0 is all batches, and a number of 1 is one.
        default = any(given == value and type(given) is type(value) for value in defaults)
        if not default and not trainer.fast_dev_run:
            raise BaconError(f"--trainer.{flag} {given} does not go with a distillation: {instead}.")
    if trainer.max_epochs == 0:
        raise BaconError(f"--trainer.max_epochs 0 does not go with a distillation: {_ITERATIONS}.")
    if any(isinstance(callback, StochasticWeightAveraging) for callback in trainer.callbacks):
        raise BaconError(
            "StochasticWeightAveraging averages over epochs, and a distillation is one epoch: take it out."
        )
    if any(isinstance(callback, getattr(callbacks, "WeightAveraging", ())) for callback in trainer.callbacks):
        raise BaconError(
            "WeightAveraging averages the weights of networks, and a distillation trains images: take it out; "
            "ValidationAccuracy (--validation.every_n_steps, --validation.keep_best true) ends with the best images."
        )
    for callback in trainer.callbacks:
        if never := [name for name in _NEVER if getattr(type(callback), name) is not getattr(pl.Callback, name)]:
            rank_zero_warn(
                f"{type(callback).__name__}.{never[0]} is not called by methods that compute gradients without "
                "backward(), as those of this package do: use on_train_batch_end, where module.images.grad is the last "
                "gradient."
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


def check_ended(trainer: Any, done: int, num_iterations: int | None) -> None:
    """Check that a run has ended because it is finished, or because it was asked to stop.

    Args:
        trainer: The Trainer.
        done: Number of finished iterations.
        num_iterations: Number of iterations after which the method is finished, or None.

    Raises:
        BaconError: The run has ended before its last iteration, at a limit.
    """
    try:
        time_limit.raise_if_up(trainer, done, num_iterations or trainer.max_steps)
    except TimeUpError as error:
        raise BaconError(
            f"the time that max_time gives was up after iteration {done:,} of {error.total:,}, so no set is written: "
            "add bacon_pl.checkpoints.Checkpoints to the Trainer's callbacks, and a run goes on from its last one."
        ) from error
    if 0 <= done < trainer.max_steps and not trainer.should_stop:
        raise BaconError(
            f"the run ended after {done} of {trainer.max_steps} iterations, so no set is written: resume it from a "
            "checkpoint of bacon_pl.checkpoints.Checkpoints, or with a larger max_epochs."
        )


def check_counts(trainer: Any, done_before: int, done: int) -> None:
    """Check that a run begins with a new module and Trainer, or goes on with those of a checkpoint.

    Args:
        trainer: The Trainer.
        done_before: Iterations that the module had done before the Trainer took it.
        done: Iterations that it has done, those of the checkpoint included.

    Raises:
        BaconError: The module or its Trainer has been used, or the checkpoint is beyond the last iteration.
    """
    if done_before and not trainer.ckpt_path:
        raise BaconError(
            f"this module has done {done_before} iterations already: make a new one for another run, or resume its own "
            "with trainer.fit(..., ckpt_path=...)."
        )
    if trainer.global_step and not trainer.ckpt_path:
        raise BaconError(
            f"this Trainer has counted {trainer.global_step} iterations of another run: make a new Trainer for every "
            "module."
        )
    if 0 <= trainer.max_steps < done:
        raise BaconError(
            f"the checkpoint is of iteration {done}, and --trainer.max_steps is {trainer.max_steps}: give at least as "
            "many iterations as are done."
        )
