"""TinyImageNet in the layout of the original archive, ``tiny-imagenet-200``."""

from __future__ import annotations

from pathlib import Path

import torch

from bacon_pl.data.files import ImageFile, load_files, scan_images
from bacon_pl.data.images import LabeledImages
from bacon_pl.data.options import LoadOptions
from bacon_pl.errors import BaconError

_FOLDER = "tiny-imagenet-200"


def load_tiny_imagenet(options: LoadOptions) -> tuple[LabeledImages, LabeledImages]:
    """Load TinyImageNet. Its validation images are the test split, since the archive's test images have no labels.

    Gray images are converted to RGB. The classes are in the order of ``wnids.txt`` and take their names from
    ``words.txt`` if it exists.

    Args:
        options: Loading options; ``root`` is the unpacked folder or its parent.

    Returns:
        ``(train, test)``.

    Raises:
        BaconError: Files are missing, the annotations do not match the files, or an image file cannot be read.
    """
    root = options.root / _FOLDER if (options.root / _FOLDER).is_dir() else options.root
    for part in ("wnids.txt", "train", "val/val_annotations.txt", "val/images"):
        if not (root / part).exists():
            raise BaconError(
                f"TinyImageNet not found: '{root / part}' is missing; unpack {_FOLDER}.zip "
                "(http://cs231n.stanford.edu/tiny-imagenet-200.zip) and point --data.root at the folder it makes."
            )
    wnids = [line.strip() for line in _lines(root / "wnids.txt")]
    label_of = {wnid: label for label, wnid in enumerate(wnids)}

    files: list[ImageFile] = []
    for wnid, label in label_of.items():
        found = scan_images(root, f"train/{wnid}", label)
        if not found:
            raise BaconError(f"the class folder '{root / 'train' / wnid}' holds no images: unpack {_FOLDER}.zip again.")
        files += found
    n_train = len(files)
    if options.test:
        files += _validation_files(root, label_of)

    images, kept = load_files(root, files, options, channels=3, part="" if options.test else "train")
    labels = torch.tensor([file.label for file in files])[kept]
    n_train = int((kept < n_train).sum())
    names = _class_names(root, wnids)
    train = LabeledImages(images[:n_train], labels[:n_train], names)
    if not bool((counts := train.counts).all()):
        wnid = wnids[int(torch.nonzero(counts == 0)[0])]
        raise BaconError(f"no image in the class folder '{root / 'train' / wnid}' can be read: unpack it again.")
    # A copy: a view would keep all training images in memory, even after some are held out and the rest are copied.
    return train, LabeledImages(images[n_train:].clone(), labels[n_train:], names)


def _lines(path: Path) -> list[str]:
    try:
        return [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BaconError(f"cannot read '{path}' ({error}): unpack {_FOLDER}.zip again.") from error


def _validation_files(root: Path, label_of: dict[str, int]) -> list[ImageFile]:
    annotations = root / "val" / "val_annotations.txt"
    there = {file.path: file for file in scan_images(root, "val/images", 0)}
    files = []
    for number, line in enumerate(_lines(annotations), 1):
        name, wnid, *_ = [*line.split("\t"), ""]
        if wnid not in label_of:
            raise BaconError(f"line {number} of '{annotations}' names the class '{wnid}', which wnids.txt lacks.")
        if (file := there.get(f"val/images/{name}")) is None:
            raise BaconError(f"line {number} of '{annotations}' names '{name}', which is not in val/images.")
        files.append(ImageFile(file.path, file.size, file.mtime_ns, label_of[wnid]))
    if not files:
        raise BaconError(f"'{annotations}' is empty: unpack {_FOLDER}.zip again.")
    return files


def _class_names(root: Path, wnids: list[str]) -> tuple[str, ...]:
    words: dict[str, str] = {}
    if (root / "words.txt").exists():
        for line in _lines(root / "words.txt"):
            wnid, _, word = line.partition("\t")
            words[wnid] = word.strip()
    return tuple(words.get(wnid) or wnid for wnid in wnids)
