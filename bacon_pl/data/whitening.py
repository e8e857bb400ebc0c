"""Which whitened space images are in, instead of normalized pixel space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Whitening:
    """A whitened space: it is fitted to training images, which its fingerprint names.

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
