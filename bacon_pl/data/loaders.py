"""Datasets read by other libraries: torchvision's (from their original files) and scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets

from bacon_pl.data.images import LabeledImages
from bacon_pl.data.options import LoadOptions
from bacon_pl.errors import BaconError, one_line

Split = tuple[Tensor, Tensor, tuple[str, ...]]


def load_mnist(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
    """Load MNIST: (60000 and 10000, 1, 28, 28). See :class:`torchvision.datasets.MNIST`."""
    return _both(options, "MNIST", "MNIST/raw", partial(_read_idx, datasets.MNIST, options))


def load_fashion_mnist(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
    """Load FashionMNIST: (60000 and 10000, 1, 28, 28). See :class:`torchvision.datasets.FashionMNIST`."""
    return _both(options, "FashionMNIST", "FashionMNIST/raw", partial(_read_idx, datasets.FashionMNIST, options))


def load_svhn(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
    """Load SVHN: (73257 and 26032, 3, 32, 32), labels 0..9. See :class:`torchvision.datasets.SVHN`."""
    return _both(options, "SVHN", "train_32x32.mat and test_32x32.mat", partial(_read_svhn, options))


def load_cifar10(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
    """Load CIFAR-10: (50000 and 10000, 3, 32, 32). See :class:`torchvision.datasets.CIFAR10`."""
    return _both(options, "CIFAR-10", "cifar-10-batches-py", partial(_read_cifar, datasets.CIFAR10, options))


def load_cifar100(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
    """Load CIFAR-100: (50000 and 10000, 3, 32, 32). See :class:`torchvision.datasets.CIFAR100`."""
    return _both(options, "CIFAR-100", "cifar-100-python", partial(_read_cifar, datasets.CIFAR100, options))


def load_digits(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
    """Load scikit-learn's digits, 1797 images (1, 8, 8), split class by class into train and test."""
    # Imported here: scikit-learn takes a while to import and no other dataset needs it.
    from sklearn.datasets import load_digits as read_digits
    from sklearn.model_selection import train_test_split

    data = read_digits()
    images = torch.from_numpy(np.rint(data.images * (255 / 16)).astype(np.uint8))[:, None]
    labels = torch.from_numpy(data.target).to(torch.int64)
    everything = LabeledImages(images, labels, tuple(str(name) for name in data.target_names))
    try:
        train, test = train_test_split(
            np.arange(len(labels)), test_size=options.test_fraction, random_state=options.seed, stratify=data.target
        )
    except ValueError as error:
        raise BaconError(
            f"--data.test_fraction {options.test_fraction} leaves a split of digits without a class: choose one nearer "
            "to 0.2."
        ) from error
    return everything.subset(torch.from_numpy(np.sort(train))), everything.subset(torch.from_numpy(np.sort(test)))


def _read_idx(source: type[datasets.MNIST], options: LoadOptions, train: bool) -> Split:
    data = source(str(options.root), train=train, download=options.download)
    return data.data[:, None], data.targets.to(torch.int64), tuple(data.classes)


def _read_svhn(options: LoadOptions, train: bool) -> Split:
    data = datasets.SVHN(str(options.root), split="train" if train else "test", download=options.download)
    # The file holds (H, W, ch, N); torchvision returns a transposed view of it.
    images = torch.from_numpy(np.ascontiguousarray(data.data))
    labels = torch.from_numpy(np.asarray(data.labels, dtype=np.int64))
    return images, labels, tuple(str(digit) for digit in range(10))


def _read_cifar(source: type[datasets.CIFAR10], options: LoadOptions, train: bool) -> Split:
    data: Any = source(str(options.root), train=train, download=options.download)
    images = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return images, torch.tensor(data.targets, dtype=torch.int64), tuple(data.classes)


def _both(
    options: LoadOptions, title: str, holds: str, read: Callable[[bool], Split]
) -> tuple[LabeledImages, LabeledImages]:
    try:
        train = read(True)
        test = read(False) if options.test else (train[0][:0], train[1][:0], train[2])
    except (RuntimeError, OSError, EOFError, ValueError, AssertionError, KeyError, TypeError, UnpicklingError) as error:
        if str(error).startswith("Dataset not found"):  # torchvision's message, also for a wrong checksum
            raise BaconError(
                f"{title} not found, or damaged, under '{options.root}': point --data.root at the folder that holds "
                f"{holds}, or fetch it with --data.download true."
            ) from error
        reason = one_line(error) or type(error).__name__  # torchvision reports each mirror on a line of its own
        if options.download:
            raise BaconError(
                f"cannot download {title} to '{options.root}' or read it there ({reason}): look at the connection and "
                f"at the free space, and remove {holds} if it is there."
            ) from error
        raise BaconError(
            f"cannot read {title} under '{options.root}' ({reason}): remove {holds} and fetch it again with "
            "--data.download true."
        ) from error
    return LabeledImages(*train), LabeledImages(*test)
