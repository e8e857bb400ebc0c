"""The timed workloads: a dataset, its settings, and the modules built from them."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from bacon_pl.augment import DSA
from bacon_pl.data import CATALOG, DataModule, DatasetSpec, LabeledImages, LoadOptions, register
from bacon_pl.distillers import DistributionMatching, PoolSettings
from bacon_pl.networks import Acceleration, ConvNet, NetworkFactory
from bacon_pl.objectives import BaconObjective
from bacon_pl.runtime import default_memory, keep_memory
from benchmarks.literal import LiteralDistillation


@dataclass(frozen=True)
class Settings:
    """One workload; the defaults are the published schedule of CIFAR-10 at 10 images per class (docs/methods/frame.md).

    Attributes:
        device: ``cpu`` or ``cuda``.
        dataset: ``cifar10``, ``mnist`` or ``synthetic`` (random pixels, no files).
        root: Folder of the data.
        ipc: Images per class.
        width: Filters per convolution.
        batch_real: Real images per class.
        pool_batch: Images per step of the pool's training.
        train_steps: Steps per network and iteration.
        acceleration: Passed on to the library.
        classes: Classes of the synthetic dataset.
        image_size: Side of its images.
        rounds: Alternations that are timed.
        per_round: Iterations of each contender in a round.
        warm_up: Iterations before the first round.
        threads: Threads of the CPU; None leaves torch's number.
        keep_memory: Keep freed tensors in the process, as the command line does.
        literal_keeps_memory: Let the literal contender profit from that, too.
        bfloat16: Use it where a processor has it; else run as on one that does not.
        seed: Seed of every draw.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    dataset: Literal["cifar10", "mnist", "synthetic"] = "synthetic"
    root: str = "data"
    ipc: int = 10
    width: int = 128
    batch_real: int = 256
    pool_batch: int = 256
    train_steps: int = 10
    acceleration: Acceleration = "on"
    classes: int = 10
    image_size: int = 32
    rounds: int = 5
    per_round: int = 1
    warm_up: int = 3
    threads: int | None = None
    keep_memory: bool = True
    literal_keeps_memory: bool = False
    bfloat16: bool = True
    seed: int = 0

    @property
    def network(self) -> NetworkFactory:
        """What pool and evaluation are made of."""
        return partial(ConvNet, width=self.width)


def memory_of_literal(s: Settings) -> AbstractContextManager[None]:
    """Run the published algorithm with the C library's own way with memory, unless it is to profit from ours."""
    return nullcontext() if s.literal_keeps_memory or not s.keep_memory else default_memory()


def prepare(s: Settings) -> None:
    """Set a process up for timing; every process that times anything calls this."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if s.threads:
        torch.set_num_threads(s.threads)
    if s.keep_memory:
        keep_memory()
    if not s.bfloat16:  # what the library asks
        torch.cpu._is_avx512_bf16_supported = lambda: False  # type: ignore[attr-defined]


def synthetic(classes: int, per_class: int, size: int) -> str:
    """Put a dataset of random color pixels into the library's catalog and return its name there."""
    name = f"random {classes}x{per_class} {size}"

    def load(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
        def split(per: int, seed: int) -> LabeledImages:
            generator = torch.Generator().manual_seed(seed)
            shape = (classes * per, 3, size, size)
            images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
            return LabeledImages(images, torch.arange(classes).repeat_interleave(per), tuple(map(str, range(classes))))

        return split(per_class, 0), split(1, 1)

    if name not in CATALOG:
        register(DatasetSpec(name, load, mean=(0.5,) * 3, std=(0.29,) * 3))
    return name


def data_module(s: Settings) -> DataModule:
    """The real images, loaded."""
    name: str = s.dataset
    mean = std = None
    if s.dataset == "synthetic":
        # As many images as CIFAR-10 where classes allow it: the draws take time in their number.
        name = synthetic(s.classes, max(s.batch_real, 4 * s.ipc, 50_000 // s.classes), s.image_size)
    elif s.dataset == "cifar10" and not (Path(s.root).expanduser() / "cifar-10-batches-py").is_dir():
        name, spec = "folder", CATALOG["cifar10"]
        mean, std = list(spec.mean or ()), list(spec.std or ())
    data = DataModule(name, s.root, mean=mean, std=std, batch_real=s.batch_real, pool_batch=s.pool_batch)
    data.setup()
    return data


def distill_module(s: Settings) -> DistributionMatching:
    """Our contender."""
    pool = PoolSettings(push_every=5 if s.ipc == 1 else 30, train_steps=s.train_steps)
    # Given, not left to the defaults: those are lazy, and a lazy instance's methods cannot be watched.
    return DistributionMatching(
        ipc=s.ipc,
        objective=BaconObjective(),
        network=s.network,
        augment=DSA(),
        pool=pool,
        acceleration=s.acceleration,
        seed=s.seed,
    )


def literal_of(module: DistributionMatching, device: torch.device) -> LiteralDistillation:
    """The literal contender with a module's settings and initial images."""
    assert isinstance(module.augment, DSA)
    return LiteralDistillation(
        module.images.detach().to(device, torch.float32),
        module.meta,
        module.synthetic.ipc,
        module.network,
        module.pool_settings,
        module.augment,
        factor=module.synthetic.factor,
        ce_weight=0.0 if module.cross_entropy is None else module.cross_entropy.weight,
        lr=module.lr,
        momentum=module.momentum,
        accuracy_window=module.accuracy_window,
        seed=module.seed,
    )


def fit(
    module: pl.LightningModule,
    data: DataModule | None,
    device: str,
    steps: int,
    callbacks: Sequence[Callback],
    devices: int = 1,
) -> None:
    """Run a module in a Trainer as the command line does, with its logger but without checkpoints and bars."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=steps,
            max_epochs=1,
            accelerator="gpu" if device == "cuda" else "cpu",
            devices=devices,
            strategy="ddp" if devices > 1 else "auto",
            logger=TensorBoardLogger(folder),
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        trainer.fit(module, datamodule=data)
