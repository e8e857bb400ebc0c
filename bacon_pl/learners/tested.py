"""What trained networks know: their accuracy on images, which is told and never used for any choice."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.distributed import first_then_others, process_rank
from bacon_pl.errors import BaconError
from bacon_pl.learners.fingerprint import digest
from bacon_pl.learners.trained import TrainedNetworks
from bacon_pl.runtime import replacing

TESTED = "tested.json"
"""Name of the file beside trained networks that holds their test accuracies."""

CHECKED = 500
"""Training images by which a network of unknown origin is checked."""

Logits = Callable[[Tensor], Tensor]


def hits(logits: Logits, images: LabeledImages, meta: DatasetMeta, batch_size: int = 500) -> int:
    """Count the images that are classified correctly.

    Args:
        logits: Function from normalized images (B, ch, H, W) to logits (B, C) on its own device.
        images: Labeled images.
        meta: Description of the dataset.
        batch_size: Images classified at once.
    """
    found = []
    for x, y in zip(images.images.split(batch_size), images.labels.split(batch_size), strict=True):
        predicted = logits(meta.normalize(x, torch.float32)).argmax(1)
        found.append((predicted == y.to(predicted.device)).sum())
    return int(torch.stack(found).sum()) if found else 0  # read from the device only once


def check_above_chance(logits: Logits, store: LabeledImages, meta: DatasetMeta, file: str) -> None:
    """Check that a network knows more about some of the training images than a guess does.

    Args:
        logits: Function from normalized images to logits.
        store: The real training images.
        meta: Description of the dataset.
        file: Where the network comes from.

    Raises:
        BaconError: It does not.
    """
    number = min(CHECKED, len(store))
    chosen = rng.permutation(len(store), 0, "check of a teacher")[:number].to(store.images.device)
    chance = 1 / meta.num_classes
    found = hits(logits, store.subset(chosen), meta)
    # Four standard deviations of guesses: one network in tens of thousands that knows nothing gets there.
    if found <= number * chance + 4 * math.sqrt(number * chance * (1 - chance)):
        raise BaconError(
            f"the teacher '{file}' classifies {found} of {number} training images of {meta.name} correctly, which is "
            f"no better than chance ({number * chance:.0f}): its classes may be in another order than "
            f"{', '.join(meta.class_names[:3])}, …, or it was trained with another normalization."
        )


def tested(
    networks: TrainedNetworks, number: int, epochs: int, images: LabeledImages, measure: Callable[[], int]
) -> float:
    """Return a network's test accuracy in percent: that which is kept beside it, else a new measurement.

    All processes of a run call this together.

    Args:
        networks: The trained networks.
        number: Which of them.
        epochs: After how many epochs.
        images: The test images.
        measure: Counts how many of them it classifies correctly.
    """
    path, key, of = networks.folder / TESTED, f"network{number:04d}-epoch{epochs:04d}", digest(images)
    there = read_tested(path).get(key)
    if isinstance(there, dict) and there.get("images") == of and isinstance(there.get("test_accuracy"), float):
        return float(there["test_accuracy"])
    accuracy = 100 * measure() / len(images)

    def keep() -> None:
        if process_rank() == 0:
            # Another run may write at the same time: what is lost is measured again.
            told = {**read_tested(path), key: {"test_accuracy": accuracy, "number": len(images), "images": of}}
            with replacing(path) as file:
                file.write(json.dumps(told, indent=2).encode())

    with contextlib.suppress(OSError):  # a folder that can be read alone; the networks are there
        first_then_others(keep)
    return accuracy


def read_tested(path: Path) -> dict[str, Any]:
    """Read the file of test accuracies; empty if there is none, or if it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
