"""The files of checkpoints: written whole or not at all, checked before they are trusted, and found again.

A checkpoint is what ``torch.save`` writes: a zip archive of plain tensors, numbers and text. It is loaded without
running code (``weights_only``), after its checksums and sizes have been compared with the file.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from bacon_pl.distillers.lifecycle import CHECKPOINT_FORMAT
from bacon_pl.errors import BaconError
from bacon_pl.runtime import replacing

FOLDER = "checkpoints"
_NAME = re.compile(r"iteration=(\d+)\.ckpt")
_log = logging.getLogger(__name__)


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Load a checkpoint onto the CPU, without running code from it.

    Args:
        path: Its file.

    Raises:
        BaconError: The file is missing, damaged or not a checkpoint of a distillation.
    """
    path = Path(path)
    if not path.is_file():
        raise BaconError(
            f"there is no checkpoint at '{path}' (--ckpt_path): give a .ckpt file of an earlier run, its folder, or "
            "'last'."
        )
    damaged = f"the checkpoint '{path}' is damaged: use an earlier one or --ckpt_path last, which finds it."
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch stores without compression: anything else, or more than the file holds, is not to be unpacked.
            if any(e.compress_type != zipfile.ZIP_STORED or e.file_size != e.compress_size for e in entries):
                raise BaconError(damaged)
            if sum(e.file_size for e in entries) > path.stat().st_size or archive.testzip() is not None:
                raise BaconError(damaged)
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BaconError(f"the checkpoint '{path}' holds more than tensors, numbers and text: not loaded.") from None
    except (OSError, zipfile.BadZipFile, RuntimeError, ValueError, KeyError, EOFError, NotImplementedError) as error:
        _log.debug("reading %s: %s", path, error)
        raise BaconError(damaged) from None
    if not (isinstance(checkpoint, dict) and {"global_step", "loops"} <= checkpoint.keys()):
        raise BaconError(f"the file '{path}' is not a checkpoint of a distillation: give one that bacon fit wrote.")
    if not isinstance(checkpoint.get("bacon_pl"), dict) or checkpoint["bacon_pl"].get("format") != CHECKPOINT_FORMAT:
        raise BaconError(
            f"the checkpoint '{path}' is of another version of this package, or no distillation's: use the version "
            "that wrote it, or start anew in another --trainer.default_root_dir."
        )
    return checkpoint


def iterations_done(path: str | os.PathLike[str]) -> int:
    """Iterations that a checkpoint was written after, which is read without the rest of it.

    Args:
        path: A file that :func:`read` takes.
    """
    return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"])


def in_folder(root: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in a run's folder, newest first."""
    found = [(int(m[1]), path) for path in Path(root, FOLDER).glob("*.ckpt") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest(root: str | os.PathLike[str]) -> Path | None:
    """The newest checkpoint of a run's folder that is whole, None if there is none; damaged ones are warned of.

    Raises:
        BaconError: There are checkpoints, but all of them are damaged.
    """
    paths = in_folder(root)
    for path in paths:
        try:
            read(path)
        except BaconError as error:
            warnings.warn(f"{error} Trying the one before.", stacklevel=2)
        else:
            return path
    if paths:
        raise BaconError(
            f"all checkpoints in '{Path(root, FOLDER)}' are damaged: start anew with --overwrite true, or in another "
            "--trainer.default_root_dir."
        )
    return None


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place, and moves it there when it is on the disk; reads with :func:`read`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; whatever happens, an old file at ``path`` or the new one is there, whole.

        Raises:
            BaconError: The disk is full, or the folder cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError
            raise BaconError(
                f"cannot write the checkpoint '{path}' ({error}): make room or choose another "
                "--trainer.default_root_dir; earlier checkpoints are as they were."
            ) from None

    def load_checkpoint(self, path: str | os.PathLike[str], *_: Any, **__: Any) -> dict[str, Any]:
        """See :func:`read`."""
        return read(path)
