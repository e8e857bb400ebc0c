"""Publishing a report as files in the evaluation's folder and in loggers."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import write_text
from bacon_pl.loggers import log_figure, log_image, log_settings, log_table, log_text
from bacon_pl.report.tables import markdown

FOLDER = "figures"
"""Name of the folder with the figures that ``results.md`` shows."""

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
    """Write ``results.md`` and its figures.

    Args:
        folder: The folder of the evaluation; figures of an earlier evaluation in it are removed.
        numbers: Content of ``results.json``.
        distilled: The set, for a figure of its images.
        pictures: Figures from :func:`bacon_pl.report.figures`; if empty, only the tables are written.

    Returns:
        The path of ``results.md``.

    Raises:
        BaconError: A figure cannot be written.
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
    """Log a report: accuracies, scores and bounds, and to loggers that support them, tables, figures and settings.

    Args:
        loggers: The loggers of a Trainer.
        numbers: Content of ``results.json``.
        distilled: The set, for a picture of its images.
        pictures: Figures from :func:`bacon_pl.report.figures`.
    """
    loggers = list(loggers)
    found: dict[str, float] = {}
    rows = []
    for run in numbers["runs"]:
        words, accuracy = [run["network"], run["training_set"], run["variant"]], run["accuracy"]
        found["/".join(["accuracy", *words])] = accuracy["mean"]
        rows.append([*words, accuracy["mean"], accuracy["std"]])
    for name in ("hlr", "ior", "lrs", "ars") if numbers["scores"] is not None else ():
        found[f"scores/{name}"] = numbers["scores"][name]
    for name, values in (numbers["bound"] or {"networks": {}})["networks"].items():
        for kind in ("bound", "risk", "epsilon"):
            if values[kind] is not None:
                found[f"bound/{kind}/{name}"] = values[kind]
    log_settings(loggers, numbers["config"])
    log_settings(loggers, numbers["config"], found)
    log_text(loggers, "config", yaml.safe_dump(numbers["config"], sort_keys=False, allow_unicode=True), 0, "yaml")
    log_text(loggers, "results", markdown(numbers), 0)
    log_table(loggers, "accuracies", ["network", "training set", "recipe", "accuracy", "standard deviation"], rows)
    if pictures:
        log_image(loggers, "report/images", distilled.grid_tensor(), 0)
    for name, figure in pictures.items():
        log_figure(loggers, f"report/{name}", figure, 0)
    for logger in loggers:
        logger.save()
