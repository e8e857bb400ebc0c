"""Reading a distilled set from picture files in one folder per class."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from bacon_pl.data.files import decode, scan_images, subfolders
from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set import folder_names
from bacon_pl.errors import BaconError

# The formats of torchvision's ImageFolder. Pillow supports more, and passes some of them to external programs.
_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP")


def read(folder: Path, meta: DatasetMeta) -> tuple[Tensor, Tensor]:
    """Read ``<folder>/<class>/*.png`` (or any type that torchvision's ImageFolder reads).

    Args:
        folder: The folder with the class folders.
        meta: Description of the dataset; the class folders are named as by :meth:`DistilledSet.export_png`, after the
            classes, or by class ids, which may be written as in SRe2L's sets (``new000``) or RDED's (``00000``).

    Returns:
        Images (N, ch, H, W), uint8, and labels (N,), int64, class by class.

    Raises:
        BaconError: The folders are not the classes of the dataset, or a picture is damaged or has another size.
    """
    found = subfolders(folder)
    labels_of = _labels(found, meta)
    if labels_of is None:
        odd = sorted(set(found) ^ set(folder_names(meta.class_names)))
        raise BaconError(
            f"the folders under '{folder}' are not the {meta.num_classes} classes of {meta.name} ('{odd[0]}' is only "
            f"{'there' if odd[0] in found else 'in the dataset'}): give the dataset it was made from."
        )
    images: list[Tensor] = []
    labels: list[int] = []
    for label, name in sorted((label, name) for name, label in labels_of.items()):
        for file in scan_images(folder, name, label):
            images.append(_picture(folder / file.path, meta))
            labels.append(label)
    if not images:
        raise BaconError(f"the folder '{folder}' holds no pictures in its class folders.")
    return torch.stack(images), torch.tensor(labels)


def _labels(found: list[str], meta: DatasetMeta) -> dict[str, int] | None:
    """Return labels by folder name, or None if the folder names do not match the classes."""
    numbers = range(meta.num_classes)
    for names in (
        folder_names(meta.class_names),
        list(meta.class_names),
        [str(i) for i in numbers],
        [f"new{i:03d}" for i in numbers],  # SRe2L and CDA
        [f"{i:05d}" for i in numbers],  # RDED
    ):
        if sorted(names) == found:
            return {name: label for label, name in enumerate(names)}
    return None


def _picture(path: Path, meta: DatasetMeta) -> Tensor:
    try:
        # Check the size first, since a damaged or malicious header may claim any number of pixels.
        with Image.open(path, formats=_FORMATS) as picture:
            size = (picture.height, picture.width)
        if size != meta.size:
            raise BaconError(
                f"the picture '{path}' has {size[0]}×{size[1]} pixels, but the images of {meta.name} have "
                f"{meta.size[0]}×{meta.size[1]}: give the dataset it was made from."
            )
        image = decode(path)
    except BaconError:
        raise
    except Exception as error:  # Pillow's plugins raise exceptions of many types for damaged files
        reason = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else error
        raise BaconError(f"cannot read the picture '{path}' ({reason}): fix or remove it.") from error
    if len(image) > meta.channels:
        raise BaconError(f"the picture '{path}' is in color, but the images of {meta.name} are gray.")
    return image.expand(meta.channels, -1, -1)
