"""The installed version of this package. Only light modules are imported here, to keep ``bacon --version`` fast."""

from __future__ import annotations

import importlib.metadata


def package_version() -> str:
    """Return the installed version of this package, or ``"unknown"`` if it is not installed."""
    try:
        return importlib.metadata.version("bacon-pl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
