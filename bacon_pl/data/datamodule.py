"""The datasets as a LightningDataModule. Draws are implemented in ``batch``, reading in ``catalog``."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.configured import Configured, arguments
from bacon_pl.data.batch import InOrder, IterationBatch, Iterations
from bacon_pl.data.cache import noting
from bacon_pl.data.catalog import find, load_dataset
from bacon_pl.data.images import DatasetMeta, LabeledImages
from bacon_pl.data.options import LoadOptions, check_statistics
from bacon_pl.data.split import stratified_split
from bacon_pl.data.whitening import Whitening, check_whitening, fitted
from bacon_pl.distributed import first_then_others
from bacon_pl.errors import BaconError


class NotLoadedError(BaconError, AttributeError):
    """Images were requested before they were loaded. ``hasattr`` returns False in this case."""


class DataModule(Configured, LightningDataModule):
    """Real images for distillation and evaluation.

    The training images are moved to the device once; an :class:`~bacon_pl.data.batch.IterationBatch` draws the images
    of an iteration there. Test batches are ``(images, labels)`` with normalized float32 images.

    Args:
        name: Dataset: mnist, fashion_mnist, svhn, cifar10, cifar100, tiny_imagenet, digits, folder, the name of a
            registered dataset, or module.NAME of a DatasetSpec. Case, '_' and '-' are ignored.
        root: Folder of the data. For torchvision's datasets it holds MNIST/raw, cifar-10-batches-py and so on; for
            folder it holds train/<class>/ and test/<class>/, or <class>/.
        download: Download the data into root if it is missing (torchvision's datasets only).
        image_size: Side N of the images in pixels: the shorter side is scaled to N, then the center is cropped. By
            default images keep their size, which must then be the same for all of them.
        mean: Mean per channel of pixels in [0, 1]. By default the published value or, if there is none, that of the
            training images.
        std: Standard deviation per channel of pixels in [0, 1]. By default the published value or, if there is none,
            that of the training images.
        test_fraction: Share of the images, in (0, 1), held out for testing if the data has no test split.
        val_fraction: Share of the training images, in [0, 1), held out for choosing among synthetic sets.
        on_bad_image: What to do with an image file that cannot be read: stop with an error, or skip it with a warning.
        batch_real: Real images per class and iteration to match; all images of a class that has fewer.
        pool_batch: Real images per training step of the pool's networks.
        eval_batch: Images per test batch.
        split_seed: Seed of the splits. It is separate from the run's seed, so that runs and evaluations with different
            seeds share one test set, none of which is ever used for training.
        whitening: zca whitens images instead of normalizing them per channel, as trajectory matching does. It is fitted
            to all training images, the held-out ones among them, so that all runs and evaluations share one space; its
            matrices are kept in the cache.

    Attributes:
        train: Training images without the held-out ones, on the CPU. Set by ``setup``, like the attributes below.
        val: Images held out of the training images, or None if val_fraction is 0.
        test: Test images, on the CPU.
        meta: Description of the dataset; its ``train_bytes`` include the held-out images.
        cache_files: Cache files that hold the decoded images; empty if the dataset is not read from image files.

    Raises:
        BaconError: An argument is out of range, or the dataset is unknown.
    """

    train: LabeledImages
    val: LabeledImages | None
    test: LabeledImages
    meta: DatasetMeta
    cache_files: list[Path]

    def __init__(
        self,
        name: str = "mnist",
        root: str | os.PathLike[str] = "data",
        download: bool = False,
        image_size: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        test_fraction: float = 0.2,
        val_fraction: float = 0.0,
        on_bad_image: Literal["error", "skip"] = "error",
        batch_real: int = 256,
        pool_batch: int = 256,
        eval_batch: int = 1000,
        split_seed: int = 0,
        whitening: Literal["zca"] | None = None,
    ) -> None:
        super().__init__()
        for option, text in (("name", name), ("root", root)):
            if not isinstance(text, (str, os.PathLike)):
                raise BaconError(f"--data.{option} must be text, got {text!r}.")
        self.name: str = find(name).name
        # Created only for its checks, so that a wrong argument is reported before anything is loaded.
        LoadOptions(Path(root), download, image_size, test_fraction, split_seed, on_bad_image)
        check_statistics(mean, std)
        if not (isinstance(val_fraction, (float, Real)) and 0 <= val_fraction < 1):
            raise BaconError(f"--data.val_fraction must be at least 0 and below 1, got {val_fraction}.")
        ranges.whole("--data.", batch_real=batch_real, pool_batch=pool_batch, eval_batch=eval_batch)
        size, channels = (image_size, image_size) if image_size else find(name).size, find(name).channels
        check_whitening(whitening, channels * math.prod(size) if channels and size else None, self.name)
        self.root = root
        self.download = download
        self.image_size = image_size
        self.mean = mean
        self.std = std
        self.test_fraction = test_fraction
        self.val_fraction = val_fraction
        self.on_bad_image: Literal["error", "skip"] = on_bad_image
        self.batch_real = batch_real
        self.pool_batch = pool_batch
        self.eval_batch = eval_batch
        self.split_seed = split_seed
        self.whitening = whitening
        # Lightning stores the settings in checkpoints, as plain values.
        settings = {**arguments(self), "root": os.fspath(root)}
        self.save_hyperparameters(settings, logger=False)
        self._loaded = False
        self._on_device: LabeledImages | None = None

    if not TYPE_CHECKING:  # otherwise every attribute would have type Any

        def __getattr__(self, name: str) -> Any:
            """Raise an error that explains what to do if the images are requested too early."""
            if name in ("train", "val", "test", "meta"):
                raise NotLoadedError(f"the data are not loaded, so there is no '{name}' yet: call setup() first.")
            raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")

    @property
    def known_size(self) -> tuple[int, int] | None:
        """Height and width of the images, or None if they are unknown until the data is read."""
        return (self.image_size, self.image_size) if self.image_size else find(self.name).size

    @property
    def folder(self) -> Path | None:
        """Folder of the data's files, or None if there are none."""
        return None if self.name == "digits" else Path(self.root)  # the digits are part of scikit-learn

    def prepare_data(self) -> None:
        """Download the data if requested. Lightning calls this in one process only."""
        if self.download and not self._loaded:
            self._load(download=True)

    def setup(self, stage: str | None = None) -> None:
        """Load the dataset and hold out the validation images; later calls do nothing.

        Args:
            stage: Ignored, since every stage needs the same images.

        Raises:
            BaconError: Files are missing or damaged, or no image can be held out.
        """
        if self._loaded:
            return
        with noting() as self.cache_files:
            train, self.test, self.meta = self._load(download=False)
        self.meta = self._in_space(train, self.meta)
        self.train, self.val = train, None
        if self.val_fraction:
            kept, held = stratified_split(train.labels, self.val_fraction, self.split_seed, "validation split")
            if not len(held):
                raise BaconError(
                    "every class has one training image, so none can be held out: set --data.val_fraction 0."
                )
            self.train, self.val = train.subset(kept), train.subset(held)
        self._loaded = True

    def _in_space(self, train: LabeledImages, meta: DatasetMeta) -> DatasetMeta:
        """Add the whitened space to the description of the data, if one is asked for or the data come with one."""
        if not (self.whitening or (meta and meta.whitening)):
            return meta
        if not len(train):  # a finished set is evaluated on test images alone
            if meta.whitening is None:
                raise BaconError("a whitening is fitted to training images, and there are none: give them, too.")
            meta.whitening.matrices()
            return meta

        check_whitening("zca", train.images[0].numel(), meta.name)
        found: list[Whitening] = []

        def fit() -> None:
            told = f"Fitting the ZCA whitening of {len(train):,} training images; the next start finds it in the cache."
            found.append(fitted(train.images, name=meta.name, fitting=lambda: rank_zero_info(told)))

        first_then_others(fit)  # the others read what the first has left in the cache
        return replace(meta, whitening=found[0])

    def whiten(self, kind: Literal["zca"]) -> None:
        """Ask for whitened images before they are loaded, as for a finished set that is in a whitened space.

        Raises:
            BaconError: There is no such whitening, or the images have been loaded without it.
        """
        check_whitening(kind)
        if self._loaded and self.whitening != kind:
            raise BaconError(f"the data have been loaded without whitening: make a DataModule(whitening='{kind}').")
        self.whitening = kind

    def train_dataloader(self) -> Iterations:
        """Return a loader of iteration numbers; the images are drawn on the device (see :meth:`iteration_batch`).

        Raises:
            BaconError: The trainer has no maximum number of steps.
        """
        steps = self.trainer.max_steps if self.trainer else -1
        if steps < 1:
            raise BaconError("distillation is counted in iterations: give --trainer.max_steps N, at least 1.")
        return Iterations(steps)

    def test_dataloader(self) -> InOrder:
        """Return a loader of the test images in order, ``eval_batch`` at a time."""
        return InOrder(self.test, self.eval_batch)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Normalize a test batch.

        Args:
            batch: ``(images, labels)`` with uint8 images on the device, or a number from :meth:`train_dataloader`.
            dataloader_idx: Ignored.

        Returns:
            ``(images, labels)`` with float32 images, or the number unchanged: the distiller gets the images of an
            iteration from :meth:`iteration_batch`.
        """
        if isinstance(batch, int):
            return batch
        images, labels = batch
        return self.normalize(images), labels

    def iteration_batch(self, iteration: int, seed: int, device: torch.device | str = "cpu") -> IterationBatch:
        """Return the real images of one iteration on a device. This works without a trainer, too.

        Args:
            iteration: Number of the iteration, from 0.
            seed: Seed of the run.
            device: Device on which images are drawn. The training images are moved there once.

        Returns:
            An object that draws the images on demand.
        """
        self._on_device = (self._on_device or self.train).to(device)
        return IterationBatch(self._on_device, iteration, seed, self.batch_real, self.pool_batch)

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 images (..., ch, H, W) to normalized or whitened space, float32."""
        return self.meta.normalize(images, torch.float32)

    def _load(self, download: bool) -> tuple[LabeledImages, LabeledImages, DatasetMeta]:
        return load_dataset(
            self.name,
            self.root,
            download=download,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
            test_fraction=self.test_fraction,
            seed=self.split_seed,
            on_bad_image=self.on_bad_image,
        )
