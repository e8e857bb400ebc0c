"""The options of ``bacon eval`` but those of its data and Trainer."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser

from bacon_pl.bound import BoundSettings
from bacon_pl.commands.help import CommandParser
from bacon_pl.data import CATALOG
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError, one_line
from bacon_pl.evaluation import ScoreWeights
from bacon_pl.interop.convert import add_source_options
from bacon_pl.learners import Recipe
from bacon_pl.settings_text import FLAG
from bacon_pl.time_limit import check_no_lengths

_LIMITS = ("limit_train_batches", "limit_test_batches")
_TRIES = ("overfit_batches", "fast_dev_run")


def _recipe_parser() -> CommandParser:
    parser = CommandParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(Recipe, "evaluation")
    return parser


def whole_recipe(recorded: Any) -> dict[str, Any]:
    """Return all settings of a recipe that a set records, defaults included, as ``bacon eval`` resolves them.

    Args:
        recorded: The section ``evaluation`` of the set's configuration; none, or of another version, gives nothing.
    """
    if not isinstance(recorded, Mapping) or not recorded:
        return {}
    parser = _recipe_parser()
    try:
        return dict(yaml.safe_load(parser.dump(parser.parse_object({"evaluation": dict(recorded)})))["evaluation"])
    except (ArgumentError, BaconError, TypeError, ValueError):
        return {}


def recipe_of(sections: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge and check settings of a recipe, which the command that uses them reads much later.

    Args:
        sections: The section ``evaluation`` of each configuration, of which later ones override earlier ones.

    Returns:
        What is set, as ``bacon eval`` reads it from the same configurations; classes by their full names.

    Raises:
        argparse.ArgumentError: A setting does not exist, or has a value of another kind.
        BaconError: A value is out of range.
    """
    if not sections:
        return {}
    parser = _recipe_parser()
    found = None
    for section in sections:
        found = parser.parse_object({"evaluation": dict(section)}, found, defaults=False)  # its name has changed
    parser.instantiate_classes(found)
    return dict(yaml.safe_load(parser.dump(found, skip_none=False))["evaluation"])


def check_dataset(distilled: DistilledSet, name: str, given: Iterable[tuple[str, Any]]) -> None:
    """Check that the dataset is named if it is not the default one.

    Args:
        distilled: The set.
        name: Name of the dataset of the evaluation.
        given: Settings by dotted name, as given by the user.

    Raises:
        BaconError: The set was made from another dataset than the default one, and none is named.
    """
    own = distilled.meta.name
    if own == name or any(setting == "data.name" for setting, _ in given):
        return
    ipc = f"{own}/ipc{max(distilled.counts)}"
    known = f"--config {ipc}, or --data.name {own}" if own in CATALOG else "--data.name NAME"
    raise BaconError(f"the set was made from {one_line(own, 40)}, and no dataset is named: give {known}.")


def check_trainer(trainer: Any, typed: Mapping[str, Any]) -> None:
    """Check that the Trainer's settings do not cut an evaluation short, whose results would not be its recipe's.

    Args:
        trainer: The settings; what is none is told elsewhere.
        typed: Those that are given for this command alone. The length of a distillation may stand in a file that
            ``fit`` shares.

    Raises:
        BaconError: They do.
    """
    check_no_lengths(typed)
    for name in (*_LIMITS, *_TRIES) if isinstance(trainer, (Mapping, Namespace)) else ():
        given = trainer.get(name)
        # A fraction of 1.0 is all batches, and a number of 1 is one.
        whole = not given if name in _TRIES else given is None or (given == 1.0 and isinstance(given, float))
        if not whole:
            raise BaconError(
                f"--trainer.{name} {given} would cut the evaluation short, and its accuracies would not be those of "
                "the recipe: leave it out; for a quick try, give --evaluation.epochs and --evaluation.num_networks."
            )


def add_options(parser: LightningArgumentParser) -> None:
    """Add the recipe and the options of an evaluation.

    Args:
        parser: The parser of the command.
    """
    parser.add_class_arguments(Recipe, "evaluation")
    parser.add_argument(
        "--distilled",
        type=str,
        required=True,
        help="The distilled set: its file, the folder of its run, or another project's file (see bacon convert).",
    )
    add_source_options(parser)
    parser.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="Folder of the results. By default a folder named after the set and the recipe, in evaluations/ in "
        "the folder of the set's run; for a set that is not in the folder of a run, in evaluations/ in "
        "--trainer.default_root_dir or runs/.",
    )
    parser.add_argument("--overwrite", **FLAG, help="Replace existing results in that folder.")
    parser.add_argument(
        "--baselines",
        type=str | list[str],
        default=[],
        help="Also evaluate real images: smaller ones that fill the same number of canvases, like the initial "
        "images of a run (tiles); the same number of whole ones, drawn at random or selected by herding or "
        "k-center (random, herding, k_center); or the whole training set (whole). Separate several with commas.",
    )
    parser.add_argument(
        "--labels",
        type=str | list[str],
        default=[],
        help="With which labels the set and the baselines are evaluated: hard, soft, or hard,soft for both, one "
        "beside the other. By default as --evaluation.soft_labels says. Soft ones are those, or else the set's "
        "own, or else those of a teacher.",
    )
    parser.add_argument(
        "--networks",
        type=str | list[str],
        default=[],
        help="Names of architectures to compare, separated by commas; by default only --evaluation.network.",
    )
    parser.add_argument(
        "--scores",
        **FLAG,
        help="Compute the robust scores of DD-Ranking, including the additional runs that they need.",
    )
    parser.add_class_arguments(ScoreWeights, "score_weights")
    parser.add_argument(
        "--shared",
        type=str | None,
        default=None,
        help="Folder for the accuracies of trainings on all real images or on random ones that only --scores needs. "
        "Those that another evaluation has left there, by the same recipe and seed, are not made again. The scores "
        "name their accuracies, and the other results leave them out.",
    )
    parser.add_argument(
        "--bound",
        **FLAG,
        help="Compute BACON's bound and the risk of the set in the feature spaces of three networks.",
    )
    parser.add_class_arguments(BoundSettings, "bound_settings")
    parser.add_argument(
        "--figures",
        **FLAG,
        help="Also draw figures of accuracies, learning curves, confusion, embeddings and the images.",
    )
