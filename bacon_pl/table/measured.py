"""Files with what was measured of a run's set once it was made, and what it was measured with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bacon_pl.errors import BaconError


def read_measured(path: Path) -> dict[str, Any] | None:
    """Read such a file.

    Args:
        path: The file.

    Returns:
        Its content; None if there is none.

    Raises:
        BaconError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not isinstance(found, dict):
        raise damaged(path, TypeError("it holds no numbers by name"))
    return found


def asked_before(path: Path) -> Any:
    """Return what the numbers of such a file were measured with; None if there are none."""
    found = read_measured(path)
    return None if found is None else found.get("asked")


def damaged(path: Path, error: Exception) -> BaconError:
    """Say that such a file cannot be read, and what to do."""
    return BaconError(f"cannot read '{path}' ({error}): remove it, and it is made again.")
