"""The command ``bacon convert``, which is implemented in ``sets`` and ``write``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Literal

from jsonargparse import ArgumentParser

from bacon_pl import __version__
from bacon_pl.errors import BaconError
from bacon_pl.interop.meta import dataset_meta
from bacon_pl.interop.pixels import PixelSpace
from bacon_pl.interop.sets import is_ours, open_set
from bacon_pl.interop.write import Layout, write_set, written
from bacon_pl.settings_text import FLAG


def add_source_options(parser: ArgumentParser) -> None:
    """Add the options that describe a set made by another project."""
    parser.add_argument(
        "--factor",
        type=int | None,
        default=None,
        help="Partition factor of another project's set (2 for IDM and BACON); by default that in the file, else 1.",
    )
    parser.add_argument(
        "--epoch_index",
        "--epoch-index",
        type=int,
        default=-1,
        help="Which of the sets in another project's file to read, counting from 0; by default the last.",
    )
    parser.add_argument(
        "--pixels",
        type=PixelSpace | None,
        default=None,
        help="What the numbers of another project's file are: pixels of about 0 to 1 (unit: IDC, NCFM), normalized by "
        "the dataset's mean and std (normalized: DC, DM, IDM, DataDAM, and MTT without whitening), whitened by ZCA "
        "(zca: MTT, FTD, DATM with whitening), or normalized by ImageNet's mean and std (imagenet). By default it is "
        "guessed, with a warning, where that can be told.",
    )


class Convert:
    """Convert a distilled set from the format of this package to those of other projects, or vice versa."""

    name = "convert"

    def __init__(self, args: Sequence[str]) -> None:
        parser = ArgumentParser(
            prog="bacon convert", description=self.__doc__, version=__version__, exit_on_error=False, default_env=False
        )
        parser.add_argument(
            "source",
            type=str,
            help="A .safetensors file or the folder of a run; a .pt, .pth, .pkl or .npz file; or a folder with class "
            "folders.",
        )
        parser.add_argument(
            "target",
            type=str,
            help="What to write: .safetensors, .pt (the format of DatasetCondensation) or .npz; without a suffix, a "
            "folder of PNG files. --layout names other formats.",
        )
        parser.add_argument(
            "--dataset",
            type=str | None,
            default=None,
            help="Dataset from which the set was made; not needed for sets of this package.",
        )
        parser.add_argument(
            "--root",
            type=str | None,
            default=None,
            help="Folder of the dataset, if its classes are known only from the data, or for --pixels zca.",
        )
        parser.add_argument("--image_size", type=int | None, default=None, help="As --data.image_size of fit and eval.")
        parser.add_argument("--mean", type=list[float] | None, default=None, help="As --data.mean of fit and eval.")
        parser.add_argument("--std", type=list[float] | None, default=None, help="As --data.std of fit and eval.")
        add_source_options(parser)
        parser.add_argument(
            "--canvases",
            **FLAG | {"type": bool | None, "default": None},
            help="Keep the tiles of a partitioned set on their canvases, for programs that cut them out themselves. By "
            "default tiles are cut out, except for .safetensors.",
        )
        parser.add_argument(
            "--layout",
            type=Layout | None,
            default=None,
            help="Project whose layout is written: dc, idc or ncfm (a .pt file); mtt, tesla, ftd or datm (a folder "
            "with images_best.pt, labels_best.pt and lr_best.pt); sre2l or rded (a folder of numbered class folders).",
        )
        parser.add_argument("--overwrite", **FLAG, help="Replace an existing target.")
        self.config = parser.parse_args(list(args))

    def run(self) -> None:
        """Convert the set and report what was written."""
        c = self.config
        meta = None
        if not is_ours(c.source):
            if c.dataset is None:
                raise BaconError(
                    f"'{c.source}' does not say which dataset it was made from: add e.g. --dataset cifar10."
                )
            zca: Literal["zca"] | None = "zca" if c.pixels == "zca" else None
            meta = dataset_meta(c.dataset, c.root, image_size=c.image_size, mean=c.mean, std=c.std, whitening=zca)
        with warnings.catch_warnings(record=True) as caught:
            distilled = open_set(c.source, meta, factor=c.factor, index=c.epoch_index, pixels=c.pixels)
        target = write_set(distilled, c.target, canvases=c.canvases, overwrite=c.overwrite, layout=c.layout)
        for warning in caught:
            print(f"bacon convert: warning: {warning.message}", file=sys.stderr)
        print(written(distilled, target, canvases=c.canvases, layout=c.layout))
