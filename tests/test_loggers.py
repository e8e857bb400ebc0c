"""Pictures, texts and settings in real loggers, and what loggers that take less get."""

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from matplotlib.figure import Figure

from bacon_pl.errors import BaconError
from bacon_pl.loggers import (
    PartLogger,
    close_loggers,
    log_figure,
    log_image,
    log_settings,
    log_table,
    log_text,
    open_loggers,
    recorded,
)
from tests import logged

SETTINGS = {"model": {"lr": 0.5, "factor": None}, "seed_everything": 3}


def make(kind, folder):
    """A real logger that writes into a folder, and what reads it back."""
    if kind == "tensorboard":
        return TensorBoardLogger(folder, name="", version=""), lambda: logged.tensorboard(folder)
    if kind == "csv":
        return CSVLogger(folder, name="", version=""), lambda: logged.of_csv(folder)
    if kind == "wandb":
        wandb = pytest.importorskip("wandb", reason="wandb is not installed")
        # Its service has written everything once it has ended.
        return WandbLogger(save_dir=folder, offline=True), lambda: wandb.teardown() or logged.wandb(folder)
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    artifacts = (folder / "mlruns").as_uri()
    logger = MLFlowLogger(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", artifact_location=artifacts)
    return logger, lambda: logged.mlflow(folder)


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow", "csv"])
def test_real_loggers_hold_what_they_were_given(kind, tmp_path):
    logger, read = make(kind, tmp_path)
    figure = Figure((1, 1))
    figure.add_subplot().plot([1, 2])
    open_loggers([logger])
    log_settings([logger], SETTINGS)
    for step in (0, 2):
        log_image([logger], "images", torch.rand(3, 4, 5), step)
        logger.log_metrics({"loss": 1.0 + step}, step=step)
    log_figure([logger], "report/curve", figure, 2)
    log_text([logger], "config", "a: 1\n", 2, "yaml")
    log_table([logger], "accuracies", ["network", "accuracy"], [["ConvNet", 50.0]])
    log_settings([logger], SETTINGS, {"final/loss": 3.0}, 2)
    logger.finalize("success")
    close_loggers([logger])

    found = read()
    assert found.curves["loss"] == [(0, 1.0), (2, 3.0)]
    assert found.curves["final/loss"] == [(2, 3.0)]
    if kind == "csv":
        assert "lr: 0.5" in (tmp_path / "hparams.yaml").read_text()
        return
    assert found.images == {"images": [0, 2], "report/curve": [2]}
    assert "a: 1" in found.texts["config"]
    if kind == "wandb":
        assert found.settings["model"] == {"lr": 0.5, "factor": None}
        assert found.texts["accuracies"] == "ConvNet"
    else:
        assert float(found.settings["model/lr"]) == 0.5


class TakesPictures(DummyLogger):
    """Offers what WandbLogger offers."""

    def __init__(self):
        super().__init__()
        self.taken = []

    def log_image(self, key, images, step=None):
        self.taken.append((key, images[0].size, step))

    def log_text(self, key, columns, data, step=None):
        self.taken.append((key, data[0][0], step))


class Comets:
    def __init__(self):
        self.taken = []

    def log_image(self, image_data, name=None, step=None):
        self.taken.append((name, image_data.size, step))

    def log_text(self, text, step=None, metadata=None):
        self.taken.append((metadata["name"], text, step))


def test_other_loggers_get_pictures_by_a_method_of_their_own_or_their_experiments(tmp_path):
    direct, through, numbers = TakesPictures(), CSVLogger(tmp_path / "a"), CSVLogger(tmp_path / "b")
    through._experiment = Comets()
    log_image([direct, through, numbers], "images", torch.zeros(3, 4, 5), 7)
    log_text([direct, through, numbers], "config", "a: 1", 7, "yaml")
    assert direct.taken == through.experiment.taken == [("images", (5, 4), 7), ("config", "a: 1", 7)]
    assert numbers.experiment.metrics == []


def test_the_numbers_of_one_of_several_trainings_bear_its_name(tmp_path):
    whole = CSVLogger(tmp_path, name="", version="")
    for part in ("convnet_distilled", "convnet_random"):
        view = PartLogger(whole, part)
        assert (view.name, view.version, view.save_dir) == (whole.name, whole.version, whole.save_dir)
        view.log_metrics({"train/loss": 2.0}, step=1)
        view.log_hyperparams({"lr": 1})
        view.finalize("success")
    found = logged.of_csv(tmp_path)
    assert found.curves == {f"convnet_{name}/train/loss": [(1, 2.0)] for name in ("distilled", "random")}
    assert not (tmp_path / "hparams.yaml").exists()


def test_a_logger_that_cannot_start_is_told_in_a_sentence(tmp_path):
    class Refuses(DummyLogger):
        @property
        def experiment(self):
            raise ConnectionError("no route to host")

    with pytest.raises(BaconError, match="Refuses cannot start .no route to host.: fix its --trainer.logger options"):
        open_loggers([Refuses()])


@pytest.mark.parametrize("text", [None, "", "{", '{"a": 1}', "[3]"])
def test_a_record_that_is_none_is_as_good_as_missing(text, tmp_path):
    if text is not None:
        (tmp_path / ".loggers.json").write_text(text)
    assert recorded(tmp_path) == []
