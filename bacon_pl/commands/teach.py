"""The command ``bacon teach``."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jsonargparse import ActionConfigFile, ArgumentParser

import bacon_pl
from bacon_pl.commands.taught import check, listing
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError, one_line
from bacon_pl.explain import explain
from bacon_pl.learners import Teacher, TeacherSettings, trained_networks
from bacon_pl.networks import Acceleration, ConvNet, NetworkFactory
from bacon_pl.opening import describe_data, laid_out
from bacon_pl.table.sources import locate

Accelerator = Literal["auto", "cpu", "gpu"]
_ALONE = ("list", "check")
_UNUSED = {"batch_real", "pool_batch", "eval_batch"}  # options of the data that have no meaning here


@dataclass(frozen=True)
class TaughtNetworks(TeacherSettings):
    """Networks to train ahead of time.

    Args:
        count: How many.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Learning rate, the highest that the schedule reaches.
        momentum: Momentum of SGD; AdamW does not use it.
        weight_decay: Weight decay.
        augment: Augmentation of every batch; null is none.
        seed: Seed of their weights, batches and augmentation.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``constant``, or ``cosine``: decrease from lr to 0 over the training.
        warmup: Share of the training, in [0, 1), in which the learning rate rises to lr first, step by step.
        network: Their architecture.
        snapshot_every: Also keep their states before the first epoch and after every so many; null keeps the last.
        acceleration: Whether to compile the networks and run them in bfloat16 if the device supports it. Networks are
            found again by who asks for the same, which is ``auto`` where nothing else is said.

    Raises:
        BaconError: An argument is out of range.
    """

    network: NetworkFactory = ConvNet
    snapshot_every: int | None = None
    acceleration: Acceleration = "auto"

    option: ClassVar[str] = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.snapshot_every is not None and self.snapshot_every < 1:
            raise BaconError(f"--snapshot_every must be at least 1, got {self.snapshot_every}.")

    @property
    def snapshots(self) -> list[int]:
        """After how many epochs states are kept."""
        every = range(0, self.epochs, self.snapshot_every) if self.snapshot_every else ()
        return [*every, self.epochs]


class Teach:
    """Train networks on the real images ahead of time, list those that there are (`bacon teach list`), or check them
    (`bacon teach check`, which reads every file whole).

    They are kept in the cache, where every run, command and process finds them that asks for the same networks of the
    same training images: soft labels, RDED's observer, the networks of IID and NCFM. The training goes on where it was
    cut short. The test images play no part in it; the accuracy on them is told at the end.
    """

    name = "teach"

    def __init__(self, args: Sequence[str]) -> None:
        words = list(args)
        self.alone = words[0] if words and words[0] in _ALONE else None
        if self.alone:
            if rest := words[1:]:
                raise BaconError(f"bacon teach {self.alone} takes no arguments, got {one_line(rest[0], 80)}.")
            return
        parser = self._parser()
        try:
            config = parser.parse_args(words)
            self.dataset = config.dataset
            if self.dataset is not None and any(word.startswith(("--data.name", "--data.root")) for word in words):
                raise BaconError("--dataset stands for --data.name and --data.root: leave one of them out.")
            made = getattr(parser, "instantiate", parser.instantiate_classes)  # the latter's new name
            self._parse = lambda more: made(parser.parse_args([*words, *more]))
            self._take(made(config))
        except argparse.ArgumentError as error:
            raise BaconError(explain(error, re.findall(r"--[\w.]+", parser.format_usage()))) from error
        if self.accelerator == "gpu" and not torch.cuda.is_available():
            raise BaconError("--accelerator gpu: there is none that torch can use; leave it out, or give cpu.")

    @classmethod
    def _parser(cls) -> ArgumentParser:
        parser = ArgumentParser(
            prog="bacon teach",
            usage="bacon teach --dataset NAME=DIR [--OPTION VALUE ...] | bacon teach list | bacon teach check",
            description=cls.__doc__,
            version=bacon_pl.__version__,
            exit_on_error=False,
            default_env=False,
            allow_abbrev=False,
        )
        parser.add_argument("--config", action=ActionConfigFile, help="A YAML file with these options.")
        parser.add_argument(
            "--dataset",
            type=str | None,
            default=None,
            help="Catalog name of the dataset and its folder, NAME=DIR; --data.* describes others.",
        )
        parser.add_class_arguments(TaughtNetworks, skip={"file"})
        parser.add_argument(
            "--accelerator", type=Accelerator, default="auto", help="Where they are trained; auto takes a GPU if any."
        )
        parser.add_class_arguments(DataModule, "data", skip=_UNUSED)
        return parser

    def _take(self, made: Any) -> None:
        names = [field.name for field in fields(TaughtNetworks) if field.name != "file"]
        self.settings = TaughtNetworks(**{name: made[name] for name in names})
        self.accelerator = made.accelerator
        self.data: DataModule = made.data

    def run(self) -> None:
        """Train, list or check.

        Raises:
            BaconError: The data are missing, or files are damaged.
        """
        if self.alone:
            for line in listing() if self.alone == "list" else check():
                print(line, flush=True)
            return
        if self.dataset is not None:
            name, _, root = self.dataset.partition("=")
            source = locate(name, Path(root or "data").expanduser(), download=self.data.download)
            self._take(self._parse(source.arguments))
        data, settings = self.data, self.settings
        data.prepare_data()
        data.setup()
        print(laid_out({"data": describe_data(data)}), flush=True)
        gpu = self.accelerator != "cpu" and torch.cuda.is_available()
        device = torch.device("cuda" if gpu else "cpu")
        recipe = settings.recipe(settings.network, settings.acceleration)
        networks = trained_networks(
            *(data.train, data.meta, recipe),
            seed=settings.seed,
            count=settings.count,
            snapshots=settings.snapshots,
            device=device,
        )
        for number in range(settings.count):
            teacher = Teacher(recipe, data.train, data.meta, settings.seed, number=number, count=settings.count)
            teacher.prepare(device)
            accuracy = teacher.test(data.test)
            print(f"network {number + 1} of {settings.count}: {accuracy:.1f} % on the test images", flush=True)
        print(f"kept in {networks.folder}")
