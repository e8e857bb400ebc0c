"""Every family, small, on a device."""

import lightning.pytorch as pl
import torch

from tests.distillers import running, trajectories
from tests.distillers.test_recovery import recovery
from tests.distillers.test_waits import EVERY

FAMILIES = {**EVERY, "recovery": (lambda **_: recovery(), {})}


FAMILIES["trajectory-mtt"] = (trajectories.matching, trajectories.KINDS["mtt"])


def made(name, **more):
    """A module of a family and its data."""
    make, settings = FAMILIES[name]
    module = make(**{key: value for key, value in settings.items() if key != "data"}, **more)
    module.overwrite = True
    return module, running.digits(**settings.get("data", {}))


class Start(pl.Callback):
    """Keeps the images from before the first iteration, and on what they were."""

    def on_train_start(self, trainer, pl_module):
        self.images = pl_module.images.detach().cpu().clone()
        self.device = pl_module.images.device.type


def moved(name, root, steps, *, callbacks=(), accelerator="cpu", **settings):
    """Run a family; returns how its images have moved, in float64 on the CPU, and its module."""
    module, data = made(name, **settings)
    start = Start()
    trainer = running.trainer(root, steps, accelerator=accelerator, devices=1, callbacks=[start, *callbacks])
    trainer.fit(module, datamodule=data)
    assert start.device == {"cpu": "cpu", "gpu": "cuda"}[accelerator]
    return module.images.detach().cpu().double() - start.images.double(), module


class NoWaits(pl.Callback):
    """Makes torch raise an error where the device would be waited for, from a step on, between the steps, too."""

    def __init__(self, first=5):  # what is made, or tried out, in the first iterations may wait
        self.first = first
        self.steps = 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if self.steps == self.first and pl_module.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")
        self.steps += 1

    def on_train_epoch_end(self, trainer, pl_module):
        self.end(pl_module)

    def on_exception(self, trainer, pl_module, exception):
        self.end(pl_module)

    def end(self, pl_module):
        """Let torch wait again."""
        if pl_module.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("default")
