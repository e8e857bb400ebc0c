"""The folder of an evaluation: its name, and protection of the results of other evaluations."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bacon_pl.errors import BaconError
from bacon_pl.runtime import held

EVALUATIONS = "evaluations"
"""Name of the folder, in that of a run or in the root directory, that contains the folders of evaluations."""

RESULTS = "results.json"
"""Name of the file that marks a folder as that of an evaluation."""

_MOST_NAMES = 3
_LONGEST = 40


def folder_name(source: Path, networks: Sequence[str], epochs: int, identity: Mapping[str, Any]) -> str:
    """Return the name of an evaluation's folder, e.g. ``distilled-convnet-1000epochs-3f2a91bc``.

    Args:
        source: File or folder of the set.
        networks: Names of the architectures.
        epochs: Epochs of the recipe.
        identity: All settings that affect the results; evaluations with different settings get different names.

    Returns:
        The name.
    """
    shown = "-".join(networks[:_MOST_NAMES])
    if len(networks) > _MOST_NAMES:
        shown += f"-and-{len(networks) - _MOST_NAMES}-more"
    text = json.dumps(identity, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{_plain(source.stem)}-{_plain(shown)}-{epochs}epochs-{digest}"


def _plain(name: str) -> str:
    """Replace unusual characters in a name, so that it is a valid part of a path on every system."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:_LONGEST].strip(".-") or "set"


@contextlib.contextmanager
def claimed(folder: Path, overwrite: bool = False) -> Iterator[None]:
    """Lock the folder of an evaluation for this process, and remove the folder again if nothing was written to it.

    Args:
        folder: The folder.
        overwrite: Whether existing results may be replaced.

    Raises:
        BaconError: There are results that may not be replaced, another process is using the folder, or it is not
            writable.
    """
    if not overwrite and (folder / RESULTS).exists():
        raise BaconError(f"'{folder}' holds results already: give another --out, or --overwrite true.")
    with contextlib.ExitStack() as stack:
        try:
            free = stack.enter_context(held(folder))
        except OSError as error:
            raise BaconError(
                f"cannot write into the folder '{folder}' ({error.strerror}): give another one as --out."
            ) from error
        if not free:
            raise BaconError(f"another process is evaluating into '{folder}': wait for it, or give another --out.")
        yield
