"""Logging from a training step without the device being asked for a number."""

from __future__ import annotations

import numbers
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor


class DeviceLog(pl.LightningModule):
    """A LightningModule whose :meth:`log` does not let a GPU wait.

    Lightning copies a logged Python number to the device, and reads all that is for the progress bar in every step,
    whether it is shown or not. Here numbers are written by the device, and what is for the progress bar stays there,
    until :mod:`bacon_pl.progress` shows it. So Lightning's own progress bars show no numbers on a GPU.

    Attributes:
        shown: What was last logged for the progress bar, by name, on a device other than a CPU.
    """

    shown: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.shown = {}

    def log(self, name: str, value: Any, prog_bar: bool = False, *args: Any, **kwargs: Any) -> None:
        """Log a number; see Lightning.

        Args:
            name: Name of the number.
            value: A number, or a tensor with one element.
            prog_bar: Whether it is shown with the progress.
            args: See Lightning.
            kwargs: See Lightning.
        """
        if self.device.type != "cpu":
            if isinstance(value, numbers.Real):
                value = torch.full((), float(value), device=self.device)
            if prog_bar and isinstance(value, Tensor):
                self.shown[name] = value.detach().reshape(()).clone()
                prog_bar = False
        super().log(name, value, prog_bar, *args, **kwargs)
