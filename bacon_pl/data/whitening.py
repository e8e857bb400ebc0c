"""Whitened space: pixels without correlations, in which images may live instead of in normalized pixel space.

A :class:`Whitening` is only a description, small enough for checkpoints and files of distilled sets. Its matrices are
in the cache, in a file that its fingerprint names, and are read when images are first mapped.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bacon_pl.data.cache import Built, cached, read_cached
from bacon_pl.errors import BaconError
from bacon_pl.runtime import memory_bytes

EPSILON = 0.1
"""What the field adds to the eigenvalues of the covariance of pixels in [0, 1] (arXiv 2203.11932)."""

MOST_VALUES = 3 * 64 * 64
"""Values of the largest image that can be whitened; the matrices have the square of this number of entries."""

_MATRICES = ("mean", "matrix", "inverse")
_CHUNK = 4096  # images whose pixels are float64 at once
_AT_ONCE = 5  # matrices of one size that a fit holds at its peak

_held: dict[str, dict[str, Tensor]] = {}


@dataclass(frozen=True)
class Whitening:
    """A whitened space: it is fitted to training images, which its fingerprint names.

    With the pixels x of an image in [0, 1], flattened to a row of D = ch·H·W numbers, and the mean μ and the covariance
    Σ = U diag(s) Uᵀ of the training images, a whitened image is (x − μ) U diag((s + ε)^−½) Uᵀ: the ZCA of trajectory
    matching (arXiv 2203.11932). Equal whitenings are equal spaces.

    Attributes:
        kind: ``zca``.
        epsilon: What is added to the eigenvalues of the covariance of pixels in [0, 1].
        fingerprint: Digest of the training images to which it was fitted, and of ``kind`` and ``epsilon``.
    """

    kind: str
    epsilon: float
    fingerprint: str

    def to_json(self) -> dict[str, Any]:
        """Return the attributes as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Whitening:
        """Create the description from what :meth:`to_json` returned.

        Raises:
            ValueError: A value is missing or makes no sense.
        """
        kind, epsilon, fingerprint = (values.get(name) for name in ("kind", "epsilon", "fingerprint"))
        if kind != "zca" or not isinstance(fingerprint, str) or not isinstance(epsilon, int | float):
            raise ValueError("the description of the whitening makes no sense")
        return cls(kind, float(epsilon), fingerprint)

    def __str__(self) -> str:
        return f"{self.kind.upper()}-whitened (epsilon {self.epsilon:g}, fitted to images {self.fingerprint[:8]})"

    def whiten(self, pixels: Tensor) -> Tensor:
        """Map pixels (..., ch, H, W) in [0, 1] to whitened space: same shape, type and device.

        Raises:
            BaconError: The matrices are not in the cache.
        """
        mean, matrix = _constants(self, "matrix", _wide(pixels.dtype), pixels.device)
        return _by_rows(pixels, lambda x: (x - mean) @ matrix)

    def unwhiten(self, images: Tensor) -> Tensor:
        """Map whitened images (..., ch, H, W) back to pixels, which are not clamped to [0, 1].

        Raises:
            BaconError: The matrices are not in the cache.
        """
        mean, inverse = _constants(self, "inverse", _wide(images.dtype), images.device)
        return _by_rows(images, lambda x: x @ inverse + mean)

    def matrices(self) -> dict[str, Tensor]:
        """Return ``mean`` (D,), ``matrix`` and ``inverse`` (D, D), float64 on the CPU.

        Raises:
            BaconError: They are not in the cache.
        """
        if self.fingerprint not in _held:
            found = read_cached(*_place(self.fingerprint))
            if found is None:
                raise BaconError(
                    f"the images are {self}, and the matrices of this space are not in the cache: load the dataset "
                    "that they were made from with --data.whitening zca (in Python, DataModule(..., whitening='zca')"
                    ".setup()), which fits them again."
                )
            _held[self.fingerprint] = found
        return _held[self.fingerprint]


def check_whitening(kind: str | None, values: int | None = None, name: str = "the dataset") -> None:
    """Check that images can be whitened, before anything is allocated for it.

    Args:
        kind: Value of ``--data.whitening``.
        values: Numbers per image, ch·H·W; None if they are not known yet.
        name: What the images are, for the message.

    Raises:
        BaconError: There is no such whitening, or the images are too large for its matrices.
    """
    if kind is None:
        return
    if kind != "zca":
        raise BaconError(f"--data.whitening must be zca or null, got {kind!r}.")
    if values is None:
        return
    size = 8 * values**2
    if values > MOST_VALUES or _AT_ONCE * size > memory_bytes():
        raise BaconError(
            f"images of {name} have {values:,} values, so that each matrix of --data.whitening zca would take "
            f"{size / 1e9:.3g} GB: scale them down by --data.image_size (to at most {MOST_VALUES:,} values, and as "
            "memory allows), or leave the whitening out."
        )


