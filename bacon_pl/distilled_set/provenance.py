"""Which version and commit of this package made something."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path


def package_version() -> str:
    """Return the installed version of this package, or ``"unknown"`` where it runs without being installed."""
    try:
        return importlib.metadata.version("bacon-pl")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def git_commit() -> str | None:
    """Return the commit of the checkout this package runs from, else of the working directory's, else None."""
    package = Path(__file__).resolve().parents[1]
    for folder in (str(package), "."):
        command = ["git", "-C", folder, "rev-parse", "--show-prefix", "HEAD"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            prefix, commit = done.stdout.splitlines()  # the prefix is an empty line at the checkout's top
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        # Installed into a virtual environment the package may lie inside somebody else's repository.
        if folder == "." or prefix == f"{package.name}/":
            return commit
    return None
