"""The options of a dataset's loader: one small record, checked in one place for all loaders."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Literal

from bacon_pl import ranges
from bacon_pl.errors import BaconError

OnBadImage = Literal["error", "skip"]


@dataclass(frozen=True)
class LoadOptions:
    """Where and how to load a dataset. Each loader uses the options that apply to it.

    Attributes:
        root: Folder of the data.
        download: Download missing files, if the loader can.
        image_size: Side N of the N×N images in pixels; None keeps the size on disk.
        test_fraction: Share of the images, in (0, 1), held out for testing if the data has no test split.
        seed: Seed of that split.
        on_bad_image: Whether an image file that cannot be read is an error or is skipped with a warning.
        test: Whether to load the test images; if false, a loader does not open their files.

    Raises:
        BaconError: A value is out of range.
    """

    root: Path
    download: bool = False
    image_size: int | None = None
    test_fraction: float = 0.2
    seed: int = 0
    on_bad_image: OnBadImage = "error"
    test: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "root", Path(os.path.expanduser(self.root)))
        ranges.whole("--data.", **ranges.given(image_size=self.image_size))
        if not (isinstance(self.test_fraction, (float, Real)) and 0 < self.test_fraction < 1):
            raise BaconError(f"--data.test_fraction must be between 0 and 1 (both excluded), got {self.test_fraction}.")
        if self.on_bad_image not in ("error", "skip"):
            raise BaconError(f"--data.on_bad_image must be 'error' or 'skip', got '{self.on_bad_image}'.")


def check_statistics(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Check a normalization given by the user.

    Args:
        mean: Mean per channel of pixels in [0, 1], or None.
        std: Standard deviation per channel of pixels in [0, 1], or None.

    Raises:
        BaconError: Their lengths differ or are neither 1 nor 3, or a value is out of range.
    """
    for name, values, lower in (("mean", mean, 0.0), ("std", std, math.ulp(0.0))):
        if values is None:
            continue
        if isinstance(values, str) or not isinstance(values, Sequence):
            raise BaconError(f"--data.{name} must be a list of numbers, one per channel, got {values!r}.")
        if len(values) not in (1, 3):
            raise BaconError(f"--data.{name} must have one number per channel (1 or 3), got {len(values)} numbers.")
        if not all(isinstance(v, (float, Real)) and lower <= v <= 1 for v in values):
            span = "[0, 1]" if name == "mean" else "(0, 1]"
            raise BaconError(
                f"--data.{name} is of pixels in [0, 1], so its values must be in {span}, got {list(values)}."
            )
    if mean is not None and std is not None and len(mean) != len(std):
        raise BaconError(
            f"--data.mean and --data.std must have as many numbers as each other, got {len(mean)} and {len(std)}."
        )
