"""What a report becomes: files in the evaluation's folder, and TensorBoard."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluate import write_text
from bacon_pl.report.tables import markdown

FOLDER = "figures"
"""Where pictures lie, beside ``results.md``, which shows them."""

_CAPTIONS = {
    "accuracy": "Test accuracy by architecture and training set; of several networks, with one standard deviation.",
    "curves": "Training loss and test accuracy over the epochs; nothing was chosen by the test curve.",
    "per_class": "Test accuracy by class.",
    "confusion": "What the networks trained on the distilled set take test images for.",
    "embedding": "Real and synthetic images as a network sees them that was trained on the distilled set.",
    "images": "The distilled images.",
}


def write_report(
    folder: str | os.PathLike[str], numbers: Mapping[str, Any], distilled: DistilledSet, pictures: Mapping[str, Figure]
) -> Path:
    """Write ``results.md`` and its pictures.

    Args:
        folder: Where ``results.json`` is; pictures of an earlier evaluation there are removed.
        numbers: What that holds.
        distilled: The set, for the picture of its images.
        pictures: From :func:`bacon_pl.report.figures`; none writes the tables alone.

    Returns:
        The path of ``results.md``.

    Raises:
        BaconError: A picture cannot be written.
    """
    page = markdown(numbers)
    for name in _CAPTIONS:
        (Path(folder) / FOLDER / f"{name}.png").unlink(missing_ok=True)
    if pictures:
        page += "\n## Pictures\n"
        target = Path(folder) / FOLDER
        distilled.save_grid(target / "images.png")
        for name, figure in pictures.items():
            try:
                figure.savefig(target / f"{name}.png")
            except OSError as error:
                raise BaconError(f"cannot write the picture '{target / name}.png' ({error.strerror}).") from error
        for name in (*pictures, "images"):
            page += f"\n![{name}]({FOLDER}/{name}.png)\n\n{_CAPTIONS[name]}\n"
    return write_text(Path(folder) / "results.md", page)


def show(
    loggers: Iterable[Logger], numbers: Mapping[str, Any], distilled: DistilledSet, pictures: Mapping[str, Figure]
) -> None:
    """Show a report in TensorBoard, where it is among the loggers: accuracies, scores, bounds, tables and
    pictures.

    Args:
        loggers: A trainer's loggers.
        numbers: What ``results.json`` holds.
        distilled: The set, for its images.
        pictures: From :func:`bacon_pl.report.figures`.
    """
    for logger in loggers:
        if not isinstance(logger, TensorBoardLogger):
            continue
        board = logger.experiment
        for run in numbers["runs"]:
            name = "/".join([run["network"], run["training_set"], run["variant"]])
            board.add_scalar(f"accuracy/{name}", run["accuracy"]["mean"])
        for name in ("hlr", "ior", "lrs", "ars") if numbers["scores"] is not None else ():
            board.add_scalar(f"scores/{name}", numbers["scores"][name])
        for name, found in (numbers["bound"] or {"networks": {}})["networks"].items():
            for kind in ("bound", "risk", "epsilon"):
                if found[kind] is not None:
                    board.add_scalar(f"{kind}/{name}", found[kind])
        board.add_text("results", markdown(numbers))
        if pictures:
            board.add_image("report/images", distilled.grid_tensor())
        for name, figure in pictures.items():
            board.add_figure(f"report/{name}", figure)
        board.flush()
