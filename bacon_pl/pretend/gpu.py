"""A pretend GPU: runs on a CPU what a GPU would run, and names the lines at which a GPU would have to wait."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import lightning.pytorch as pl
import torch
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import SingleDeviceStrategy

from bacon_pl.errors import BaconError
from bacon_pl.pretend import tensor
from bacon_pl.pretend.functions import PretendFactories, PretendFunctions

_OWN = str(Path(__file__).parent)
_LIBRARIES = ("site-packages", "dist-packages", str(Path(contextlib.__file__).parent))


@dataclass(frozen=True)
class Wait:
    """Where a GPU would wait, or refuse.

    Attributes:
        where: File and line, as ``folder/file.py:12``: the innermost line that is not of a library.
        what: What is done there.
        step: Number of the training step, from 0; -1 outside of a training.
    """

    where: str
    what: str
    step: int = -1

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class PretendGPU:
    """A device for tests, on a CPU: code sees a CUDA device, and what would make it wait is noted, with its line.

    A GPU works off what it is told while the host goes on, until the host wants a number or brings one: this takes as
    long as all that is queued, in every iteration again. Noted are reads of numbers (``item``, ``float``, an ``if``
    about a tensor), shapes that depend on numbers (masks as indices, ``nonzero``, ``unique``), tensors made of numbers
    of the host, copies between host and device unless they come from pinned memory with ``non_blocking=True``, and host
    tensors among those of the device, which a GPU refuses.

    Networks that are trained meanwhile lie in a folder that ends with the process, not in the cache that runs read.

    What it cannot tell: how fast anything is; what torch's C++ code does differently on a GPU, for it sees a CPU;
    compiled programs, reduced precision and several devices.

    Attributes:
        device: The device, a CUDA device that does not exist.
        waits: What was noted while it was watched.
        copies: Copies from pinned memory, for which nobody waits, while it was watched.

    Examples:
        >>> import torch
        >>> with PretendGPU() as gpu:
        ...     x = torch.ones(3, device=gpu.device)
        ...     with gpu.watch():
        ...         shown = float(x.sum())
        >>> [wait.what for wait in gpu.waits]
        ['reads a number (item, float, int, bool, or an if about a tensor)']
    """

    def __init__(self) -> None:
        self.device = tensor.DEVICE
        self.waits: list[Wait] = []
        self.copies: list[Wait] = []
        self.step = -1
        self._watching = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> PretendGPU:
        """Begin to pretend, in this thread."""
        stack = self._stack
        stack.enter_context(_own_cache())
        # There is no generator of a device: what would be drawn there is drawn from that of the CPU.
        stack.enter_context(mock.patch("torch.cuda.get_rng_state", return_value=None))
        stack.enter_context(mock.patch("torch.cuda.set_rng_state", return_value=None))
        overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
        stack.callback(torch.__future__.set_overwrite_module_params_on_conversion, overwrites)
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*CUDA is not available")
        tensor._watchers.append(self._note)
        stack.callback(tensor._watchers.pop)
        functions = PretendFunctions(self._copied)
        stack.enter_context(PretendFactories(functions))
        stack.enter_context(functions)
        return self

    def __exit__(self, *error: Any) -> None:
        """End it. Tensors of the device are of no use from here on."""
        self._stack.close()

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Note what would wait during a block."""
        before, self._watching = self._watching, True
        try:
            yield
        finally:
            self._watching = before

    def trainer(self, first: int = 2, **flags: Any) -> pl.Trainer:
        """Make a Trainer whose device this is, and which is watched from a step on, between the steps, too.

        Args:
            first: First step that is watched, from 0: earlier ones may make what is kept.
            flags: Of the Trainer. By default nothing is logged, shown or saved, for which a device is read.
        """
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        flags = {**quiet, "enable_model_summary": False, "max_epochs": 1, **flags}
        flags["callbacks"] = [_Watched(self, first), *flags.get("callbacks", [])]
        return pl.Trainer(strategy=SingleDeviceStrategy(self.device, _Accelerator()), **flags)

    def raise_if_any(self) -> None:
        """Raise an error if anything would wait.

        Raises:
            BaconError: The message has a line for each place.
        """
        if self.waits:
            lines = dict.fromkeys(f"  {wait}" for wait in self.waits)
            raise BaconError("a GPU would wait, or refuse, at\n" + "\n".join(lines))

    def _note(self, what: str) -> None:
        if self._watching:
            self.waits.append(Wait(_where(), what, self.step))

    def _copied(self) -> None:
        if self._watching:
            self.copies.append(Wait(_where("placing.py"), "copies from pinned memory", self.step))


def check_iterations(module: pl.LightningModule, data: pl.LightningDataModule, steps: int = 4) -> list[Wait]:
    """Run some iterations of a distillation as on a GPU, and check that nothing in them makes it wait.

    The first iteration may, since it makes what later ones keep.

    Args:
        module: A new :class:`~bacon_pl.distillers.Distiller`.
        data: The real images.
        steps: Iterations, at least two. They are to be enough for all that happens in some of them only.

    Returns:
        The copies from pinned memory, for which nobody waits.

    Raises:
        BaconError: The message names the lines that would make a GPU wait.
    """
    with PretendGPU() as gpu, tempfile.TemporaryDirectory() as folder:
        gpu.trainer(max_steps=steps, default_root_dir=folder).fit(module, datamodule=data)
    gpu.raise_if_any()
    return gpu.copies


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bacon_pl-pretend-")


@contextlib.contextmanager
def _own_cache() -> Iterator[None]:
    """Keep what is trained in a folder that ends with the process, out of the cache that others read.

    Networks are rounded in another way than on a CPU, as those of a real GPU are.
    """
    before = os.environ.get("BACON_CACHE")
    os.environ["BACON_CACHE"] = _folder().name
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("BACON_CACHE", None)
        else:
            os.environ["BACON_CACHE"] = before


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


class _Watched(Callback):
    """Watches from one step on until the end of the training."""

    def __init__(self, gpu: PretendGPU, first: int) -> None:
        self.gpu = gpu
        self.first = first
        self._steps = 0

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.gpu.step = self._steps
        self.gpu._watching = self._steps >= self.first
        self._steps += 1

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.gpu._watching, self.gpu.step = False, -1

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self.gpu._watching = False


def _where(*skipped: str) -> str:
    """The innermost line that is neither of a library, nor of the pretense, nor of a file of these names."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        file = frame.f_code.co_filename
        skip = file.startswith((_OWN, "<frozen")) or (skipped and file.endswith(skipped))
        if not skip and not any(part in file for part in _LIBRARIES):
            path = Path(file)
            folders = list(path.parts)
            short = folders[folders.index("bacon_pl", -4) if "bacon_pl" in folders[-4:] else -2 :]
            return f"{'/'.join(short)}:{frame.f_lineno}"
        frame = frame.f_back
    return "?:0"
