"""Files and folders that commands are given: good ones, for tests to spoil."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from PIL import Image
from safetensors import safe_open

from bacon_pl.data import DatasetMeta
from bacon_pl.distilled_set import DistilledSet


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def tree(root: Path, per_class: int = 3, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """A folder of images that is all right."""
    for split in splits:
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for k in range(per_class):
                Image.fromarray(noise(16, 16, 3)).save(root / split / name / f"{k}.png")
    return root


def bomb(width: int, height: int) -> bytes:
    """The beginning of a PNG file that says how large its picture is."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    parts = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def mnist(root: Path, labels: list[int], images: int = 40, cut: int = 0) -> Path:
    """MNIST's four files with few images."""
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    for prefix, its_labels in (("train", labels), ("t10k", [k % 10 for k in range(images)])):
        pixels = noise(images, 28, 28).tobytes()
        data = struct.pack(">HBBIII", 0, 8, 3, images, 28, 28) + pixels[: len(pixels) - cut]
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(data)
        head = struct.pack(">HBBI", 0, 8, 1, len(its_labels))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(head + bytes(its_labels))
    return root


def honest(meta: DatasetMeta) -> DistilledSet:
    shape = (meta.num_classes, meta.channels, *meta.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    return DistilledSet(images, torch.arange(meta.num_classes), meta, method="bacon", version="1")


def described(path: Path, **entries: Any) -> Path:
    """Change the description of a good file, which then has no checksum any more."""
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["bacon_pl"])
        tensors = {name: file.get_tensor(name).clone() for name in ("images", "labels")}
    del description["checksum"]
    safetensors.torch.save_file(tensors, path, metadata={"bacon_pl": json.dumps(description | entries)})
    return path
