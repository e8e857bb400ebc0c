"""The initial images of a run, either drawn or read from another distilled set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from bacon_pl.data.images import DatasetMeta, LabeledImages
from bacon_pl.distilled_set.artifact import DistilledSet
from bacon_pl.errors import BaconError, one_line
from bacon_pl.partition import Scaling, Upscaling
from bacon_pl.selection.tiles import DRAWN, Start, canvases


def start_images(
    store: LabeledImages,
    meta: DatasetMeta,
    ipc: int,
    factor: int,
    start: Start,
    seed: int,
    upscaling: Upscaling = "bilinear",
) -> Tensor:
    """Make the initial images of a run.

    Args:
        store: The real training images.
        meta: Description of the dataset.
        ipc: Canvases per class.
        factor: Tiles per side of a canvas.
        start: Kind of initial images.
        seed: Seed of the draw; unused if another set is read.
        upscaling: How tiles will be scaled up, which must be that of another set, if one is read.

    Returns:
        (C·ipc, ch, H, W), class by class, normalized or whitened as ``meta`` says, in torch's default type and on the
        device of ``store``.

    Raises:
        BaconError: A class has fewer than ``ipc`` images, the factor does not divide the size, or the other set cannot
            be read, was made from other data, or has another ipc, factor or upscaling.
    """
    if start.images in DRAWN:
        return canvases(store, meta, ipc, factor, start, seed)
    other = _read(start.images, meta)
    if len(set(other.counts)) > 1:
        raise BaconError(
            f"--model.start.images '{start.images}' is a set of {other.counts_text} images per class, but a run has "
            "the same number for each: give another set."
        )
    mine = {"ipc": ipc, "factor": factor, "upscaling": upscaling}
    theirs = {"ipc": other.ipc, "factor": other.factor, "upscaling": other.upscaling if factor > 1 else upscaling}
    for name, value in theirs.items():
        if value != mine[name]:
            raise BaconError(
                f"--model.start.images '{start.images}' is a set of {name} {value}, this run's is {mine[name]}: give "
                f"--model.{name} {value}, or another set."
            )
    return other.images.to(store.images.device, torch.get_default_dtype())


def recorded_scaling(config: Mapping[str, Any]) -> Scaling:
    """Return how the initial tiles of a set were scaled down, as recorded in its configuration.

    Args:
        config: :attr:`DistilledSet.config <bacon_pl.distilled_set.DistilledSet>`.

    Returns:
        The scaling; ``bilinear`` if none is recorded.

    Raises:
        BaconError: The recorded scaling does not exist.
    """
    found: Any = config
    for name in ("model", "start", "scaling"):
        found = found.get(name) if isinstance(found, Mapping) else None
        # For a class selected by name, the arguments are one level below.
        found = found["init_args"] if isinstance(found, Mapping) and "init_args" in found else found
    if found is None:
        return "bilinear"
    if found not in get_args(Scaling):
        raise BaconError(
            f"the distilled set says that its tiles were scaled '{one_line(str(found), 40)}', which is none of "
            f"{', '.join(get_args(Scaling))}: leave tiles out of --baselines."
        )
    return cast(Scaling, found)


def _read(path: str, meta: DatasetMeta) -> DistilledSet:
    if not Path(path).exists():
        raise BaconError(
            f"--model.start.images must be {', '.join(DRAWN)} or the path of a distilled set, got '{path}', which does "
            "not exist."
        )
    try:
        other = DistilledSet.load(path)
        other.check_fits(meta)
    except BaconError as error:
        raise BaconError(f"cannot start from '{path}': {error}") from error
    return other
