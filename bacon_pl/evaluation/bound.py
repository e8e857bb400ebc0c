"""The bound and the risk (arXiv 2406.01112) of a distilled set in the feature spaces of several networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.bound import BoundSettings, Measured, measure
from bacon_pl.data import IterationBatch, LabeledImages
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.selection import Embed

VIEWS = {
    "fresh": "initial weights",
    "real": "trained on real images",
    "distilled": "trained on the distilled set",
}
"""The networks whose feature spaces are used, with their descriptions in reports."""

REAL_IMAGES = 500
"""Maximum number of real images per class that are used."""

BLOCK_BYTES = 1 << 29
"""Memory for embeddings: classes are processed in blocks that fit into it, at least one class at a time."""


def bounds(
    views: Mapping[str, Embed], distilled: DistilledSet, store: LabeledImages, settings: BoundSettings, seed: int
) -> dict[str, Any]:
    """Measure the bound and the risk of a set in the feature spaces of networks.

    Args:
        views: Functions from images to embeddings, by the name of the network.
        distilled: The set.
        store: The real training images.
        settings: How the bound and the risk are computed.
        seed: Seed of the drawn real images and points in the balls, which are the same for every network.

    Returns:
        A mapping for JSON with the ``settings`` and, for every network, means over classes with standard errors and
        values per class; None if a class has no radius (see :mod:`bacon_pl.bound.estimate`).
    """
    found = {name: measure_set(embed, distilled, store, settings, seed) for name, embed in views.items()}
    real_images = min(REAL_IMAGES, int(store.counts.max()))
    return {
        "settings": {**asdict(settings), "real_images": real_images},
        "networks": {name: _numbers(measured) for name, measured in found.items()},
    }


def measure_set(
    embed: Embed, distilled: DistilledSet, store: LabeledImages, settings: BoundSettings, seed: int
) -> Measured:
    """Measure the bound and the risk of a set in the feature space of one network, without augmentation.

    Args:
        embed: Function from uint8 or normalized images (B, ch, H, W) to embeddings (B, d), on the device of ``store``.
        distilled: The set.
        store: The real training images, of which up to 500 per class are drawn.
        settings: How the bound and the risk are computed.
        seed: Seed of the draws.

    Returns:
        The bound and the risk of every class.
    """
    real = IterationBatch(store, 0, rng.derive(seed, "bound real images"), REAL_IMAGES, 1)
    device = store.images.device
    images, labels = distilled.expanded()
    counts = labels.bincount(minlength=store.num_classes)
    by_class = images[labels.argsort(stable=True)].split(counts.tolist())
    width = embed(by_class[0][:1].to(device)).shape[1]
    found, measured = [], []
    for count in counts.unique():  # classes with the same number of images are measured together
        rows = int(count) + min(REAL_IMAGES, int(store.counts.max()))
        same = (counts == count).nonzero().flatten()
        for classes in same.split(max(1, BLOCK_BYTES // (4 * width * rows))):
            z_real, mask = real.matching(classes.to(device))
            synthetic = torch.stack([by_class[c] for c in classes.tolist()]).to(device)
            z_syn, z_real = (_embedded(embed, x) for x in (synthetic, z_real))
            found.append(measure(z_syn, z_real, mask, settings, seed, "bound"))
            measured.append(classes)
    order = torch.cat(measured).argsort().to(device)
    return Measured.of(part[..., order] for part in Measured.join(found).parts)


def bound_line(bound: Mapping[str, Any]) -> str:
    """Format bounds as ``bound: initial weights -210.4 ± 0.3, risk 0.412 ± 0.004, ε 6.31 | trained on …``."""
    return "bound: " + " | ".join(
        f"{VIEWS[name]} {with_error(n, 'bound', 1)}, risk {with_error(n, 'risk', 3)}, ε {radius(n)}"
        for name, n in bound["networks"].items()
    )


def with_error(numbers: Mapping[str, Any], name: str, digits: int) -> str:
    """Format a number with its standard error, or a dash if there is no number."""
    if numbers[name] is None:
        return "–"
    error = numbers[f"{name}_se"]
    return f"{numbers[name]:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def radius(numbers: Mapping[str, Any]) -> str:
    """Format the radius, or a dash if there is none."""
    return "–" if numbers["epsilon"] is None else f"{numbers['epsilon']:.3g}"


def _embedded(embed: Embed, images: Tensor) -> Tensor:
    """Compute embeddings (C, n, d) of images (C, n, ch, H, W)."""
    return embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def _numbers(measured: Measured) -> dict[str, Any]:
    per_class = {
        "bound": measured.bound.per_class,
        "bound_se": measured.bound.per_class_se,
        "log_integral": measured.bound.integral,
        "risk": measured.risk.per_class,
        "risk_se": measured.risk.per_class_se,
        "epsilon": measured.epsilon,
    }
    return {
        **{name: _json(value) for name, value in measured.summary().items()},
        "log_integral": _json(measured.bound.integral.nanmean()),
        "per_class": {name: [_json(x) for x in values] for name, values in per_class.items()},
    }


def _json(value: Tensor) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None  # JSON has no NaN
