"""Where the proof is run: the device, the data, and the folder in which everything is kept."""

from __future__ import annotations

import hashlib
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from bacon_pl.data import CATALOG
from bacon_pl.errors import BaconError
from benchmarks import report

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ("bacon_pl", "configs", "benchmarks")
"""What the numbers depend on; the files that only tell of them are left out."""
_TELLS = {"gpu.py", "aims.py", "page.py"}


@dataclass(frozen=True)
class Place:
    """What all parts have in common.

    Attributes:
        device: ``cuda``, or ``cpu`` for a rehearsal.
        small: Toy sizes.
        dataset: ``cifar10``, ``random`` (pixels of CIFAR-10's size) or ``digits`` (toy sizes).
        root: Folder of CIFAR-10.
        out: Folder in which everything is kept.
    """

    device: str
    small: bool
    dataset: str
    root: str
    out: Path

    @property
    def rehearsal(self) -> bool:
        """Whether nothing is proved."""
        return self.device == "cpu" or self.small

    @property
    def name(self) -> str:
        """Name of the device."""
        return report.device_name(torch.device(self.device))

    @property
    def folder(self) -> Path:
        """Folder of this device, these data and these sizes."""
        words = re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")
        return self.out / "-".join([words, self.dataset, *(["small"] if self.small else [])])


def find_data(root: str | None, small: bool) -> str:
    """Choose the data: CIFAR-10 where it lies, else random pixels.

    Args:
        root: Folder that was given for CIFAR-10; None looks into ``data``.
        small: Toy sizes, for which there are the digits.

    Raises:
        BaconError: A folder was given, and CIFAR-10 is not in it.
    """
    if small:
        return "digits"
    folder = Path("data" if root is None else root).expanduser()
    if (folder / "cifar-10-batches-py").is_dir() or ((folder / "train").is_dir() and (folder / "test").is_dir()):
        return "cifar10"
    if root is not None:
        raise BaconError(
            f"CIFAR-10 is not in '{root}': give the folder of cifar-10-batches-py, or of train/ and test/ with a "
            "folder of pictures for each class, or leave it out to time random pixels."
        )
    return "random"


def data_words(place: Place) -> list[str]:
    """The data as options of ``bacon fit`` and ``bacon eval``."""
    if place.dataset == "digits":
        return []
    if place.dataset == "random":
        from benchmarks.proof.distill import RANDOM

        return ["--data.name", "random {}x{} {}".format(*RANDOM)]
    words = ["--data.root", place.root]
    if not (Path(place.root).expanduser() / "cifar-10-batches-py").is_dir():
        spec = CATALOG["cifar10"]
        mean, std = list(spec.mean or ()), list(spec.std or ())
        words += ["--data.name", "folder", "--data.mean", str(mean), "--data.std", str(std)]
    return words


@cache
def digest(extra: tuple[str, ...] = ()) -> str:
    """A name for the code that is measured, the same wherever it lies and whatever its commit says of other files."""
    found = hashlib.sha256()
    for top in (*MEASURED, *extra):
        for path in sorted((ROOT / top).rglob("*")):
            if path.suffix in (".py", ".yaml", ".cpp", ".h") and path.name not in _TELLS:
                found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:12]


def has_changes() -> bool | None:
    """Whether the checkout differs from its commit; None if there is none."""
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "status", "--porcelain"], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return bool(done.stdout.strip())
