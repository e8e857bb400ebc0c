"""All that networks trained on the real images depend on but their numbers, as plain values with a digest."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from bacon_pl.configured import plain
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.learners.recipe import Recipe

FORMAT = 1
"""Raised whenever the networks of a fingerprint, or their files, would change."""

TRAINED = "trained networks"
"""Purpose of networks that anything may share."""

TESTING = ("limit_train_batches", "limit_test_batches", "max_time", "fast_dev_run", "overfit_batches")
"""Settings of the Trainer that cut evaluations short in earlier versions, whose records may hold them."""

_NOT_THE_NETWORKS = (
    *("num_networks", "soft_labels", "whole_epochs", "coreset_steps", "fixed_lr", "cut_tiles", "test_resize"),
)
"""Settings of a recipe that say nothing about a network trained on the real images."""

_FIRST_SETTINGS = (
    *("network", "epochs", "batch_size", "lr", "momentum", "weight_decay", "lr_drop", "augment", "acceleration"),
    *("optimizer", "schedule", "mixing", "milestones"),
)
"""Settings that were there from the beginning. Later ones are part of a fingerprint if they have not their default
value, so that networks which were trained before stay in use."""

_OURS = ("bacon_pl.", "torch.", "torchvision.", "builtins.")


def described(
    store: LabeledImages, meta: DatasetMeta, recipe: Recipe, seed: int, purpose: str = TRAINED
) -> dict[str, Any]:
    """Describe networks by all that they depend on but their numbers, as JSON values.

    The source of classes that are not of this package is part of it, since a network of one's own may change under the
    same name.

    Args:
        store: The images that they are trained on.
        meta: What the images are.
        recipe: How they are trained.
        seed: Seed of their draws.
        purpose: Keeps the draws of different purposes apart.
    """
    default = Recipe()
    names = [field.name for field in fields(recipe) if field.name not in _NOT_THE_NETWORKS]
    told = {name: plain(getattr(recipe, name)) for name in names}
    kept = {
        name: value for name, value in told.items() if name in _FIRST_SETTINGS or value != plain(getattr(default, name))
    }
    found = {
        "images": {"number": len(store), "digest": digest(store)},
        "channels": meta.channels,
        "size": list(meta.size),
        "classes": meta.num_classes,
        "mean": list(meta.mean),
        "std": list(meta.std),
        "recipe": kept,
        "seed": seed,
        "training": FORMAT,
    }
    if meta.whitening is not None:
        found["whitening"] = meta.whitening.to_json()
    if purpose != TRAINED:
        found["purpose"] = purpose
    if sources := {path: source for path in sorted(set(_class_paths(kept))) if (source := _source(path))}:
        found["sources"] = sources
    return found


def identified(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what identifies an evaluation among the settings of its recipe.

    Nothing is said of settings that came later where they do not act, so that what was made before is still the same.

    Args:
        settings: The arguments of :class:`Recipe` by name, as JSON values.
    """
    found = dict(settings)
    if found.get("test_resize") is None:
        found.pop("test_resize", None)
    if soft := found.get("soft_labels"):
        folder = soft.get("folder")
        found["soft_labels"] = {name: value for name, value in soft.items() if not name.startswith("folder")}
        if folder is not None:
            found["soft_labels"] |= {"folder": os.path.realpath(os.path.expanduser(folder))}
            found["soft_labels"] |= {"folder_seed": soft["folder_seed"]}
    return found


def digest(store: LabeledImages) -> str:
    """Digest of images and labels."""
    total = hashlib.blake2b(digest_size=16)
    for tensor in (store.images, store.labels):
        total.update(repr((tuple(tensor.shape), str(tensor.dtype))).encode())
        total.update(np.ascontiguousarray(tensor.cpu().numpy()).data)
    return total.hexdigest()


def _class_paths(value: Any) -> Iterator[str]:
    """Yield the classes that a description names."""
    if isinstance(value, Mapping):
        if isinstance(path := value.get("class_path"), str):
            yield path
        for part in value.values():
            yield from _class_paths(part)
    elif isinstance(value, list):
        for part in value:
            yield from _class_paths(part)


def _source(path: str) -> str | None:
    """Digest of the source of a class that is not of this package or of torch, where there is one."""
    module, _, name = path.rpartition(".")
    if path.startswith(_OURS) or (cls := getattr(sys.modules.get(module), name, None)) is None:
        return None
    try:
        return hashlib.blake2b(inspect.getsource(cls).encode(), digest_size=8).hexdigest()
    except (OSError, TypeError):
        return None
