"""The version of this package that is installed. Nothing heavy is imported here, for `bacon --version` needs it."""

from __future__ import annotations

import importlib.metadata


def package_version() -> str:
    """Return the installed version of this package, or ``"unknown"`` where it runs without being installed."""
    try:
        return importlib.metadata.version("bacon-pl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
