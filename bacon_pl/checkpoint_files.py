"""Checkpoint files: writing them atomically, checking and reading them, and finding the newest one.

A checkpoint is a file of ``torch.save``: a zip archive with plain tensors, numbers and text. It is loaded without
executing code (``weights_only``), after its checksums and sizes have been verified.
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
    """Load a checkpoint onto the CPU without executing code from it.

    Args:
        path: The file.

    Returns:
        The content of the checkpoint.

    Raises:
        BaconError: The file is missing, damaged or not a checkpoint of a distillation.
    """
    path = Path(path)
    if not path.is_file():
        raise BaconError(
            f"there is no checkpoint at '{path}' (--ckpt_path): give a .ckpt file of an earlier run; the command also "
            "takes a run's folder, or 'last'."
        )
    damaged = f"the checkpoint '{path}' is damaged: use an earlier one or --ckpt_path last, which finds it."
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            # torch does not compress entries; compressed entries, or sizes beyond the file's, must not be unpacked.
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
            "that wrote it, or start a new run in another --trainer.default_root_dir."
        )
    return checkpoint


def iterations_done(path: str | os.PathLike[str]) -> int:
    """Return the number of finished iterations of a checkpoint without reading its tensors.

    Args:
        path: A valid checkpoint file.
    """
    return int(torch.load(path, map_location="cpu", mmap=True, weights_only=True)["global_step"])


def in_folder(root: str | os.PathLike[str]) -> list[Path]:
    """List the checkpoints in a run's folder, newest first."""
    found = [(int(m[1]), path) for path in Path(root, FOLDER).glob("*.ckpt") if (m := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found, reverse=True)]


def newest(root: str | os.PathLike[str]) -> Path | None:
    """Return the newest intact checkpoint in a run's folder, or None if there are none; warn about damaged ones.

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
            f"all checkpoints in '{Path(root, FOLDER)}' are damaged: start a new run with --overwrite true, or in "
            "another --trainer.default_root_dir."
        )
    return None


class WholeFiles(TorchCheckpointIO):
    """Writes checkpoints atomically, by renaming a complete temporary file, and reads them with :func:`read`."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint. If this fails, an existing file at ``path`` stays intact.

        Raises:
            BaconError: The disk is full, or the folder cannot be written.
        """
        path = Path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:  # torch's zip writer raises a RuntimeError if the disk is full
            raise BaconError(
                f"cannot write the checkpoint '{path}' ({error}): make room or choose another "
                "--trainer.default_root_dir; earlier checkpoints are as they were."
            ) from None

    def load_checkpoint(self, path: str | os.PathLike[str], *_: Any, **__: Any) -> dict[str, Any]:
        """See :func:`read`."""
        return read(path)
