"""The file of a distilled set: a description and two tensors, as safetensors. Nothing that a file says is trusted.

A reader sees sizes before it takes memory for them, and runs nothing: safetensors holds numbers and text alone.
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
from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import memory_bytes, replacing

FILE_NAME = "distilled.safetensors"
FORMAT_VERSION = 1

# safetensors writes its metadata entries in an order that changes from process to process. A single entry that holds
# sorted JSON keeps equal sets byte-identical.
_METADATA_KEY = "bacon_pl"
_DTYPES = {"images": "F32", "labels": "I64"}

# Bounds that no honest file comes near.
_MAX_HEADER = 16 << 20
_MAX_DEPTH = 50


def file_in(path: str | os.PathLike[str]) -> Path:
    """The set's file: ``path`` itself, or the one in it if it is a folder."""
    given = Path(path)
    return given / FILE_NAME if os.path.isdir(given) else given


def describe(meta: DatasetMeta, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Collect what a file says about its two tensors, as JSON values.

    Args:
        meta: Dataset.
        fields: factor, method, config, seed, version, commit, step_size.

    Returns:
        The description, without the checksum that a file adds to it.
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
    return description


def write(target: Path, images: Tensor, labels: Tensor, meta: DatasetMeta, fields: Mapping[str, Any]) -> None:
    """Write a set; the file appears whole or not at all, and equal sets give equal bytes.

    Args:
        target: The file; missing parent folders are made.
        images: As in :class:`~bacon_pl.distilled_set.DistilledSet`, like what follows.
        labels: Labels.
        meta: Dataset.
        fields: factor, method, config, seed, version, commit, step_size.

    Raises:
        BaconError: The file cannot be written, or its description is too long to be read again.
    """
    description = describe(meta, fields)
    description["checksum"] = checksum(images, labels, description)
    text = json.dumps(description, sort_keys=True)
    if 2 * len(text) > _MAX_HEADER:  # its quotes are escaped once more
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
    """Read and check a file that :func:`write` wrote.

    Args:
        source: The file.

    Returns:
        What :func:`write` was given; the tensors lie in a memory map of the file.

    Raises:
        BaconError: There is no such file, it is damaged or of another kind, or a newer version wrote it.
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
                    f"'{source}' is a safetensors file but no distilled set (it lacks the "
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
    # RuntimeError is torch's, where a tensor does not lie at a multiple of its type's size.
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
    """Compute the CRC-32 of all that a set holds; files from before there was one have none.

    Args:
        images: Images, float32 on the CPU.
        labels: Labels, int64 on the CPU.
        description: What :func:`describe` says of them.
    """
    total = zlib.crc32(json.dumps(description, sort_keys=True).encode())
    for tensor in (images, labels):
        total = zlib.crc32(tensor.numpy().data, total)
    return total


def shape_flaw(images: tuple[int, ...], labels: tuple[int, ...], meta: DatasetMeta, factor: int) -> str | None:
    """Say what is wrong with the shapes of a set's parts, as the rest of a sentence, or None."""
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
    """Say what is wrong with the numbers in a set whose shapes are right, as the rest of a sentence, or None."""
    classes = meta.num_classes
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        return f"the labels run from {int(labels.min())} to {int(labels.max())} but there are {classes} classes"
    if not torch.equal(labels, torch.arange(classes).repeat_interleave(len(images) // classes)):
        return "the labels are not in class order with the same number of images for each class"
    if not bool(images.isfinite().all()):
        return "some pixels are not finite numbers, as after a training run that diverged"
    return None


def _check_sizes(source: Path) -> None:
    """Refuse what would take memory out of proportion, by the file's first bytes and length alone."""
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
    known = {"step_size": None, **description}  # left out where none was learned
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
    )


def _damaged(source: Path, flaw: str) -> BaconError:
    return BaconError(f"'{source}' is damaged: {flaw}; fetch or make it again.")


def _deeper(value: object, depth: int) -> bool:
    """Tell whether lists and objects are nested deeper than this: what writes JSON again recurses into them."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_deeper(v, depth - 1) for v in inner)


def _is_int(value: object, least: int, most: int = (1 << 63) - 1) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_numbers(value: object) -> bool:
    """Tell whether this is a list of numbers of a sane size (NaN and infinity are not)."""
    return isinstance(value, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e6 for v in value
    )


# What a description holds, and what each value must look like; shapes are compared afterwards.
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
