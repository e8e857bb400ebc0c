"""The file of a distilled set: a description and tensors in safetensors format. No content of a file is trusted.

Sizes are checked before memory is allocated. No code is executed, since safetensors holds only numbers and text.

Format 1 has ``images`` and ``labels``, with the same number of images for each class. Format 2 adds ``soft_labels``
with ``label_kind``, unequal numbers, and ``whitening``. Format 3 adds ``upscaling``, of tiles that are not scaled up
bilinearly. A set is written in the lowest format that holds it, byte for byte as before, so that older versions read
it. The rows of a file may be in any order: they are sorted stably by class, and its checksum is that of the sorted
rows.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard, get_args

import safetensors.torch
from safetensors import SafetensorError, safe_open

from bacon_pl.data.images import DatasetMeta
from bacon_pl.data.whitening import Whitening
from bacon_pl.distilled_set.labels import KINDS
from bacon_pl.distilled_set.tensors import Tensors, kind_flaw, shape_flaw, value_flaw
from bacon_pl.errors import BaconError, one_line
from bacon_pl.partition import Upscaling
from bacon_pl.runtime import memory_bytes, replacing

FILE_NAME = "distilled.safetensors"
FORMAT_VERSION = 3

# safetensors writes metadata entries in an order that varies between processes. A single entry with sorted JSON makes
# the files of equal sets byte-identical.
_METADATA_KEY = "bacon_pl"
_DTYPES = {"images": "F32", "labels": "I64", "soft_labels": "F16"}
_NEEDED = {"images", "labels"}

# Limits far beyond any genuine file.
_MAX_HEADER = 16 << 20
_MAX_DEPTH = 50
_DIGEST = re.compile("[0-9a-f]{1,64}")


def file_in(path: str | os.PathLike[str]) -> Path:
    """Return the path of a set's file: ``path`` itself, or the file in it if it is a folder."""
    given = Path(path)
    return given / FILE_NAME if os.path.isdir(given) else given


