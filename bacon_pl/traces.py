"""Removal of the files of a run that ended before its training started."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl


class _Began(pl.Callback):
    """Records that training has started."""

    def __init__(self) -> None:
        self.yes = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.yes = True


@contextlib.contextmanager
def leave_no_trace(trainer: pl.Trainer) -> Iterator[None]:
    """Remove the files of a run if it ends before its training starts, for example because of invalid input.

    This removes new folders of its loggers, and other new folders that are empty. Existing files, and files of a run
    that has started, are not touched.

    Args:
        trainer: The Trainer of the run, whose root directory is the folder of the run.
    """
    root = Path(trainer.default_root_dir).absolute()
    # With fast_dev_run, loggers are dummies without folders.
    logs: list[Any] = [
        one for one in trainer.loggers if getattr(one, "root_dir", None) and getattr(one, "log_dir", None)
    ]
    before = {Path(one.root_dir).absolute(): _listed(one.root_dir) for one in logs}
    there = {path for start in (root, *before) for path in (start, *start.parents) if path.exists()}
    began = _Began()
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(began)
    try:
        yield
    except BaseException:
        if trainer.is_global_zero and not began.yes:
            with contextlib.suppress(OSError):  # failures of the removal must not hide the original error
                for one in logs:
                    folder = Path(one.log_dir).absolute()
                    if folder.name not in before.get(folder.parent, {folder.name}):
                        shutil.rmtree(folder, ignore_errors=True)
                for start in (*before, root):
                    _remove_empty(start, there)
        raise
    finally:
        callbacks.remove(began)


def _listed(folder: str | os.PathLike[str]) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()


def _remove_empty(folder: Path, there: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):  # the folder is not empty, or does not exist
        for path in (folder, *folder.parents):
            if path in there:
                break
            path.rmdir()
