"""Image folders with one subfolder per class, in the layout that torchvision's ImageFolder reads."""

from __future__ import annotations

from pathlib import Path

import torch

from bacon_pl.data.files import ImageFile, load_files, scan_images, subfolders
from bacon_pl.data.images import LabeledImages
from bacon_pl.data.options import LoadOptions
from bacon_pl.data.split import stratified_split
from bacon_pl.errors import BaconError


def load_folder(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
    """Load a folder of images: ``root/{train,test}/<class>/...``, ``root/{train,val}/...`` or ``root/<class>/...``.

    If there are both ``test/`` and ``val/``, ``test/`` is the test split and ``val/`` is not read. A flat folder is
    split class by class with ``options.test_fraction`` and ``options.seed``. The classes are the folder names in
    sorted order. Images have one channel if every image is gray, else three.

    Args:
        options: The folder, and how to handle image sizes and unreadable files.

    Returns:
        ``(train, test)``.

    Raises:
        BaconError: A folder is missing or empty, there is only one class, the splits have different classes, images
            differ in size, or a file cannot be read.
    """
    root = options.root
    folders = subfolders(root)
    if not folders:
        raise BaconError(f"the folder '{root}' holds no class folders: expected <class>/*.jpg or train/<class>/*.jpg.")
    held_out = next((name for name in ("test", "val") if name in folders), None)
    if "train" in folders and held_out:
        return _load_split(options, held_out)
    if "train" in folders and subfolders(root / "train"):
        raise BaconError(
            f"the folder '{root}' has train/ but neither test/ nor val/: add one, or give --data.root "
            f"'{root / 'train'}' to hold out a share of it."
        )
    _check_several(root, folders)
    files = _list_classes(root, "", folders)
    images, kept = load_files(root, files, options)
    labels = torch.tensor([file.label for file in files])[kept]
    everything = LabeledImages(images, labels, tuple(folders))
    _check_left(everything, root, folders)
    train, test = stratified_split(labels, options.test_fraction, options.seed, "test split")
    if not len(test):
        raise BaconError(f"the classes under '{root}' have one image each: nothing is left for a test split.")
    return everything.subset(train), everything.subset(test)


def _load_split(options: LoadOptions, held_out: str) -> tuple[LabeledImages, LabeledImages]:
    root = options.root
    classes = {split: subfolders(root / split) for split in ("train", held_out)}
    for split, names in classes.items():
        if not names:
            raise BaconError(f"the folder '{root / split}' holds no class folders: expected <class>/*.jpg in it.")
    names = classes["train"]
    if names != classes[held_out]:
        odd = sorted(set(names) ^ set(classes[held_out]))
        raise BaconError(
            f"train/ and {held_out}/ under '{root}' have different classes: '{odd[0]}' is only in "
            f"{'train' if odd[0] in names else held_out}/ ({len(odd)} such in all)."
        )
    _check_several(root / "train", names)
    files = _list_classes(root, "train/", names)
    n_train = len(files)
    if options.test:
        files += _list_classes(root, f"{held_out}/", names)
    # One call for both splits, since they must have the same channels and size.
    images, kept = load_files(root, files, options, part="" if options.test else "train")
    labels = torch.tensor([file.label for file in files])[kept]
    n_train = int((kept < n_train).sum())
    train = LabeledImages(images[:n_train], labels[:n_train], tuple(names))
    # A copy: a view would keep all training images in memory, even after some are held out and the rest are copied.
    test = LabeledImages(images[n_train:].clone(), labels[n_train:], tuple(names))
    _check_left(train, root / "train", names)
    if options.test:
        _check_left(test, root / held_out, names)
    return train, test


def _check_several(folder: Path, names: list[str]) -> None:
    if len(names) > 1:
        return
    inner = folder / names[0]
    within = subfolders(inner)
    hint = f"did you mean --data.root '{inner}'?" if len(within) > 1 else "add a folder for each other class."
    raise BaconError(
        f"the folder '{folder}' holds one class folder only, '{names[0]}', but a classifier needs two classes or more: "
        f"{hint}"
    )


def _list_classes(root: Path, prefix: str, names: list[str]) -> list[ImageFile]:
    files: list[ImageFile] = []
    for label, name in enumerate(names):
        found = scan_images(root, prefix + name, label)
        if not found:
            raise BaconError(f"the class folder '{root / (prefix + name)}' holds no images: fill it or remove it.")
        files += found
    return files


def _check_left(split: LabeledImages, folder: Path, names: list[str]) -> None:
    # Skipping unreadable files may have left a class empty.
    if not bool((counts := split.counts).all()):
        name = names[int(torch.nonzero(counts == 0)[0])]
        raise BaconError(f"no image in the class folder '{folder / name}' can be read: fix its files or remove it.")
