"""The command ``bacon convert``. What it does is in ``sets`` and ``write``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from bacon_pl import __version__
from bacon_pl.errors import BaconError
from bacon_pl.interop.meta import dataset_meta
from bacon_pl.interop.sets import is_ours, open_set
from bacon_pl.interop.write import write_set, written


def add_source_options(parser: ArgumentParser) -> None:
    """Add what has to be said of a set that another project made."""
    parser.add_argument(
        "--factor",
        type=int | None,
        default=None,
        help="Partition factor of another project's set, 2 for IDM's and BACON's; by default the file's, else 1.",
    )
    parser.add_argument(
        "--epoch_index",
        "--epoch-index",
        type=int,
        default=-1,
        help="Which of the sets in another project's file, from 0; the last by default.",
    )


class Convert:
    """Convert a distilled set: another project's file to ours, or ours to theirs."""

    name = "convert"

    def __init__(self, args: Sequence[str]) -> None:
        parser = ArgumentParser(
            prog="bacon convert", description=self.__doc__, version=__version__, exit_on_error=False, default_env=False
        )
        parser.add_argument(
            "source",
            type=str,
            help="A .safetensors file or a run's folder; a .pt, .pth, .pkl or .npz file; or a folder of class folders.",
        )
        parser.add_argument(
            "target",
            type=str,
            help="What to write: .safetensors, .pt (as DatasetCondensation's), .npz, or (no suffix) a folder of PNG.",
        )
        parser.add_argument(
            "--dataset", type=str | None, default=None, help="The dataset the set was made from; not needed for ours."
        )
        parser.add_argument(
            "--root",
            type=str | None,
            default=None,
            help="Folder of its data, where only they tell the classes.",
        )
        parser.add_argument("--image_size", type=int | None, default=None, help="As --data.image_size of fit and eval.")
        parser.add_argument("--mean", type=list[float] | None, default=None, help="As --data.mean of fit and eval.")
        parser.add_argument("--std", type=list[float] | None, default=None, help="As --data.std of fit and eval.")
        add_source_options(parser)
        parser.add_argument(
            "--canvases",
            type=bool | None,
            default=None,
            nargs="?",
            const=True,
            help="Keep the tiles of a partitioned set on their canvases, for programs that cut them out themselves; "
            "by default they are cut out, but for .safetensors.",
        )
        parser.add_argument("--overwrite", type=bool, default=False, help="Put the result in an older one's place.")
        self.config = parser.parse_args(list(args))

    def run(self) -> None:
        """Convert."""
        c = self.config
        meta = None
        if not is_ours(c.source):
            if c.dataset is None:
                raise BaconError(
                    f"'{c.source}' does not say which dataset it was made from: add e.g. --dataset cifar10."
                )
            meta = dataset_meta(c.dataset, c.root, image_size=c.image_size, mean=c.mean, std=c.std)
        with warnings.catch_warnings(record=True) as caught:
            distilled = open_set(c.source, meta, factor=c.factor, index=c.epoch_index)
        for warning in caught:
            print(f"bacon convert: warning: {warning.message}", file=sys.stderr)
        target = write_set(distilled, c.target, canvases=c.canvases, overwrite=c.overwrite)
        print(written(distilled, target, canvases=c.canvases))
