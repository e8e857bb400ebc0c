"""The six datasets of the tables as small files, in the formats and under the names in which they are published."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision import datasets


@dataclass(frozen=True)
class Facts:
    """What docs/methods/frame.md says of a dataset's images."""

    channels: int
    size: int
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


FACTS = {
    "mnist": Facts(1, 28, 10, (0.1307,), (0.3081,)),
    "fashion_mnist": Facts(1, 28, 10, (0.2861,), (0.3530,)),
    "svhn": Facts(3, 32, 10, (0.4377, 0.4438, 0.4728), (0.1980, 0.2010, 0.1970)),
    "cifar10": Facts(3, 32, 10, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": Facts(3, 32, 100, (0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762)),
    "tiny_imagenet": Facts(3, 64, 200, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@dataclass(frozen=True)
class Split:
    """Images uint8 (n, ch, H, W) and their labels (n,)."""

    images: np.ndarray
    labels: np.ndarray


def random_images(n: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def random_split(name: str, per_class: int, seed: int) -> Split:
    """As many images of each class, in no order; those of TinyImageNet are plain, for JPEG would change others."""
    facts = FACTS[name]
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(facts.classes), per_class))
    shape = (facts.channels, facts.size, facts.size)
    if name == "tiny_imagenet":
        images = random_images(len(labels), facts.channels, 1, 1, seed=seed)
        return Split(np.broadcast_to(images, (len(labels), *shape)), labels)
    return Split(random_images(len(labels), *shape, seed=seed), labels)


def write_dataset(
    name: str, root: Path, patch: pytest.MonkeyPatch, train_per_class: int = 4, test_per_class: int = 1
) -> tuple[Split, Split]:
    """Write a small copy of one of :data:`FACTS` and return what it holds: ``(train, test)``."""
    train, test = random_split(name, train_per_class, 0), random_split(name, test_per_class, 1)
    match name:
        case "mnist" | "fashion_mnist":
            write_mnist(root / {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name] / "raw", train, test)
        case "svhn":
            write_svhn(root, train, test, patch)
        case "cifar10" | "cifar100":
            write_cifar(root, train, test, [f"class {i}" for i in range(FACTS[name].classes)], patch)
        case "tiny_imagenet":
            write_random_tiny_imagenet(root / "tiny-imagenet-200", train, test)
    return train, test


def write_idx(path: Path, array: np.ndarray, gz: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = head + array.tobytes()
    path.write_bytes(gzip.compress(data) if gz else data)


def write_mnist(raw: Path, train: Split, test: Split, gz: bool = False) -> None:
    """The four files as torchvision unpacks them, or as they are fetched."""
    suffix = ".gz" if gz else ""
    for split, data in (("train", train), ("t10k", test)):
        write_idx(raw / f"{split}-images-idx3-ubyte{suffix}", data.images[:, 0], gz)
        write_idx(raw / f"{split}-labels-idx1-ubyte{suffix}", data.labels.astype(np.uint8), gz)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_svhn(root: Path, train: Split, test: Split, patch: pytest.MonkeyPatch) -> None:
    root.mkdir(parents=True, exist_ok=True)
    sums = {}
    for split, data in (("train", train), ("test", test)):
        path = root / f"{split}_32x32.mat"
        labels = np.where(data.labels == 0, 10, data.labels).astype(np.uint8)
        savemat(path, {"X": data.images.transpose(2, 3, 1, 0), "y": labels[:, None]}, do_compression=True)
        sums[split] = ["", path.name, md5(path)]
    patch.setattr(datasets.SVHN, "split_list", sums)


class _Python2Pickler(pickle._Pickler):  # the one in C cannot be told how to write a type
    """Writes what Python 2 and the NumPy of its time wrote: strings are bytes, flags of a dtype are numbers."""

    def save_string(self, text: str | bytes) -> None:
        data = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(text)

    def save_flag(self, flag: bool) -> None:
        self.write(pickle.BININT1 + bytes([flag]))

    dispatch: ClassVar = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string, bool: save_flag}


def write_python2_pickle(path: Path, content: dict) -> str:
    """Write a pickle; returns its MD5 sum."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    _Python2Pickler(file, protocol=2).dump(content)
    path.write_bytes(file.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"))
    return md5(path)


def write_cifar(root: Path, train: Split, test: Split, names: Sequence[str], patch: pytest.MonkeyPatch) -> None:
    """CIFAR-100 where there are 100 names, else CIFAR-10, whose training images are in five files."""
    hundred = len(names) == 100
    source = datasets.CIFAR100 if hundred else datasets.CIFAR10
    folder = root / source.base_folder

    def batch(name: str, title: str, images: np.ndarray, labels: np.ndarray) -> list[str]:
        rows = labels.tolist()
        content = {
            b"filenames": [f"image_{i}.png".encode() for i in range(len(rows))],
            b"batch_label": title.encode(),
            **({b"fine_labels": rows, b"coarse_labels": [r // 5 for r in rows]} if hundred else {b"labels": rows}),
            b"data": images.reshape(len(rows), -1),
        }
        return [name, write_python2_pickle(folder / name, content)]

    if hundred:
        listed = [batch("train", "training batch 1 of 1", train.images, train.labels)]
        held = [batch("test", "testing batch 1 of 1", test.images, test.labels)]
        meta = {b"fine_label_names": [n.encode() for n in names], b"coarse_label_names": [b"coarse"] * 20}
    else:
        parts = zip(np.array_split(train.images, 5), np.array_split(train.labels, 5), strict=True)
        listed = [batch(f"data_batch_{i}", f"training batch {i} of 5", *part) for i, part in enumerate(parts, 1)]
        held = [batch("test_batch", "testing batch 1 of 1", test.images, test.labels)]
        meta = {b"num_cases_per_batch": 10000, b"label_names": [n.encode() for n in names], b"num_vis": 3072}
    info = {**source.meta, "md5": write_python2_pickle(folder / source.meta["filename"], meta)}
    patch.setattr(source, "train_list", listed)
    patch.setattr(source, "test_list", held)
    patch.setattr(source, "meta", info)


def write_tiny_imagenet(
    root: Path,
    train: Mapping[str, Sequence[Image.Image]],
    val: Sequence[tuple[str, Image.Image]],
    words: Mapping[str, str],
) -> None:
    """The unpacked archive.

    Args:
        root: ``tiny-imagenet-200``.
        train: Images by WordNet id, in the order of ``wnids.txt``.
        val: WordNet ids and images.
        words: What ids mean; the archive's list names many thousand more than its classes.
    """

    def save(image: Image.Image, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=95, subsampling=0)

    for wnid, images in train.items():
        for k, image in enumerate(images):
            save(image, root / "train" / wnid / "images" / f"{wnid}_{k}.JPEG")
        boxes = "".join(f"{wnid}_{k}.JPEG\t0\t10\t63\t58\n" for k in range(len(images)))
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(boxes)
    for k, (_, image) in enumerate(val):
        save(image, root / "val" / "images" / f"val_{k}.JPEG")
    lines = "".join(f"val_{k}.JPEG\t{wnid}\t0\t32\t44\t62\n" for k, (wnid, _) in enumerate(val))
    (root / "val" / "val_annotations.txt").write_text(lines)
    save(Image.new("RGB", (64, 64), (255, 0, 255)), root / "test" / "images" / "test_0.JPEG")  # without a label
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in train))
    (root / "words.txt").write_text("".join(f"{wnid}\t{word}\n" for wnid, word in words.items()))


def tiny_wnids() -> list[str]:
    """Two hundred WordNet ids in no order."""
    return [f"n{number:08d}" for number in np.random.default_rng(2).permutation(np.arange(1_443_537, 1_443_737))]


def write_random_tiny_imagenet(root: Path, train: Split, test: Split) -> None:
    def pictures(split: Split) -> list[Image.Image]:
        return [Image.fromarray(image.transpose(1, 2, 0)) for image in split.images]

    wnids = tiny_wnids()
    by_class: dict[str, list[Image.Image]] = {wnid: [] for wnid in wnids}
    for label, image in zip(train.labels, pictures(train), strict=True):
        by_class[wnids[label]].append(image)
    val = [(wnids[label], image) for label, image in zip(test.labels, pictures(test), strict=True)]
    words = {wnid: f"word {i}, another word" for i, wnid in enumerate(wnids)}
    write_tiny_imagenet(root, by_class, val, {"n00001740": "entity", **words})
