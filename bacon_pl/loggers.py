"""Logging of pictures, tables, text and settings in the way that each logger supports.

Loggers with methods for pictures or text under Lightning's usual names get these; all others get only numbers. These
functions are called only by the first process of a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import singledispatch
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from bacon_pl.configured import class_path
from bacon_pl.errors import BaconError, one_line
from bacon_pl.runtime import replacing

RECORD = ".loggers.json"
"""Name of the file in a run's folder that records its loggers, so that a resumed run can continue them."""

_SUFFIX = {"markdown": "md", "yaml": "yaml"}


def log_image(loggers: Iterable[Any], name: str, image: Tensor, step: int) -> None:
    """Log a picture.

    Args:
        loggers: The loggers of a Trainer.
        name: Name of the picture.
        image: (3, H, W), floating-point numbers in [0, 1].
        step: Number of the iteration.
    """
    for logger in loggers:
        _image(logger, name, image, step)


def log_figure(loggers: Iterable[Any], name: str, figure: Figure, step: int) -> None:
    """Log a figure as a picture.

    Args:
        loggers: The loggers of a Trainer.
        name: Name of the picture.
        figure: The figure, which is drawn but not closed.
        step: Number of the iteration.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    log_image(loggers, name, pixels.permute(2, 0, 1) / 255, step)


def log_text(loggers: Iterable[Any], name: str, text: str, step: int, language: str = "markdown") -> None:
    """Log a text.

    Args:
        loggers: The loggers of a Trainer.
        name: Name of the text.
        text: The text.
        step: Number of the iteration.
        language: ``markdown`` or ``yaml``.
    """
    for logger in loggers:
        _text(logger, name, text, step, language)


def log_table(loggers: Iterable[Any], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Log a table to loggers that support tables. For other loggers, the caller should also log it as text.

    Args:
        loggers: The loggers of a Trainer.
        name: Name of the table.
        columns: Headings of the columns.
        rows: Rows of cells.
    """
    for logger in loggers:
        if callable(offered := getattr(logger, "log_table", None)):
            offered(name, columns=list(columns), data=[list(row) for row in rows])


def log_settings(
    loggers: Iterable[Any], settings: Mapping[str, Any], metrics: Mapping[str, float] | None = None, step: int = 0
) -> None:
    """Log settings or, at the end of a run, settings with the resulting metrics.

    TensorBoard shows a run on its page of hyperparameters once it has metrics.

    Args:
        loggers: The loggers of a Trainer.
        settings: Settings, nested by section.
        metrics: Resulting metrics; None at the start of a run.
        step: Number of the iteration.
    """
    for logger in loggers:
        _settings(logger, settings, metrics, step)


def log_start(trainer: pl.Trainer, settings: Mapping[str, Any], config: Mapping[str, Any], step: int) -> None:
    """Log the settings of a run, and its whole configuration as text, and record its loggers in the run's folder.

    Args:
        trainer: The Trainer of the run.
        settings: Settings that affect the results.
        config: The whole configuration.
        step: Number of finished iterations.
    """
    loggers = [logger for logger in trainer.loggers if not isinstance(logger, DummyLogger)]
    if not loggers:
        return
    log_settings(loggers, _with_length(settings, trainer))
    log_text(loggers, "config", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), step, "yaml")
    record = [{"class": class_path(type(logger)), "version": logger.version} for logger in loggers]
    path = Path(trainer.default_root_dir, RECORD)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps(record).encode())


def log_end(trainer: pl.Trainer, settings: Mapping[str, Any]) -> None:
    """Log the final values of a run's metrics as ``final/…``, together with its settings.

    Args:
        trainer: The Trainer of the run, after the fit.
        settings: Settings that affect the results.
    """
    numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
    numbers.pop("iterations_per_second", None)  # the speed of a single iteration is not informative
    numbers["iterations"] = trainer.global_step
    final = {f"final/{name}": value for name, value in numbers.items()}
    log_settings(trainer.loggers, _with_length(settings, trainer), final, trainer.global_step)


def recorded(folder: Path) -> list[dict[str, Any]]:
    """Return the classes and versions of the loggers of the run in a folder; empty if none are recorded.

    Args:
        folder: The Trainer's ``default_root_dir``.
    """
    try:
        found = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def open_loggers(loggers: Iterable[Any]) -> None:
    """Start loggers before the run, so that errors are reported early.

    Args:
        loggers: The loggers of a Trainer.

    Raises:
        BaconError: A logger cannot start.
    """
    for logger in loggers:
        try:
            _ = logger.experiment
        except Exception as error:  # every service raises exceptions of its own
            raise BaconError(
                f"{type(logger).__name__} cannot start ({one_line(error).rstrip('.')}): fix its --trainer.logger "
                "options, or give --trainer.logger false."
            ) from error


