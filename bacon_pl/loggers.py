"""What a run tells its loggers besides numbers: pictures, tables, text and settings, each in the logger's own way.

A logger that takes pictures or text by a method of Lightning's usual name gets them; any other one gets the numbers
alone. Only a run's first process calls these functions.
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
"""File of a run's folder that says which loggers it had, so that a resumed run goes on in them."""

_SUFFIX = {"markdown": "md", "yaml": "yaml"}


def log_image(loggers: Iterable[Any], name: str, image: Tensor, step: int) -> None:
    """Show a picture.

    Args:
        loggers: A Trainer's loggers.
        name: Under which name.
        image: (3, H, W), floating point in [0, 1].
        step: The iteration.
    """
    for logger in loggers:
        _image(logger, name, image, step)


def log_figure(loggers: Iterable[Any], name: str, figure: Figure, step: int) -> None:
    """Show a figure as a picture.

    Args:
        loggers: A Trainer's loggers.
        name: Under which name.
        figure: It is drawn, and stays open.
        step: The iteration.
    """
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    log_image(loggers, name, pixels.permute(2, 0, 1) / 255, step)


def log_text(loggers: Iterable[Any], name: str, text: str, step: int, language: str = "markdown") -> None:
    """Show a text.

    Args:
        loggers: A Trainer's loggers.
        name: Under which name.
        text: The text.
        step: The iteration.
        language: ``markdown`` or ``yaml``.
    """
    for logger in loggers:
        _text(logger, name, text, step, language)


def log_table(loggers: Iterable[Any], name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Show a table in those loggers that have tables; for the others, it should also stand in a text.

    Args:
        loggers: A Trainer's loggers.
        name: Under which name.
        columns: Heads of the columns.
        rows: Cells, row by row.
    """
    for logger in loggers:
        if callable(offered := getattr(logger, "log_table", None)):
            offered(name, columns=list(columns), data=[list(row) for row in rows])


def log_settings(
    loggers: Iterable[Any], settings: Mapping[str, Any], metrics: Mapping[str, float] | None = None, step: int = 0
) -> None:
    """Record settings, or, when a run has ended, what came of them.

    TensorBoard's page of hyperparameters shows a run once it has metrics.

    Args:
        loggers: A Trainer's loggers.
        settings: Settings, nested by section.
        metrics: What came of them; None when the run starts.
        step: The iteration.
    """
    for logger in loggers:
        _settings(logger, settings, metrics, step)


def log_start(trainer: pl.Trainer, settings: Mapping[str, Any], config: Mapping[str, Any], step: int) -> None:
    """Log what a run is: its settings, and its whole configuration as text.

    The run's folder remembers its loggers from here on.

    Args:
        trainer: Its Trainer.
        settings: Those that make the run what it is.
        config: All that is known of its configuration.
        step: Iterations done before.
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
    """Log the last values of a run's numbers as ``final/…``, with the settings that they came of.

    Args:
        trainer: Its Trainer, after the fit.
        settings: See :func:`log_start`.
    """
    numbers = {name: float(value) for name, value in trainer.callback_metrics.items()}
    numbers.pop("iterations_per_second", None)  # of a single iteration
    numbers["iterations"] = trainer.global_step
    final = {f"final/{name}": value for name, value in numbers.items()}
    log_settings(trainer.loggers, _with_length(settings, trainer), final, trainer.global_step)


def recorded(folder: Path) -> list[dict[str, Any]]:
    """Classes and versions of the loggers that a run in this folder had; empty if there was none.

    Args:
        folder: The Trainer's ``default_root_dir``.
    """
    try:
        found = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def open_loggers(loggers: Iterable[Any]) -> None:
    """Connect loggers to where they write, before anything is computed for them.

    Args:
        loggers: A Trainer's loggers.

    Raises:
        BaconError: One of them cannot start.
    """
    for logger in loggers:
        try:
            _ = logger.experiment
        except Exception as error:  # each service has its own
            raise BaconError(
                f"{type(logger).__name__} cannot start ({one_line(error).rstrip('.')}): mend its --trainer.logger "
                "options, or give --trainer.logger false."
            ) from error


def close_loggers(loggers: Iterable[Any]) -> None:
    """End what would go on after a run's end, so that another run of this process has its own.

    Args:
        loggers: A Trainer's loggers.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()


class PartLogger(Logger):
    """A logger for one of several trainings that are logged together: its numbers bear the training's name.

    Args:
        whole: The logger of them all; it is left open.
        part: Name of the training.
    """

    def __init__(self, whole: Logger, part: str) -> None:
        super().__init__()
        self.whole = whole
        self.part = part

    @property
    def name(self) -> str | None:
        """Name of the whole."""
        return self.whole.name

    @property
    def version(self) -> int | str | None:
        """Version of the whole."""
        return self.whole.version

    @property
    def save_dir(self) -> str | None:
        """Where the whole writes."""
        return self.whole.save_dir

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers under the training's name."""
        self.whole.log_metrics({f"{self.part}/{name}": value for name, value in metrics.items()}, step=step)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Leave settings to the whole."""

    def save(self) -> None:
        """Save what has been logged so far."""
        self.whole.save()

    def finalize(self, status: str) -> None:
        """Save; the whole goes on."""
        self.whole.save()


def _with_length(settings: Mapping[str, Any], trainer: pl.Trainer) -> dict[str, Any]:
    return {**settings, "trainer": {**settings.get("trainer", {}), "max_steps": trainer.max_steps}}


@singledispatch
def _image(logger: Any, name: str, image: Tensor, step: int) -> None:
    """By a method of the logger such as WandbLogger's, else by one of its experiment such as Comet's."""
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
    logger.log_hyperparams(dict(settings), dict(metrics or {}), step)  # without metrics: into hparams.yaml alone


@_settings.register
def _(logger: MLFlowLogger, settings: Mapping[str, Any], metrics: Mapping[str, float] | None, step: int) -> None:
    if metrics is not None:
        logger.log_metrics(metrics, step=step)
        return
    # A parameter that was logged once cannot be changed, and a resumed run may be longer.
    known = logger.experiment.get_run(logger.run_id).data.params
    logger.log_hyperparams({name: value for name, value in _flat(settings).items() if name not in known})


def _flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as text by their path, ``model/lr``."""
    found: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": part for key, part in _flat(value).items()}
        else:
            found[name] = str(value)
    return found
