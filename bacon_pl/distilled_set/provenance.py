"""The version and the commit of this package, for provenance."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bacon_pl.version import package_version

__all__ = ["git_commit", "package_version"]


def git_commit() -> str | None:
    """Return the Git commit of this package's checkout or, if there is none, of the working directory; else None."""
    package = Path(__file__).resolve().parents[1]
    for folder in (str(package), "."):
        command = ["git", "-C", folder, "rev-parse", "--show-prefix", "HEAD"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            prefix, commit = done.stdout.splitlines()  # at the top of a checkout, the prefix is an empty line
        except (OSError, ValueError, subprocess.SubprocessError):
            continue
        # If installed in a virtual environment, the package may be inside a repository of another project.
        if folder == "." or prefix == f"{package.name}/":
            return commit
    return None
