"""Short distillations of the digits by the real Trainer."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint

from bacon_pl.checkpoint_files import newest
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.data import DataModule
from bacon_pl.distillers import DistributionMatching, PoolSettings
from bacon_pl.networks import ConvNet

SMALL_POOL = PoolSettings(initial=2, push_every=2, capacity=4, train_networks=2, train_steps=2)


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


def trainer(root, steps, **flags):
    saves = any(isinstance(callback, Checkpoint) for callback in flags.get("callbacks", []))
    quiet = {"logger": False, "enable_checkpointing": saves, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "max_epochs": 1, "accelerator": "cpu"}
    return pl.Trainer(max_steps=steps, default_root_dir=root, **{**quiet, **flags})


def digits(**settings):
    return DataModule(name="digits", **{"batch_real": 8, "pool_batch": 16, **settings})


def matching(**settings):
    """A small distribution matching."""
    return DistributionMatching(**{"ipc": 1, "network": small, "pool": SMALL_POOL, **settings})


def distill(root, steps=3, *, data=None, flags=None, ckpt_path=None, module=None, **settings):
    """Run a module, or a small distribution matching with these settings, on the digits; returns the module.

    A set that an earlier run has left in ``root`` is replaced.
    """
    module = matching(**settings) if module is None else module
    module.overwrite = True
    trainer(root, steps, **(flags or {})).fit(module, datamodule=digits(**(data or {})), ckpt_path=ckpt_path)
    return module


def fit(module, root, steps=3, *callbacks, data=None, **flags):
    trainer(root, steps, callbacks=list(callbacks), **flags).fit(module, datamodule=data or digits())
    return module


def resume(module, root, steps=6, *callbacks, **flags):
    path = newest(root)
    trainer(root, steps, callbacks=[*callbacks, Checkpoints(2)], **flags).fit(
        module, datamodule=digits(), ckpt_path=path
    )
    return module
