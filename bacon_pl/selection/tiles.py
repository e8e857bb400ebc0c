"""Initial images of a run, which are also the baseline ``tiles``: canvases of random real images or of noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.data.draw import draw_real
from bacon_pl.errors import BaconError
from bacon_pl.partition import Scaling, assemble, check_factor

DRAWN = ("tiles", "whole", "noise")
"""Values of ``Start.images`` that stand for drawn images; any other value is a path."""


@dataclass(frozen=True)
class Start:
    """The synthetic images before the first step.

    Args:
        images: ``tiles``: each canvas holds factor² real images of its class, each scaled by 1/factor; ``whole``: each
            canvas is one real image, regardless of the factor; ``noise``: standard normal noise in normalized pixel
            space, or in the whitened space of the data; or the path of another distilled set (its file or the folder of
            its run) with the same number of images per class and the same factor.
        scaling: How tiles are scaled down: ``bilinear`` interpolates between 4 pixels of the image for each pixel of
            the tile, ``nearest`` takes the one pixel in the middle, and ``antialiased`` averages over all pixels that
            become one.

    Raises:
        BaconError: An argument is unknown, or a scaling is given although no image is scaled.
    """

    images: str = "tiles"
    scaling: Scaling = "bilinear"

    def __post_init__(self) -> None:
        if not self.images:
            raise BaconError(f"--model.start.images must be {', '.join(DRAWN)} or the path of a distilled set, got ''.")
        if self.scaling not in get_args(Scaling):
            raise BaconError(
                f"--model.start.scaling must be {', '.join(get_args(Scaling)[:-1])} or {get_args(Scaling)[-1]}, got "
                f"'{self.scaling}'."
            )
        if self.images != "tiles" and self.scaling != "bilinear":
            raise BaconError(
                f"--model.start.scaling says how tiles are scaled, but --model.start.images is '{self.images}': leave "
                "one of them out."
            )


def canvases(store: LabeledImages, meta: DatasetMeta, ipc: int, factor: int, start: Start, seed: int) -> Tensor:
    """Draw the initial images of a run.

    The tiles of a canvas are different images unless their class has too few. In whitened space, real images are
    whitened first and then scaled down: networks see tiles scaled up again, which is then a smooth version of the
    whitened image.

    Args:
        store: The real training images.
        meta: Description of the dataset.
        ipc: Canvases per class.
        factor: Tiles per side of a canvas.
        start: One of the drawn starts (see :data:`DRAWN`); :func:`bacon_pl.distilled_set.start_images` also reads
            another set's file.
        seed: Seed of the draw.

    Returns:
        (C·ipc, ch, H, W), class by class, in normalized or whitened space, in torch's default type and on the device of
        ``store``.

    Raises:
        BaconError: A class has fewer than ``ipc`` images, or the factor does not fit the size.
    """
    check_factor(meta.size, factor, "--model.factor")
    dtype = torch.get_default_dtype()
    if start.images == "noise":
        shape = (meta.num_classes * ipc, meta.channels, *meta.size)
        # Drawn on the CPU, so that every device starts from the same bits.
        generator = torch.Generator().manual_seed(rng.derive(seed, "initial noise"))
        return torch.randn(shape, generator=generator, dtype=dtype).to(store.images.device)
    tiles = 1 if start.images == "whole" else factor
    index = draw_real(store, ipc, tiles**2, seed, "initial images")
    real = meta.normalize(store.images[index], dtype)
    return assemble(real, tiles, start.scaling).flatten(0, 1)
