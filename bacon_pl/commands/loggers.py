"""The option ``--trainer.logger``: loggers write to the run's folder by default, and continue when it is resumed."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger

from bacon_pl.configured import class_path
from bacon_pl.errors import BaconError, one_line
from bacon_pl.loggers import open_loggers, recorded

RUN_FOLDER = "${trainer.default_root_dir}"
"""Placeholder for a logger's folder in configurations, which remains valid if the run's folder is moved."""

_CONTINUED_BY = ("version", "run_id", "experiment_key")
"""Arguments of Lightning's loggers that identify an earlier run to continue."""


class SaveConfig(SaveConfigCallback):
    """Saves the settings in the folder of the logs, or in that of the run if the logs are not in files."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save the settings."""
        if trainer.log_dir is not None:  # evaluated on every process, since it communicates
            super().setup(trainer, pl_module, stage)
        elif trainer.is_global_zero and not self.already_saved:
            path = Path(trainer.default_root_dir, self.config_filename)
            self.parser.save(self.config, path, skip_none=False, overwrite=True)
            self.already_saved = True


def is_described(logger: Any) -> bool:
    """Return whether ``--trainer.logger`` names classes, whose objects are created when the run's folder is known."""
    return isinstance(logger, (Namespace, Mapping, list, tuple))


def make_loggers(described: Any, folder: Path, first_step: int | None = None) -> list[Logger] | None:
    """Create the loggers requested by ``--trainer.logger``, and start them.

    Args:
        described: Value of the option.
        folder: Folder of the run.
        first_step: First iteration of a resumed run; None for a new run. Values that were logged from this iteration
            on, after the checkpoint, are dropped if the logger supports this.

    Returns:
        The loggers, or None to keep the Trainer's own choice.

    Raises:
        BaconError: A logger cannot be created or started.
    """
    earlier = recorded(folder) if first_step is not None else []
    if not is_described(described):
        if described is False or not earlier:
            return None
        described = {"class_path": class_path(TensorBoardLogger), "init_args": {"save_dir": RUN_FOLDER}}
    loggers: list[Logger] = []
    for one in described if isinstance(described, (list, tuple)) else [described]:
        settings = one.as_dict() if isinstance(one, Namespace) else dict(one)
        place = next((old for old in earlier if old.get("class") == settings["class_path"]), None)
        if place is not None:
            earlier.remove(place)
        loggers.append(_make(settings, folder, place, first_step))
    open_loggers(loggers)
    return loggers


def _make(settings: dict[str, Any], folder: Path, place: Mapping[str, Any] | None, first_step: int | None) -> Logger:
    """Create one logger, which continues in its earlier place if there is one."""
    name = settings["class_path"].rpartition(".")[2]
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--logger", type=Logger)
    given = dict(settings.get("init_args") or {})
    if given.get("save_dir") == RUN_FOLDER:
        given["save_dir"] = str(folder)
        if name == MLFlowLogger.__name__ and given.get("tracking_uri") is None:
            # MLflow's default, a folder of files, is deprecated by MLflow.
            given["tracking_uri"] = f"sqlite:///{folder.absolute() / 'mlflow.db'}"
            given["artifact_location"] = given.get("artifact_location") or (folder.absolute() / "mlruns").as_uri()
    if place is not None:
        for argument in _CONTINUED_BY:
            if argument in given and given[argument] is None:
                given[argument] = place["version"]
        if "purge_step" in given and given["purge_step"] is None:
            given["purge_step"] = first_step
    try:
        described = parser.parse_object({"logger": {**settings, "init_args": given}})
        logger: Logger = parser.instantiate_classes(described).logger
        if place is not None and first_step is not None and isinstance(logger, CSVLogger):
            _take_over(logger, first_step)
    except Exception as error:  # every service raises exceptions of its own
        raise BaconError(
            f"{name} cannot be made ({one_line(error).rstrip('.')}): fix its --trainer.logger options, or give "
            "--trainer.logger false."
        ) from error
    return logger


def _take_over(logger: CSVLogger, first_step: int) -> None:
    """Restore the rows of finished iterations, since a new CSVLogger deletes its file."""
    path = Path(logger.log_dir, "metrics.csv")
    rows: Sequence[dict[str, str]] = []
    if path.is_file():
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*exists and is not empty.*")
        experiment: Any = logger.experiment
    experiment.metrics = [
        {name: value if name != "step" else int(value) for name, value in row.items() if value}
        for row in rows
        if int(row["step"]) < first_step
    ]
    logger.save()