def fitted(
    images: Tensor, epsilon: float = EPSILON, name: str = "the dataset", fitting: Callable[[], None] = lambda: None
) -> Whitening:
    """Fit the ZCA whitening of training images, or find it in the cache.

    Args:
        images: (N, ch, H, W), uint8, at least two. Their order does not matter.
        epsilon: What is added to the eigenvalues of the covariance of pixels in [0, 1].
        name: Name of the dataset, as shown by ``bacon cache``.
        fitting: Called before a fit, which may take minutes.

    Returns:
        The description of the whitened space, whose matrices are at hand.

    Raises:
        BaconError: The images are too large.
    """
    check_whitening("zca", images[0].numel(), name)
    whitening = Whitening("zca", float(epsilon), _fingerprint(images, "zca", epsilon))
    if whitening.fingerprint not in _held:

        def build() -> Built:
            fitting()
            return dict(zip(_MATRICES, fit_zca(images, epsilon), strict=True)), {"whitening": f"ZCA of {name}"}

        # Held in memory in any case, since the cache may be one that cannot be written.
        _held[whitening.fingerprint] = cached(*_place(whitening.fingerprint), build, task="fit the whitening")[0]
    return whitening


def fit_zca(images: Tensor, epsilon: float = EPSILON) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the ZCA whitening of images in float64, whatever torch's default type is.

    The sums behind mean and covariance are exact: they are whole numbers below 2^53, so that neither the order of the
    images nor the number of threads changes them.

    Args:
        images: (N, ch, H, W), uint8, at least two.
        epsilon: What is added to the eigenvalues of the covariance of pixels in [0, 1].

    Returns:
        The mean (D,), the whitening matrix and its inverse (D, D), both symmetric, float64 on the CPU, D = ch·H·W.
    """
    n, d = len(images), images[0].numel()
    total = torch.zeros(d, dtype=torch.float64)
    products = torch.zeros(d, d, dtype=torch.float64)
    for chunk in images.cpu().split(_CHUNK):
        x = chunk.flatten(1).to(torch.float64)
        total += x.sum(0)
        products.addmm_(x.T, x)
    # n·Σxxᵀ − Σx·Σxᵀ, still in whole numbers, which may need more than 53 bits.
    whole, sums = products.to(torch.int64).mul_(n), total.to(torch.int64)
    whole -= sums[:, None] * sums[None, :]
    covariance = whole.to(torch.float64) / (255.0**2 * n * (n - 1))
    del whole, products
    s, u = torch.linalg.eigh(covariance)
    del covariance
    root = (s + epsilon).sqrt()
    matrix, inverse = ((u * scale) @ u.T for scale in (1 / root, root))
    return total / (255 * n), matrix, inverse


def _fingerprint(images: Tensor, kind: str, epsilon: float) -> str:
    """Return 24 hexadecimal digits that name images in any order, and what is fitted to them."""
    rows = np.ascontiguousarray(images.cpu().numpy()).reshape(len(images), -1)
    digests = sorted(hashlib.blake2b(row.data, digest_size=16).digest() for row in rows)
    whole = hashlib.blake2b(repr((kind, float(epsilon), tuple(images.shape))).encode(), digest_size=12)
    whole.update(b"".join(digests))
    return whole.hexdigest()


def _place(fingerprint: str) -> tuple[str, str, str]:
    """Return what names the file in the cache, which a set must find without its dataset."""
    return f"zca-{fingerprint[:8]}", fingerprint, fingerprint


def _wide(dtype: torch.dtype) -> torch.dtype:
    """Return the type to compute in: sums of thousands of products are not taken in half precision."""
    return torch.promote_types(dtype, torch.float32)


def _by_rows(images: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function of rows (n, D) to images (..., ch, H, W), in full precision even inside an autocast region."""
    with torch.autocast(images.device.type, enabled=False):
        changed = change(images.to(_wide(images.dtype)).reshape(-1, images.shape[-3:].numel()))
    return changed.to(images.dtype).view(images.shape)


@functools.lru_cache(maxsize=8)
def _constants(whitening: Whitening, which: str, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the mean and a matrix, kept on the device, since a copy in every step would let a GPU wait."""
    with torch.inference_mode(False):  # what a test has made first may be needed for a gradient later
        held = whitening.matrices()
        return held["mean"].to(device, dtype), held[which].to(device, dtype)