def describe(meta: DatasetMeta, fields: Mapping[str, Any], counts: tuple[int, ...]) -> dict[str, Any]:
    """Collect the description that a file stores with its tensors, as JSON values.

    Args:
        meta: Description of the dataset.
        fields: factor, upscaling, method, config, seed, version, commit, step_size and label_kind.
        counts: Images per class.

    Returns:
        The description, without the checksum that is added in the file.
    """
    description = {
        "channels": meta.channels,
        "class_names": list(meta.class_names),
        "config": fields["config"],
        "dataset": meta.name,
        "factor": fields["factor"],
        "format_version": 1,
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
    if fields["label_kind"] is not None:
        description["label_kind"] = fields["label_kind"]
    if meta.whitening is not None:
        description["whitening"] = meta.whitening.to_json()
    # Versions that read only format 1 then ask for a newer version, instead of calling the file damaged or, worse,
    # training on whitened images as if they were normalized.
    if "label_kind" in description or "whitening" in description or len(set(counts)) > 1:
        description["format_version"] = 2
    if fields["upscaling"] != "bilinear":
        description |= {"upscaling": fields["upscaling"], "format_version": 3}
    return description


def write(target: Path, tensors: Tensors, description: Mapping[str, Any]) -> None:
    """Write a set atomically; equal sets give equal bytes.

    Args:
        target: The file; missing parent folders are created.
        tensors: The tensors, in class order, as in :class:`~bacon_pl.distilled_set.DistilledSet`.
        description: What :func:`describe` returned.

    Raises:
        BaconError: The file cannot be written, or its description is too long to be read again.
    """
    description = {**description, "checksum": checksum(tensors, description)}
    text = json.dumps(description, sort_keys=True)
    if 2 * len(text) > _MAX_HEADER:  # quotes in the text are escaped again in the header
        raise BaconError(
            f"cannot write '{target}': class names and configuration take {len(text) >> 20} MiB; shorten them to a few."
        )
    data = safetensors.torch.save(tensors.held(), metadata={_METADATA_KEY: text})
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as file:
            file.write(data)
    except OSError as error:
        raise BaconError(f"cannot write '{target}' ({error.strerror}); choose a place you can write to.") from error


def read(source: Path) -> tuple[Tensors, DatasetMeta, dict[str, Any]]:
    """Read and check a file written by :func:`write`.

    Args:
        source: The file.

    Returns:
        The tensors in class order, which are memory maps of a file whose rows are in that order; the dataset's
        description; and the fields of :func:`describe`.

    Raises:
        BaconError: The file does not exist, is damaged, is of another kind, or was written by a newer version.
    """
    if not os.path.isfile(source):
        below = sorted(Path(source).parent.glob(f"*/{Path(source).name}"))
        hint = f", such as '{below[0].parent}'" if below else ""
        raise BaconError(f"there is no distilled set at '{source}'; give a file or the folder of a finished run{hint}.")
    try:
        _check_sizes(source)
        with safe_open(source, framework="pt") as file:
            entry = (file.metadata() or {}).get(_METADATA_KEY)
            held = {name: file.get_slice(name) for name in _DTYPES if name in set(file.keys())}
            if entry is None or not held.keys() >= _NEEDED:
                raise BaconError(
                    f"'{source}' is a safetensors file but not a distilled set (it lacks the "
                    f"{'description' if entry is None else 'images or labels'}); give a file that DistilledSet.save "
                    "wrote."
                )
            description = _description(source, entry)
            for name, part in held.items():
                if part.get_dtype() != _DTYPES[name]:
                    what = name.replace("_", " ")
                    raise _damaged(source, f"its {what} are {part.get_dtype()}, not {_DTYPES[name]}")
            meta, kind = _meta(description), description.get("label_kind")
            shapes = {name: tuple(part.get_shape()) for name, part in held.items()}
            if flaw := shape_flaw(shapes, meta, description["factor"]) or kind_flaw("soft_labels" in held, kind):
                raise _damaged(source, flaw)
            tensors = Tensors(**{name: file.get_tensor(name) for name in held})
    # torch raises a RuntimeError if the offset of a tensor is not a multiple of its element size.
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise BaconError(
            f"'{source}' cannot be read as a safetensors file (damaged, cut short or of another kind: "
            f"{one_line(error)}); fetch or make it again."
        ) from error
    if flaw := value_flaw(tensors, meta, kind):
        raise _damaged(source, flaw)
    tensors = tensors.in_class_order()
    recorded = description.pop("checksum", None)
    if recorded is not None and recorded != checksum(tensors, description):
        raise _damaged(source, "its checksum does not match what it holds")
    fields = {
        "factor": description["factor"],
        "upscaling": description.get("upscaling") or "bilinear",
        "method": description["method"],
        "config": description["config"],
        "seed": description["seed"],
        "version": description["package_version"],
        "commit": description["git_commit"],
        "step_size": description.get("step_size"),
        "label_kind": kind,
    }
    return tensors, meta, fields


def checksum(tensors: Tensors, description: Mapping[str, Any]) -> int:
    """Compute the CRC-32 of a set's whole content. Files written by the earliest versions do not store it.

    Args:
        tensors: The tensors in class order, so that the checksum is the same for rows in another order.
        description: Description of the set, as made by :func:`describe`.
    """
    total = zlib.crc32(json.dumps(description, sort_keys=True).encode())
    for tensor in tensors.held().values():
        total = zlib.crc32(tensor.numpy().data, total)
    return total


def description_flaw(description: Mapping[str, Any]) -> str | None:
    """Name an entry of a description that could not be read again, as part of a sentence, or return None."""
    for key, is_valid in (_FIELDS | _OPTIONAL).items():
        if key in description and not is_valid(description[key]):
            return f"'{key}' has a value that makes no sense ({one_line(repr(description[key]), 60)})"
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
    known = {**dict.fromkeys(_OPTIONAL), **description}
    for key, is_valid in (_FIELDS | _OPTIONAL).items():
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
        whitening=None if description.get("whitening") is None else Whitening.from_json(description["whitening"]),
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


def is_whitening(value: object) -> bool:
    """Return whether a value describes a whitened space that can be written again as it is."""
    if value is None:
        return True
    if not isinstance(value, dict) or not _is_numbers([value.get("epsilon")]):
        return False
    # It names a file in the cache and is shown in messages, so it must be the digest that it should be.
    if not isinstance(value.get("fingerprint"), str) or not _DIGEST.fullmatch(value["fingerprint"]):
        return False
    try:
        restored = Whitening.from_json(value).to_json()
    except ValueError:
        return False
    return all(name in restored and restored[name] == entry for name, entry in value.items())


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
    "std": lambda v: _is_numbers(v) and all(s > 0 for s in v),
    "train_bytes": lambda v: _is_int(v, 0),
}

# Entries that only the files of some sets have.
_OPTIONAL: dict[str, Callable[[Any], bool]] = {
    "label_kind": lambda v: v is None or v in KINDS,
    "step_size": lambda v: v is None or (_is_numbers([v]) and v > 0),
    "upscaling": lambda v: v is None or v in get_args(Upscaling),
    "whitening": is_whitening,
}
