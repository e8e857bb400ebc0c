"""Dataset distillation on PyTorch Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bacon_pl.errors import BaconError

if TYPE_CHECKING:
    from bacon_pl.distilled_set import DistilledSet

    __version__: str

__all__ = ["BaconError", "DistilledSet", "__version__"]


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is asked for, so that short commands do not wait for it."""
    if name not in ("DistilledSet", "__version__"):
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    found: Any
    if name == "__version__":
        from bacon_pl.version import package_version

        found = package_version()
    else:
        from bacon_pl import distilled_set

        found = distilled_set.DistilledSet
    globals()[name] = found
    return found
