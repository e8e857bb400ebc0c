"""The folder of an evaluation: how it is called, and that no other evaluation's results in it are lost."""

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
"""Below a run's folder, or below the one for everything: where the folders of evaluations lie."""

RESULTS = "results.json"
"""The file that makes a folder an evaluation's."""

_MOST_NAMES = 3
_LONGEST = 40


def folder_name(source: Path, networks: Sequence[str], epochs: int, identity: Mapping[str, Any]) -> str:
    """Name the folder of an evaluation, e.g. ``distilled-convnet-1000epochs-3f2a91bc``.

    Args:
        source: The set's file, or the folder that it is read from.
        networks: Names of the architectures.
        epochs: Epochs of the recipe.
        identity: All that makes the evaluation what it is; two that differ in it get different names.
    """
    shown = "-".join(networks[:_MOST_NAMES])
    if len(networks) > _MOST_NAMES:
        shown += f"-and-{len(networks) - _MOST_NAMES}-more"
    text = json.dumps(identity, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(), digest_size=4).hexdigest()
    return f"{_plain(source.stem)}-{_plain(shown)}-{epochs}epochs-{digest}"


def _plain(name: str) -> str:
    """Letters, digits and a few marks of a name, so that it is one part of a path everywhere."""
    return re.sub(r"[^\w.-]+", "_", name, flags=re.ASCII)[:_LONGEST].strip(".-") or "set"


@contextlib.contextmanager
def claimed(folder: Path, overwrite: bool = False) -> Iterator[None]:
    """Hold the folder of an evaluation for this process; nothing stays of it if nothing was written there.

    Args:
        folder: The folder.
        overwrite: Results that are there may be replaced.

    Raises:
        BaconError: There are results and they may not be, another process is writing there, or nobody can.
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
