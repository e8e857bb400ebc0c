"""What a run leaves on the disk that never began: nothing. What runs themselves write is not decided here."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl


class _Began(pl.Callback):
    """Notes that training has begun."""

    def __init__(self) -> None:
        self.yes = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.yes = True


@contextlib.contextmanager
def leave_no_trace(trainer: pl.Trainer) -> Iterator[None]:
    """Take away what a run has made, if it ends before its training begins, as on bad input.

    That is its loggers' new folders, and new folders that are empty then. Nothing that was there before is
    touched, and nothing of a run that has begun.

    Args:
        trainer: The run's; its root directory is the run's folder.
    """
    root = Path(trainer.default_root_dir).absolute()
    logs: list[Any] = [one for one in trainer.loggers if hasattr(one, "root_dir") and hasattr(one, "log_dir")]
    before = {Path(one.root_dir).absolute(): _listed(one.root_dir) for one in logs}
    there = {path for start in (root, *before) for path in (start, *start.parents) if path.exists()}
    began = _Began()
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    callbacks.append(began)
    try:
        yield
    except BaseException:
        if trainer.is_global_zero and not began.yes:
            with contextlib.suppress(OSError):  # what went wrong is told, whatever cannot be removed
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
    with contextlib.suppress(OSError):  # it is not empty, or was never made
        for path in (folder, *folder.parents):
            if path in there:
                break
            path.rmdir()
