"""Networks trained on the real images, kept as files that runs, commands and processes share.

A folder holds the networks of one fingerprint: the images and labels, their normalization, the architecture, the recipe
and the seed. Network k of it depends on that and on k alone, so that more of them may be added at any time. A file
holds one network after so many epochs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.cache_files import networks_folder
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.distilled_set.provenance import git_commit, package_version
from bacon_pl.distributed import first_then_others, gather_objects, process_rank, together, wait_for_lock
from bacon_pl.errors import BaconError
from bacon_pl.learners import network_files as files
from bacon_pl.learners.fingerprint import FORMAT, TRAINED, described
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.training import Training
from bacon_pl.networks.base import state_of
from bacon_pl.runtime import replacing

MADE = ("format", "fingerprint", "dataset", "version", "commit", "created")
"""What ``about.json`` says of the making; the rest is what the fingerprint is the digest of."""

Storage = Literal["float32", "float16", "bfloat16"]
"""Type of the numbers in the files of trained networks."""

Facts = Callable[[int, int], dict[str, Any]]


class TrainedNetworks:
    """Networks trained on the real images, read from their files when they are asked for.

    Attributes:
        folder: Where they are kept.
        facts: Gives what a file of a network after so many epochs says of itself.
        count: How many there are, from network 0.
        snapshots: After how many epochs their states are kept; 0 is before training.
        fingerprint: Names all that they depend on, their numbers excepted; it is the name of the folder.
    """

    def __init__(self, folder: Path, count: int, snapshots: tuple[int, ...], facts: Facts, expected: files.Shapes):
        self.folder = folder
        self.count = count
        self.snapshots = snapshots
        self.facts = facts
        self.fingerprint = folder.name
        self._expected = expected

    def state(self, number: int, epochs: int | None = None) -> dict[str, Tensor]:
        """A network's parameters and buffers by name, on the CPU.

        Args:
            number: Which network, from 0.
            epochs: After how many epochs; by default the last of ``snapshots``.

        Raises:
            BaconError: Its file has been damaged or taken away since it was checked.
        """
        epochs = self.snapshots[-1] if epochs is None else epochs
        path = self._path(number, epochs)
        try:
            return files.read(path, self.facts(number, epochs), self._expected)
        except files.DamagedError as error:
            raise BaconError(
                f"'{path}' cannot be read any more ({error}): start again, and the network is trained anew."
            ) from error

    def usable(self, number: int, epochs: int, warn: bool = False) -> bool:
        """Whether a network's file is there and whole; one that is damaged is told of, if asked to."""
        path = self._path(number, epochs)
        try:
            files.read(path, self.facts(number, epochs), self._expected)
        except files.DamagedError as error:
            if warn and path.exists():
                warnings.warn(
                    f"the trained network '{path}' cannot be used ({error}); training it again.", stacklevel=2
                )
            return False
        return True

    def missing(self, warn: bool = False) -> dict[int, set[int]]:
        """Which networks, by number, lack usable files of which epochs, in the view of any process.

        All processes of a run call this together; nodes may have folders of their own.
        """
        own = [(k, epochs) for k in range(self.count) for epochs in self.snapshots if not self.usable(k, epochs, warn)]
        lacking: dict[int, set[int]] = {}
        for number, epochs in sorted(pair for pairs in gather_objects(own) for pair in pairs):
            lacking.setdefault(number, set()).add(epochs)
        return lacking

    def write(self, number: int, epochs: int, state: dict[str, Tensor]) -> None:
        """Write a network's file."""
        files.write(self._path(number, epochs), state, self.facts(number, epochs))

    def stored(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a state in the types of the files."""
        return {name: t.detach().to(self._expected[name][1]) for name, t in state.items()}

    def unfinished(self, number: int) -> Path:
        """The file of a network whose training was cut short."""
        return self.folder / f"network{number:04d}.unfinished"

    def _path(self, number: int, epochs: int) -> Path:
        return self.folder / f"network{number:04d}-epoch{epochs:04d}.safetensors"


def trained_networks(
    store: LabeledImages,
    meta: DatasetMeta,
    recipe: Recipe,
    *,
    seed: int = 0,
    count: int = 1,
    snapshots: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    folder: Path | None = None,
    purpose: str = TRAINED,
    storage: Storage = "float32",
) -> TrainedNetworks:
    """Networks trained on real images: those that are kept already, and the others once they have been trained.

    All processes of a run call this together and share the training. Another run that needs the same networks waits.
    Training that was cut short goes on where it was last saved. On a CPU the result has the same bits however many
    networks and processes there are; on a GPU it differs by rounding.

    Args:
        store: The images they are trained on, all of them and no others.
        meta: What the images are.
        recipe: How they are trained, for ``recipe.epochs`` epochs; ``num_networks`` and what else says nothing about a
            single network plays no part.
        seed: Network k depends on (seed, k) alone.
        count: How many networks are needed, from network 0.
        snapshots: After how many epochs their states are needed, each in [0, epochs]; by default at the end.
        device: Where they are trained.
        folder: Where such folders are kept; by default ``networks`` in the cache.
        purpose: Networks of different purposes have different draws and folders; the default is that of networks which
            anything may share.
        storage: Type of the numbers in the files. Networks of another type are others, with a folder of their own.

    Raises:
        BaconError: The folder cannot be written.
        ValueError: A snapshot is asked for that does not come.
    """
    wanted = tuple(sorted({recipe.epochs} if snapshots is None else set(snapshots)))
    if beyond := [epochs for epochs in wanted if not 0 <= epochs <= recipe.epochs]:
        raise ValueError(f"snapshots after epochs {beyond} were asked for, the training has {recipe.epochs}.")
    recipe = replace(recipe, num_networks=1, soft_labels=None, test_resize=None)
    facts_of_all = described(store, meta, recipe, seed, purpose)
    if storage != "float32":
        facts_of_all["storage"] = storage
    text = json.dumps(facts_of_all, sort_keys=True)
    fingerprint = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=12).hexdigest()
    place = (networks_folder() if folder is None else folder) / fingerprint

    def facts(number: int, epochs: int) -> dict[str, Any]:
        return {"format": FORMAT, "fingerprint": fingerprint, "network": number, "epochs": epochs}

    with _float32():
        with rng.seeded(seed, "trained networks"):
            template = recipe.network(meta.channels, meta.size, meta.num_classes)
        expected = files.shapes(state_of(template))
        networks = TrainedNetworks(place, count, wanted, facts, files.stored(expected, storage))
        if networks.missing():
            about = {"format": FORMAT, "fingerprint": fingerprint, "dataset": meta.name, **facts_of_all}
            try:
                with _folder(networks, about):
                    seed = rng.derive(seed, purpose)
                    Training(networks, store, meta, recipe, seed, torch.device(device), template).run()
            except OSError as error:
                raise BaconError(
                    f"networks trained on the real images cannot be kept in '{place}' ({error}): set BACON_CACHE to a "
                    "folder that can be written."
                ) from error
    return networks


@contextlib.contextmanager
def _folder(networks: TrainedNetworks, about: dict[str, Any]) -> Iterator[None]:
    """Make the folder, say in it what it holds, and keep other runs from training the same networks meanwhile."""
    together(lambda: networks.folder.mkdir(parents=True, exist_ok=True))
    with open(networks.folder / "lock", "a") as file:
        wait_for_lock(file, f"another run that trains the networks in '{networks.folder}'")

        def furnish() -> None:
            if process_rank() == 0:
                for left in networks.folder.glob(".*.part"):  # of one that was killed
                    left.unlink(missing_ok=True)
            if not (path := networks.folder / "about.json").exists():
                made = {"version": package_version(), "commit": git_commit()}
                created = datetime.now(timezone.utc).isoformat(timespec="seconds")
                with replacing(path) as out:
                    out.write(json.dumps({**about, **made, "created": created}, indent=2).encode(errors="replace"))

        first_then_others(furnish)
        yield


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """Make tensors as float32 by default, whatever precision the run has that needs the networks."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