def close_loggers(loggers: Iterable[Any]) -> None:
    """Finish loggers that would otherwise continue after the run, so that other runs in this process use new ones.

    Args:
        loggers: The loggers of a Trainer.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


class PartLogger(Logger):
    """A logger for one of several trainings that share a logger; it prefixes metrics with the name of the training.

    Args:
        whole: The shared logger, which is not closed.
        part: Name of the training.
    """

    def __init__(self, whole: Logger, part: str) -> None:
        super().__init__()
        self.whole = whole
        self.part = part

    @property
    def name(self) -> str | None:
        """Name of the shared logger."""
        return self.whole.name

    @property
    def version(self) -> int | str | None:
        """Version of the shared logger."""
        return self.whole.version

    @property
    def save_dir(self) -> str | None:
        """Folder of the shared logger."""
        return self.whole.save_dir

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, prefixed with the name of the training."""
        self.whole.log_metrics({f"{self.part}/{name}": value for name, value in metrics.items()}, step=step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: settings are logged to the shared logger."""

    def save(self) -> None:
        """Save what has been logged so far."""
        self.whole.save()

    def finalize(self, status: str) -> None:
        """Save without closing the shared logger."""
        self.whole.save()


def _with_length(settings: Mapping[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    return {**settings, "trainer": {**settings.get("trainer", {}), "max_steps": trainer.max_steps}}


@singledispatch
def _image(logger: Any, name: str, image: Tensor, step: int) -> None:
    """Log a picture by a method of the logger, as for W&B, or by one of its experiment, as for Comet."""
    if callable(offered := getattr(logger, "log_image", None)):
        offered(name, [to_pil_image(image)], step=step)
    elif callable(offered := getattr(getattr(logger, "experiment", None), "log_image", None)):
        offered(to_pil_image(image), name=name, step=step)


@_image.register
def _(logger: TensorBoardLogger, name: str, image: Tensor, step: int) -> None:
    logger.experiment.add_image(name, image, step)


@_image.register
def _(logger: MLFlowLogger, name: str, image: Tensor, step: int) -> None:
    logger.experiment.log_image(logger.run_id, to_pil_image(image), key=name, step=step)


@singledispatch
def _text(logger: Any, name: str, text: str, step: int, language: str) -> None:
    if callable(offered := getattr(logger, "log_text", None)):
        offered(name, columns=[language], data=[[text]], step=step)
    elif callable(offered := getattr(getattr(logger, "experiment", None), "log_text", None)):
        offered(text, step=step, metadata={"name": name})


@_text.register
def _(logger: TensorBoardLogger, name: str, text: str, step: int, language: str) -> None:
    shown = text if language == "markdown" else f"```{language}\n{text}```\n"
    logger.experiment.add_text(name, shown, step)


@_text.register
def _(logger: MLFlowLogger, name: str, text: str, step: int, language: str) -> None:
    logger.experiment.log_text(logger.run_id, text, f"{name}.{_SUFFIX[language]}")


@singledispatch
def _settings(logger: Any, settings: Mapping[str, Any], metrics: Mapping[str, float] | None, step: int) -> None:
    if metrics is None:
        logger.log_hyperparams(dict(settings))
    else:
        logger.log_metrics(dict(metrics), step=step)


@_settings.register
def _(logger: TensorBoardLogger, settings: Mapping[str, Any], metrics: Mapping[str, float] | None, step: int) -> None:
    logger.log_hyperparams(dict(settings), dict(metrics or {}), step)  # without metrics, only hparams.yaml is written


@_settings.register
def _(logger: MLFlowLogger, settings: Mapping[str, Any], metrics: Mapping[str, float] | None, step: int) -> None:
    if metrics is not None:
        logger.log_metrics(metrics, step=step)
        return
    # MLflow does not allow changes of logged parameters, but a resumed run may have more iterations.
    known = logger.experiment.get_run(logger.run_id).data.params
    logger.log_hyperparams({name: value for name, value in _flat(settings).items() if name not in known})


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Convert nested settings to text by path, e.g. ``model/lr``."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": part for key, part in _flat(value).items()}
        else:
            found[name] = str(value)
    return found
