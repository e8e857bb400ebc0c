"""The artifact of a distillation: synthetic images with all that is needed to use, trace and show them, as one file."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from torch import Tensor

from bacon_pl import grid, partition
from bacon_pl.data.images import denormalize
from bacon_pl.distilled_set import pictures
from bacon_pl.distilled_set.content import Content
from bacon_pl.distilled_set.file import file_in, read, write
from bacon_pl.distilled_set.indexing import Index, is_single, position, positions

if TYPE_CHECKING:
    import datasets
    from matplotlib.figure import Figure


class DistilledSet(Content):
    """A distilled dataset: a map-style dataset of its expanded images, and a file.

    Indexing gives expanded, normalized images, as evaluation uses them; ``images`` are the canvases as trained. Sets
    with the same content are equal, and none is written to once it is made.

    Attributes:
        images: (C·ipc, ch, H, W), float32 on the CPU, normalized pixel space, class by class.
        labels: (C·ipc,), int64 on the CPU: 0 ipc times, then 1 ipc times, …
        meta: The dataset that was distilled.
        factor: Partition factor: every canvas holds factor² images.
        method: Name of the distillation method.
        config: Resolved configuration of the run, as JSON values.
        seed: Seed of the run.
        version: Version of this package that made the set.
        commit: Git commit that made the set, or None.
        step_size: Learning rate that was learned with the images, or None.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from bacon_pl.data import DatasetMeta
        >>> from bacon_pl.distilled_set import DistilledSet
        >>> meta = DatasetMeta("toy", ("ant", "bee"), channels=1, size=(8, 8), mean=(0.5,), std=(0.25,))
        >>> made = DistilledSet(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), meta, factor=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     distilled = DistilledSet.load(made.save(folder))
        >>> len(distilled), distilled.ipc
        (8, 1)
        >>> image, label = distilled[1]
        >>> tuple(image.shape), label
        ((1, 8, 8), 1)
        >>> images, labels = distilled[2:6]
        >>> tuple(images.shape), labels.tolist()
        ((4, 1, 8, 8), [0, 1, 0, 1])
        >>> distilled == made
        True
    """

    # ---- as a dataset

    @cached_property
    def _expanded(self) -> tuple[Tensor, Tensor]:
        return partition.expand(self.images, self.factor), partition.expand_labels(self.labels, self.factor)

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Return the set as evaluation uses it, all at once.

        Returns:
            Images (factor²·C·ipc, ch, H, W), float32 in normalized pixel space, and labels (factor²·C·ipc,), int64.
            They are computed once and shared between calls: do not write to them.
        """
        return self._expanded

    def __len__(self) -> int:
        return len(self.images) * self.factor**2

    @overload
    def __getitem__(self, index: int | np.integer[Any]) -> tuple[Tensor, int]: ...

    @overload
    def __getitem__(self, index: Index) -> tuple[Tensor, Tensor]: ...

    def __getitem__(self, index: Any) -> tuple[Tensor, int] | tuple[Tensor, Tensor]:
        """Return one expanded image with its label, or several of them.

        Args:
            index: A whole number; or a slice, or a list, tensor or array of whole numbers or of ``len(self)`` booleans.
                Negative numbers count from the end.

        Returns:
            For a whole number an image (ch, H, W) and its label as an int, else images (N, ch, H, W) and labels (N,),
            int64, as tensors of their own.

        Raises:
            IndexError: There is no such image, or there are not ``len(self)`` booleans.
            TypeError: The index is something else.
        """
        images, labels = self._expanded
        if is_single(index):
            single = position(index, len(self))
            return images[single], int(labels[single])
        several = positions(index, len(self))
        return images[several], labels[several]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names in label order, as torchvision's datasets call them."""
        return self.meta.class_names

    @property
    def class_to_idx(self) -> dict[str, int]:
        """Labels by class name; of classes with the same name, the last one's."""
        return {name: label for label, name in enumerate(self.classes)}

    @property
    def targets(self) -> Tensor:
        """Labels of the expanded images, (factor²·C·ipc,), int64, in the order of indexing. Do not write to them."""
        return self._expanded[1]

    # ---- as a file

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the set to one self-contained safetensors file.

        The file appears whole or not at all, and equal sets give equal bytes.

        Args:
            path: The file, or an existing folder, in which it is named ``distilled.safetensors``. Missing parent
                folders are made.

        Returns:
            The file's path.

        Raises:
            BaconError: The file cannot be written.
        """
        target = file_in(path)
        write(target, self.images, self.labels, self.meta, self._fields())
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistilledSet:
        """Read a set that :meth:`save` wrote. Everything in the file is checked; nothing in it is ever run.

        Args:
            path: The file, or a folder that holds ``distilled.safetensors``. Or an address on the Hub of Hugging Face,
                ``hf://user/name``, ``hf://user/name@revision``, or either with ``/path`` of a file or folder in it.

        Raises:
            BaconError: There is no such file, it is damaged or of another kind, or a newer version wrote it; or it
                cannot be downloaded.
        """
        if os.fspath(path).startswith(("hf://", "hf:/")):  # paths lose a slash
            from bacon_pl.distilled_set import hub

            path = hub.fetch(path)
        images, labels, meta, fields = read(file_in(path))
        return cls(images, labels, meta, **fields)

    # ---- as pictures

    def pixels(self, *, expanded: bool = False) -> Tensor:
        """Return the images as pixels, class by class.

        Args:
            expanded: The expanded images instead of the canvases.

        Returns:
            (C, n, ch, H, W), float32 in [0, 1], n being ipc or, expanded, factor²·ipc.
        """
        canvases = self.images.unflatten(0, (self.meta.num_classes, self.ipc))
        shown = partition.expand(canvases, self.factor) if expanded else canvases
        return denormalize(shown, self.meta.mean, self.meta.std)

    def export_png(self, folder: str | os.PathLike[str], *, expanded: bool = False) -> Path:
        """Write one PNG file per image, as ``<folder>/<class>/<number>.png``, which torchvision's ImageFolder reads.

        Class folders are named after the classes as far as that is safe, and numbered where their alphabetical order
        would not be the order of the labels. Pixels are rounded to bytes, clamped to [0, 255].

        Args:
            folder: A new or empty folder.
            expanded: Write the expanded images instead of the stored canvases.

        Returns:
            The folder.

        Raises:
            BaconError: The folder holds something already or cannot be written.
        """
        pictures.write_png(self.pixels(expanded=expanded), self.meta.class_names, Path(folder))
        return Path(folder)

    def grid_tensor(self, max_classes: int | None = None, *, expanded: bool = False) -> Tensor:
        """Lay the images out with one row per class, for a logger.

        Args:
            max_classes: Show the first so many classes; all by default.
            expanded: Show the expanded images instead of the canvases.

        Returns:
            (3, height, width), float32 in [0, 1].
        """
        return grid.grid_tensor(self.pixels(expanded=expanded)[:max_classes])

    def grid(self, *, expanded: bool = False, scale: int | None = None) -> Figure:
        """Draw the images with one row per class and its name beside it.

        Args:
            expanded: Show the expanded images instead of the canvases.
            scale: Screen pixels per image pixel and side, at least 1; chosen by the size of the set by default.

        Returns:
            A matplotlib figure outside pyplot's state.
        """
        return grid.grid_figure(self.pixels(expanded=expanded), self.meta.class_names, scale)

    def save_grid(self, path: str | os.PathLike[str], *, expanded: bool = False, scale: int | None = None) -> Path:
        """Write the picture that :meth:`grid` draws; the file's suffix chooses the format.

        Raises:
            BaconError: The file cannot be written, or matplotlib does not know its suffix.
        """
        pictures.write_figure(self.grid(expanded=expanded, scale=scale), Path(path))
        return Path(path)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        return pictures.as_html(repr(self), self.pixels(), self.meta.class_names)

    # ---- for Hugging Face

    def to_huggingface(self) -> datasets.Dataset:
        """Make a dataset for the package ``datasets``, which ``pip install "bacon_pl[huggingface]"`` brings.

        Returns:
            A :class:`datasets.Dataset` of the expanded images, class by class, with features ``image`` (PNG, so pixels
            are rounded to bytes and clamped to [0, 255]) and ``label`` (a ``ClassLabel`` with the classes' names).

        Raises:
            BaconError: The package is not installed.
        """
        from bacon_pl.distilled_set import hub

        return hub.to_huggingface(self)

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write what :meth:`to_huggingface` makes to a file, whole or not at all.

        ``datasets.load_dataset("parquet", data_files=path)`` reads it with its images and classes' names, and
        ``load_dataset(folder)`` does so for a folder with nothing else in it.

        Args:
            path: The file, or an existing folder, in which it is named as on the Hub.

        Returns:
            The file's path.

        Raises:
            BaconError: The package ``datasets`` is not installed, or the file cannot be written.
        """
        from bacon_pl.distilled_set import hub

        target = Path(path, hub.PARQUET_NAME) if Path(path).is_dir() else Path(path)
        hub.write_parquet(self, target)
        return target

    def push_to_hub(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Upload the set to the Hub of Hugging Face as a dataset: its file, its pictures as parquet, and a card.

        The repository is made where there is none; of one that exists, these three files are replaced. The card is made
        from the set's provenance, and like the file it shows the configuration with its paths.

        Args:
            repo_id: ``user/name``.
            revision: Branch, made where there is none; the main one by default.
            private: Whether a new repository is private; by default as the account has it.
            token: Token of an account that may write there; by default the one of ``hf auth login``.
            commit_message: By default the set's checksum.

        Returns:
            The address that :meth:`load` takes, ``hf://user/name``.

        Raises:
            BaconError: The packages are not installed, or the Hub refuses or cannot be reached.
        """
        from bacon_pl.distilled_set import hub

        return hub.push(self, repo_id, revision=revision, private=private, token=token, commit_message=commit_message)
