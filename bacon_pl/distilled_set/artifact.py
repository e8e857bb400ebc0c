"""The result of a distillation: synthetic images with everything needed to use, trace and show them, in one file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bacon_pl import grid, partition
from bacon_pl.distilled_set import pictures
from bacon_pl.distilled_set.expanded import Expanded
from bacon_pl.distilled_set.file import file_in, read, write
from bacon_pl.distilled_set.labels import LabelKind
from bacon_pl.errors import BaconError

if TYPE_CHECKING:
    import datasets
    from matplotlib.figure import Figure


class DistilledSet(Expanded):
    """A distilled dataset: a map-style dataset of its expanded images that can be saved to one file.

    Indexing returns expanded, normalized images, as used in evaluation, with their classes; ``images`` are the canvases
    as trained. Sets with the same content are equal. A set must not be modified after it is created.

    Every class has at least one image; the numbers may differ (:attr:`counts`).

    Attributes:
        images: (N, ch, H, W), float32 on the CPU, class by class, in normalized pixel space or, if ``meta.whitening``
            names one, in a whitened space.
        labels: (N,), int64 on the CPU, ascending: the class of every canvas.
        soft_labels: (N, C), one label per canvas, or (N, factor², C), one per tile; float16 on the CPU; or None.
        label_kind: What the soft labels are, ``logits`` or ``probabilities``; None without soft labels.
        meta: Description of the dataset that was distilled.
        factor: Partition factor: every canvas holds factor² images.
        upscaling: How these are scaled up for networks, ``bilinear`` or ``bicubic``.
        method: Name of the distillation method.
        config: Resolved configuration of the run, as JSON values.
        seed: Seed of the run.
        version: Version of this package that made the set.
        commit: Git commit of the code that made the set, or None.
        step_size: Learning rate that was learned together with the images, or None.

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

    def with_soft_labels(self, soft_labels: Tensor | None, label_kind: LabelKind | None) -> DistilledSet:
        """Create a copy of the set with other soft labels.

        Args:
            soft_labels: (N, C) or (N, factor², C), with rows in the order of :attr:`images`; or, for a set with tiles,
                (factor²·N, C), with rows in the order of :meth:`expanded`; None leaves them out.
            label_kind: What their numbers are; None without soft labels.

        Returns:
            The copy; everything else is that of this set.

        Raises:
            BaconError: The soft labels do not fit the set, or a value makes no sense.
        """
        fields = self._fields() | {"label_kind": label_kind}
        tiles = self.factor**2
        if tiles > 1 and isinstance(soft_labels, Tensor) and soft_labels.shape[:-1] == (tiles * len(self.images),):
            soft_labels = soft_labels.unflatten(0, (tiles, -1)).movedim(0, 1)
        return type(self)(self.images, self.labels, self.meta, soft_labels=soft_labels, **fields)

    # ---- as a file

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the set to one self-contained safetensors file.

        The file is written atomically, and equal sets give equal bytes. A set without soft labels and whitening, with
        the same number of images for each class, is written in format 1, which all versions read; others in format 2,
        or 3 for tiles that are not scaled up bilinearly.

        Args:
            path: The file, or an existing folder, in which the file is named ``distilled.safetensors``. Missing parent
                folders are created.

        Returns:
            The file's path.

        Raises:
            BaconError: The file cannot be written.
        """
        target = file_in(path)
        write(target, self._tensors, self._description)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DistilledSet:
        """Read a set written by :meth:`save`. The whole file is checked, and no code in it is ever executed.

        Args:
            path: The file; a folder that contains ``distilled.safetensors``; or an address on the Hugging Face Hub,
                ``hf://user/name`` or ``hf://user/name@revision``, optionally followed by the ``/path`` of a file or
                folder in the repository.

        Returns:
            The set.

        Raises:
            BaconError: The file does not exist, is damaged, is of another kind, was written by a newer version, or
                cannot be downloaded.
        """
        if os.fspath(path).startswith(("hf://", "hf:/")):  # paths lose a slash
            from bacon_pl.distilled_set import hub

            path = hub.fetch(path)
        tensors, meta, fields = read(file_in(path))
        return cls(tensors.images, tensors.labels, meta, soft_labels=tensors.soft_labels, **fields)

    # ---- as pictures

    def pixels(self, *, expanded: bool = False) -> Tensor:
        """Return the images as pixels, in a tensor with one row per class.

        Args:
            expanded: Return the expanded images instead of the canvases.

        Returns:
            (C, n, ch, H, W), float32 in [0, 1], where n is the largest number of images of a class. Rows of classes
            with fewer images end in white images, the background of grids, which :meth:`pixels_by_class` leaves out.

        Raises:
            BaconError: The images are whitened, and the matrices of their space are not in the cache.
        """
        rows = self.pixels_by_class(expanded=expanded)
        most = max(map(len, rows))
        return torch.stack([torch.cat([row, row.new_ones(most - len(row), *row.shape[1:])]) for row in rows])

    def pixels_by_class(self, *, expanded: bool = False) -> list[Tensor]:
        """Return the images as pixels, in one tensor per class.

        Args:
            expanded: Return the expanded images instead of the canvases.

        Returns:
            C tensors (n, ch, H, W), float32 in [0, 1], where n is the number of images of the class. Expanded images
            are in the order of their tiles: tile 0 of every canvas of the class, then tile 1, …. Of whitened canvases,
            each tile is scaled up, made pixels, and scaled down again.

        Raises:
            BaconError: The images are whitened, and the matrices of their space are not in the cache.
        """
        # Whitening mixes all pixels of an image, so that a canvas of several is no image that it could be undone of.
        assembled = not expanded and self.factor > 1 and self.meta.whitening is not None
        cut = expanded or assembled
        shown = self.expanded()[0][self.targets.argsort(stable=True)] if cut else self.images
        copies = self.factor**2 if cut else 1
        rows = self.meta.denormalize(shown).split([copies * count for count in self.counts])
        return [partition.assemble(row, self.factor) for row in rows] if assembled else list(rows)

    def export_png(self, folder: str | os.PathLike[str], *, expanded: bool = False) -> Path:
        """Write one PNG file per image as ``<folder>/<class>/<number>.png``, the layout of torchvision's ImageFolder.

        Class folders have the names of the classes, with unsafe characters replaced. They are numbered if their
        alphabetical order would differ from the order of the labels. Pixels are clamped to [0, 1] and rounded to bytes.

        Args:
            folder: A new or empty folder.
            expanded: Write the expanded images instead of the stored canvases.

        Returns:
            The folder.

        Raises:
            BaconError: The folder is not empty or cannot be written.
        """
        pictures.write_png(self.pixels_by_class(expanded=expanded), self.meta.class_names, Path(folder))
        return Path(folder)

    def grid_tensor(self, max_classes: int | None = None, *, expanded: bool = False) -> Tensor:
        """Arrange the images in a grid with one row per class, for a logger.

        Args:
            max_classes: Number of classes to show; all by default.
            expanded: Show the expanded images instead of the canvases.

        Returns:
            (3, height, width), float32 in [0, 1].
        """
        return grid.grid_tensor(self.pixels(expanded=expanded)[:max_classes])

    def grid(self, *, expanded: bool = False, scale: int | None = None) -> Figure:
        """Draw the images in a figure with one row per class, labeled with its name.

        Args:
            expanded: Show the expanded images instead of the canvases.
            scale: Side of an image pixel in screen pixels, at least 1; by default chosen by the size of the set.

        Returns:
            A matplotlib figure that is not registered with pyplot.
        """
        return grid.grid_figure(self.pixels(expanded=expanded), self.meta.class_names, scale)

    def save_grid(self, path: str | os.PathLike[str], *, expanded: bool = False, scale: int | None = None) -> Path:
        """Write the figure of :meth:`grid` to a file.

        Args:
            path: The file; its suffix determines the format.
            expanded: Show the expanded images instead of the canvases.
            scale: Side of an image pixel in screen pixels, at least 1; by default chosen by the size of the set.

        Returns:
            The file's path.

        Raises:
            BaconError: The file cannot be written, or matplotlib does not know its suffix.
        """
        pictures.write_figure(self.grid(expanded=expanded, scale=scale), Path(path))
        return Path(path)

    def _repr_html_(self) -> str:
        """Return the HTML that notebooks display."""
        try:
            return pictures.as_html(repr(self), self.pixels_by_class(), self.meta.class_names)
        except BaconError as error:  # whitened images without the matrices of their space
            return pictures.as_text(f"{self!r}: no pictures, for {error}")

    # ---- for Hugging Face

    def to_huggingface(self) -> datasets.Dataset:
        """Convert the set to a dataset of the package ``datasets`` (``pip install "bacon_pl[huggingface]"``).

        Returns:
            A :class:`datasets.Dataset` of the expanded images, class by class. Its features are ``image`` (PNG, with
            pixels clamped to [0, 1] and rounded to bytes), ``label`` (a ``ClassLabel`` with the class names) and, if
            the set has soft labels, ``soft_label`` (C float32 numbers, as stored: logits or probabilities, as
            :attr:`label_kind` says).

        Raises:
            BaconError: The package is not installed.
        """
        from bacon_pl.distilled_set import hub

        return hub.to_huggingface(self)

    def to_parquet(self, path: str | os.PathLike[str]) -> Path:
        """Write the dataset of :meth:`to_huggingface` to a parquet file atomically.

        ``datasets.load_dataset("parquet", data_files=path)`` reads the file with its images and class names;
        ``load_dataset(folder)`` does the same for a folder that contains nothing else.

        Args:
            path: The file, or an existing folder, in which the file gets the name that it has on the Hub.

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
        """Upload the set to the Hugging Face Hub as a dataset: its file, its pictures as parquet, and a dataset card.

        The repository is created if it does not exist; in an existing one, these three files are replaced. The card is
        made from the set's provenance. Like the file, it contains the configuration with its paths.

        Args:
            repo_id: Repository, ``user/name``.
            revision: Branch, created if it does not exist; the main branch by default.
            private: Whether a new repository is private; by default the account's setting.
            token: Access token with write permission; by default that of ``hf auth login``.
            commit_message: Commit message; by default it names the set's checksum.

        Returns:
            The set's address for :meth:`load`, ``hf://user/name``, with the revision if one was given.

        Raises:
            BaconError: The packages are not installed, or the Hub rejects the upload or cannot be reached.
        """
        from bacon_pl.distilled_set import hub

        return hub.push(self, repo_id, revision=revision, private=private, token=token, commit_message=commit_message)
