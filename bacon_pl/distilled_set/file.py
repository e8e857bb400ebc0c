"""The file of a distilled set: a description and two tensors in safetensors format. No content of a file is trusted.

Sizes are checked before memory is allocated. No code is executed, since safetensors holds only numbers and text.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bacon_pl import partition
from bacon_pl.data.images import DatasetMeta
from bacon_pl.data.whitening import Whitening
from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import memory_bytes, replacing

FILE_NAME = "distilled.safetensors"
FORMAT_VERSION = 1

# safetensors writes metadata entries in an order that varies between processes. A single entry with sorted JSON makes
# the files of equal sets byte-identical.
_METADATA_KEY = "bacon_pl"
_DTYPES = {"images": "F32", "labels": "I64"}

# Limits far beyond any genuine file.
_MAX_HEADER = 16 << 20
_MAX_DEPTH = 50


def file_in(path: str | os.PathLike[str]) -> Path:
    """Return the path of a set's file: ``path`` itself, or the file in it if it is a folder."""
    given = Path(path)
    return given / FILE_NAME if os.path.isdir(given) else given


def describe(meta: DatasetMeta, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the description that a file stores with its two tensors, as JSON values.

    Args:
        meta: Description of the dataset.
        fields: factor, method, config, seed, version, commit and step_size.

    Returns:
        The description, without the checksum that is added in the file.
    """
    description = {
        "channels": meta.channels,
        "class_names": list(meta.class_names),
        "config": fields["config"],
        "dataset": meta.name,
        "factor": fields["factor"],
        "format_version": FORMAT_VERSION,
        "git_commit": fields["commit"],
        "mean": [float(m) for m in meta.mean],
        "method": fields["method"],
        "package_version": fields["version"],
        "seed": fields["seed"],
        "size": list(meta.size),
        "std": [float(s) for s in meta.std],
        "train_bytes": meta.train_bytes,
    }
    if fields["step_size"] is not None:
        description["step_size"] = fields["step_size"]
    if meta.whitening is not None:
        description["whitening"] = meta.whitening.to_json()
    return description


def write(target: Path, images: Tensor, labels: Tensor, meta: DatasetMeta, fields: Mapping[str, Any]) -> None:
    """Write a set atomically; equal sets give equal bytes.

    Args:
        target: The file; missing parent folders are created.
        images: (C·ipc, ch, H, W), float32 on the CPU, as in :class:`~bacon_pl.distilled_set.DistilledSet`.
        labels: (C·ipc,), int64 on the CPU.
        meta: Description of the dataset.
        fields: factor, method, config, seed, version, commit and step_size.

    Raises:
        BaconError: The file cannot be written, or its description is too long to be read again.
    """
    description = describe(meta, fields)
    description["checksum"] = checksum(images, labels, description)
    text = json.dumps(description, sort_keys=True)
    if 2 * len(text) > _MAX_HEADER:  # quotes in the text are escaped again in the header
        raise BaconError(
            f"cannot write '{target}': class names and configuration take {len(text) >> 20} MiB; shorten them to a few."
        )
    data = safetensors.torch.save({"images": images, "labels": labels}, metadata={_METADATA_KEY: text})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(data)
    except OSError as error:
        raise BaconError(f"cannot write '{target}' ({error.strerror}); choose a place you can write to.") from error


def read(source: Path) -> tuple[Tensor, Tensor, DatasetMeta, dict[str, Any]]:
    """Read and check a file written by :func:`write`.

    Args:
        source: The file.

    Returns:
        Images, labels, the dataset's description and the fields, as passed to :func:`write`. The tensors are memory
        maps of the file.

    Raises:
        BaconError: The file does not exist, is damaged, is of another kind, or was written by a newer version.
    """
    if not os.path.isfile(source):
        raise BaconError(f"there is no distilled set at '{source}'; give a file or the folder of a finished run.")
    try:
        _check_sizes(source)
        with safe_open(source, framework="pt") as file:
            entry = (file.metadata() or {}).get(_METADATA_KEY)
            held = {name: file.get_slice(name) for name in _DTYPES if name in set(file.keys())}
            if entry is None or len(held) < len(_DTYPES):
                raise BaconError(
                    f"'{source}' is a safetensors file but not a distilled set (it lacks the "
                    f"{'description' if entry is None else 'images or labels'}); give a file that DistilledSet.save "
                    "wrote."
                )
            description = _description(source, entry)
            dtypes = {name: part.get_dtype() for name, part in held.items()}
            if dtypes != _DTYPES:
                raise _damaged(
                    source, f"its images are {dtypes['images']}, its labels {dtypes['labels']}, not F32, I64"
                )
            meta, factor = _meta(description), description["factor"]
            shapes = [tuple(part.get_shape()) for part in held.values()]
            if flaw := shape_flaw(shapes[0], shapes[1], meta, factor):
                raise _damaged(source, flaw)
            images, labels = (file.get_tensor(name) for name in _DTYPES)
    # torch raises a RuntimeError if the offset of a tensor is not a multiple of its element size.
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise BaconError(
            f"'{source}' cannot be read as a safetensors file (damaged, cut short or of another kind: "
            f"{one_line(error)}); fetch or make it again."
        ) from error
    if flaw := value_flaw(images, labels, meta):
        raise _damaged(source, flaw)
    recorded = description.pop("checksum", None)
    if recorded is not None and recorded != checksum(images, labels, description):
        raise _damaged(source, "its checksum does not match what it holds")
    fields = {
        "factor": factor,
        "method": description["method"],
        "config": description["config"],
        "seed": description["seed"],
        "version": description["package_version"],
        "commit": description["git_commit"],
        "step_size": description.get("step_size"),
    }
    return images, labels, meta, fields


def checksum(images: Tensor, labels: Tensor, description: Mapping[str, Any]) -> int:
    """Compute the CRC-32 of a set's whole content. Files written by the earliest versions do not store it.

    Args:
        images: Images, float32 on the CPU.
        labels: Labels, int64 on the CPU.
        description: Description of the set, as made by :func:`describe`.
    """
    total = zlib.crc32(json.dumps(description, sort_keys=True).encode())
    for tensor in (images, labels):
        total = zlib.crc32(tensor.numpy().data, total)
    return total


def shape_flaw(images: tuple[int, ...], labels: tuple[int, ...], meta: DatasetMeta, factor: int) -> str | None:
    """Describe what is wrong with the shapes of a set's parts, as part of a sentence, or return None."""
    classes = meta.num_classes
    shape = (meta.channels, *meta.size)
    if len(meta.mean) != meta.channels or len(meta.std) != meta.channels:
        return f"there are {len(meta.mean)} means and {len(meta.std)} deviations for {meta.channels} channels"
    if len(images) != 4 or images[1:] != shape:
        return f"the images have shape {images} where (N, {', '.join(map(str, shape))}) is needed"
    if labels != images[:1]:
        return f"there are {images[0]} images but labels of shape {labels}"
    if images[0] == 0 or images[0] % classes:
        return f"{images[0]} images cannot be shared equally among {classes} classes"
    if factor not in partition.allowed_factors(meta.size):
        return f"partition factor {factor} does not cut images of {meta.size[0]}×{meta.size[1]} pixels into tiles"
    return None


def value_flaw(images: Tensor, labels: Tensor, meta: DatasetMeta) -> str | None:
    """Describe what is wrong with the values of a set with correct shapes, as part of a sentence, or return None."""
    classes = meta.num_classes
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        return f"the labels run from {int(labels.min())} to {int(labels.max())} but there are {classes} classes"
    if not torch.equal(labels, torch.arange(classes).repeat_interleave(len(images) // classes)):
        return "the labels are not in class order with the same number of images for each class"
    if not bool(images.isfinite().all()):
        return "some pixels are not finite numbers, as after a training run that diverged"
    return None


def _check_sizes(source: Path) -> None:
    """Reject a file that would take too much memory, judging only by its first bytes and its length."""
    with open(source, "rb") as file:
        header = int.from_bytes(file.read(8), "little")
        size = os.fstat(file.fileno()).st_size
    if header > _MAX_HEADER:
        raise ValueError(f"it claims a header of {header} bytes")
    if size > memory_bytes():
        raise ValueError(f"its {size} bytes are more than this machine's memory")


def _description(source: Path, entry: str) -> dict[str, Any]:
    try:
        description = json.loads(entry)
    except (ValueError, RecursionError):
        description = None
    if not isinstance(description, dict) or _deeper(description, _MAX_DEPTH):
        raise _damaged(source, "its description is not a JSON object")
    version = description.get("format_version")
    if not _is_int(version, 1):
        raise _damaged(source, "its format version is missing")
    if version > FORMAT_VERSION:
        raise BaconError(
            f"'{source}' has format version {one_line(version, 20)} and this package reads up to {FORMAT_VERSION}; "
            "install a newer version of the package."
        )
    known = {"step_size": None, **description}  # files without a learned step size have no such entry
    for key, is_valid in _FIELDS.items():
        if key not in known or not is_valid(known[key]):
            raise _damaged(source, f"'{key}' in its description is missing or has a value that makes no sense")
    return description


def _meta(description: Mapping[str, Any]) -> DatasetMeta:
    return DatasetMeta(
        name=description["dataset"],
        class_names=tuple(description["class_names"]),
        channels=description["channels"],
        size=(description["size"][0], description["size"][1]),
        mean=tuple(map(float, description["mean"])),
        std=tuple(map(float, description["std"])),
        train_bytes=description["train_bytes"],
        whitening=Whitening.from_json(description["whitening"]) if description.get("whitening") else None,
    )


def _damaged(source: Path, flaw: str) -> BaconError:
    return BaconError(f"'{source}' is damaged: {flaw}; fetch or make it again.")


def _deeper(value: object, depth: int) -> bool:
    """Return whether lists and objects are nested deeper than ``depth``, since writing JSON is recursive."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_deeper(v, depth - 1) for v in inner)


def _is_int(value: object, least: int, most: int = (1 << 63) - 1) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_numbers(value: object) -> bool:
    """Return whether a value is a list of numbers of plausible size, which excludes NaN and infinity."""
    return isinstance(value, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e6 for v in value
    )


# The entries of a description with a check of each value. Shapes are compared afterwards.
_FIELDS: dict[str, Callable[[Any], bool]] = {
    "channels": lambda v: _is_int(v, 1) and v in (1, 3),
    "class_names": lambda v: isinstance(v, list) and len(v) > 0 and all(isinstance(name, str) for name in v),
    "config": lambda v: isinstance(v, dict),
    "dataset": lambda v: isinstance(v, str),
    "factor": lambda v: _is_int(v, 1),
    "git_commit": lambda v: v is None or isinstance(v, str),
    "mean": _is_numbers,
    "method": lambda v: isinstance(v, str),
    "package_version": lambda v: isinstance(v, str),
    "seed": lambda v: _is_int(v, -(1 << 63), (1 << 64) - 1),
    "size": lambda v: isinstance(v, list) and len(v) == 2 and all(_is_int(side, 1) for side in v),
    "step_size": lambda v: v is None or (_is_numbers([v]) and v > 0),
    "std": lambda v: _is_numbers(v) and all(s > 0 for s in v),
    "train_bytes": lambda v: _is_int(v, 0),
}
