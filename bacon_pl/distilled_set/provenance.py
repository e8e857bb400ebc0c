"""Which version and commit of this package made something."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bacon_pl.version import package_version

__all__ = ["git_commit", "package_version"]


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
