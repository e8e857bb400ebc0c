"""The words of ``bacon table``: its own options, those for every run, and lists in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from bacon_pl.errors import BaconError
from bacon_pl.settings_text import FLAG, names_in
from bacon_pl.time_limit import LENGTHS

# Sections of the settings of fit and eval. Their options on the command line are passed to every run.
SECTIONS = {
    "data": ("fit", "eval"),
    "trainer": ("fit", "eval"),
    "config": ("fit", "eval"),
    "model": ("fit",),
    "validation": ("fit",),
    "checkpoint": ("fit",),
    "image_grid": ("fit",),
    "evaluation": ("eval",),
}

OF_FIT = tuple(f"--trainer.{name}" for name in LENGTHS)
"""Options among these that only ``fit`` takes."""

DEFAULT_METHODS = "tiles,dm,idm,bacon"


def add_options(parser: ArgumentParser) -> None:
    """Add the table's own options."""
    words = str | list[str]
    parser.add_argument(
        "--methods",
        type=words,
        default=DEFAULT_METHODS,
        help="Names of configurations (idm stands for methods/idm), groups of configurations (ablation), or YAML "
        "files.",
    )
    parser.add_argument(
        "--datasets",
        type=words,
        default="mnist,fashion_mnist,svhn,cifar10,cifar100,tiny_imagenet",
        help="Catalog names; NAME=DIR for a dataset that is not in --data.root.",
    )
    parser.add_argument("--ipcs", type=str | int | list[int], default="1,10,50", help="Images per class.")
    parser.add_argument("--repeats", type=int, default=5, help="Distillations of each cell, with one seed each.")
    parser.add_argument("--seed_everything", type=int, default=0, help="Seed of the first repeat.")
    parser.add_argument(
        "--budget",
        type=str,
        default="full",
        help="full: the published schedules; small: a few minutes per run on two CPU cores; medium: an hour or two; or "
        "a YAML file.",
    )
    parser.add_argument(
        "--tuned",
        type=str | None,
        default=None,
        help="Folder of tuned settings, METHOD-DATASET-ipcK.yaml, that bacon tune has written: they have rows of "
        "their own beside those of the methods' own settings.",
    )
    parser.add_argument(
        "--labels",
        type=words,
        default=[],
        help="With which labels every set is evaluated: hard, soft, or hard,soft for both, side by side; by "
        "default as the evaluation's recipe says.",
    )
    parser.add_argument(
        "--bound",
        **FLAG,
        help="Also measure BACON's bound and the risk of all sets, and say whether it ranks them as accuracy does.",
    )
    parser.add_argument(
        "--scores",
        **FLAG,
        help="Also compute the robust scores LRS and ARS of all sets. Networks on all real images and on random "
        "ones are trained once for the sets that share them.",
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="Folder of the table; by default runs/table-<budget>."
    )
    parser.add_argument(
        "--jobs",
        type=int | None,
        default=None,
        help="Number of runs at the same time; by default one per GPU, or one per CPU core if there is no GPU.",
    )
    parser.add_argument(
        "--configs", type=str | None, default=None, help="Folder of configurations; by default that of the package."
    )


def split(args: Sequence[str]) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Separate the table's own options from those for every run, given as (section, [option, value])."""
    own: list[str] = []
    others: list[tuple[str, list[str]]] = []
    rest = list(args)
    while rest:
        word = rest.pop(0)
        section = word[2:].partition("=")[0].partition(".")[0] if word.startswith("--") else ""
        if section not in SECTIONS or ("." not in word and section not in ("config", "model")):
            own.append(word)
            continue
        parts = [word]
        if "=" not in word:
            if not rest:
                raise BaconError(f"{word} needs a value.")
            parts.append(rest.pop(0))
        others.append((section, parts))
    return own, others


def words_of(given: Any, option: str) -> list[str]:
    """Return the names in a list or in text (see :func:`~bacon_pl.settings_text.names_in`).

    Raises:
        BaconError: There is none.
    """
    words = names_in(given)
    if not words:
        raise BaconError(f"{option} names nothing: give names with commas between them.")
    return words


def whole_numbers(given: Any) -> list[int]:
    """Return the numbers of ``--ipcs`` without repeats.

    Raises:
        BaconError: They are no whole numbers from 1.
    """
    words = [str(given)] if isinstance(given, int) else given.split(",") if isinstance(given, str) else given
    try:
        numbers = list(dict.fromkeys(int(word) for word in words))
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise BaconError(f"--ipcs must be whole numbers from 1 with commas between them, got '{given}'.")
    return numbers


def without_comments(file: Path) -> str:
    """Return the lines of a YAML file that say something."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
