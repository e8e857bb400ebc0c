"""When pictures are shown, what is validated, and that watching changes nothing."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from bacon_pl import rng
from bacon_pl.callbacks import ImageGrid, ValidationAccuracy
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distillers import Selection
from bacon_pl.errors import BaconError
from bacon_pl.learners import Learners
from tests import logged
from tests.distillers import trajectories
from tests.distillers.running import digits, distill, fit, matching, resume


@pytest.mark.parametrize(
    ("every", "shown"), [("log", [0, 1, 2, 5, 10, 12]), (4, [0, 4, 8, 12]), (5, [0, 5, 10, 12]), (0, [])]
)
def test_images_are_shown_at_log_spaced_or_equal_distances_and_at_the_end(every, shown, tmp_path):
    fit(matching(), tmp_path, 12, ImageGrid(every), logger=TensorBoardLogger(tmp_path))
    assert logged.tensorboard(tmp_path / "lightning_logs/version_0").images["images"] == shown
    assert (tmp_path / "distilled.png").is_file()


def test_log_spaced_is_the_default_and_goes_on():
    grid = ImageGrid()
    due = [step for step in range(100_001) if grid._due(step)]
    assert due == [0, *(digit * 10**power for power in range(5) for digit in (1, 2, 5)), 100_000]


@pytest.mark.parametrize(("every", "classes"), [(-1, 20), ("often", 20), (5, 0)])
def test_what_cannot_be_shown_is_refused(every, classes):
    with pytest.raises(BaconError, match="--image_grid.every_n_steps must be 'log' or at least 0"):
        ImageGrid(every, classes)


def test_a_resumed_run_shows_every_picture_once(tmp_path):
    fit(matching(), tmp_path, 5, ImageGrid(), Checkpoints(2), logger=TensorBoardLogger(tmp_path, version="first"))
    resume(matching(), tmp_path, 12, ImageGrid(), logger=TensorBoardLogger(tmp_path, version="second"))
    assert logged.tensorboard(tmp_path / "lightning_logs/first").images["images"] == [0, 1, 2, 5]
    assert logged.tensorboard(tmp_path / "lightning_logs/second").images["images"] == [5, 10, 12]


def test_a_selection_shows_what_it_started_from_and_what_it_chose(tmp_path):
    fit(Selection(ipc=1, rule="drawn"), tmp_path, 3, ImageGrid(), logger=TensorBoardLogger(tmp_path))
    found = logged.tensorboard(tmp_path / "lightning_logs/version_0")
    assert found.images["images"] == [0, 1]
    assert found.curves["final/iterations"] == [(1, 1.0)]


def test_validation_is_logged_at_every_interval_whatever_the_trainer_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setattr(ValidationAccuracy, "validate", lambda *_: 50.0)
    callbacks = [ValidationAccuracy(2, 1), ImageGrid()]
    logger = TensorBoardLogger(tmp_path)
    data = digits(val_fraction=0.2)
    fit(matching(), tmp_path, 5, *callbacks, data=data, logger=logger, log_every_n_steps=50)
    found = logged.tensorboard(tmp_path / "lightning_logs/version_0")
    assert found.curves["val/accuracy"] == [(1, 50.0), (3, 50.0)]
    assert found.curves["final/val/accuracy"] == [(5, 50.0)]


def test_validation_trains_on_the_current_images_and_tests_on_held_out_ones(monkeypatch):
    data = digits(val_fraction=0.2)
    data.setup()
    module = matching(seed=3)
    module.synthetic.initialize(data.train, data.meta, 3)
    trained, tested = [], []
    fit_, accuracies = Learners.fit, Learners.accuracies
    monkeypatch.setattr(Learners, "fit", lambda self, *a: trained.append(self) or fit_(self, *a))
    monkeypatch.setattr(Learners, "accuracies", lambda self, *a: tested.append(a) or accuracies(self, *a))
    ValidationAccuracy(1, 1).validate(module, data, 5)
    assert torch.equal(trained[0].training_set.images, module.distilled().expanded()[0])
    assert trained[0].seed == rng.derive(3, "validation", 5)
    images, labels, _ = tested[0]
    assert torch.equal(images, data.val.images) and torch.equal(labels, data.val.labels)


def test_the_first_of_equals_is_kept_with_what_was_learned_beside_it(tmp_path, monkeypatch):
    accuracies = iter([50.0, 90.0, 90.0])
    monkeypatch.setattr(ValidationAccuracy, "validate", lambda *_: next(accuracies))
    kept = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            kept.append((pl_module.images.detach().clone(), float(pl_module.synthetic.step_size.detach())))

    flags = {"callbacks": [Keep(), ValidationAccuracy(1, 1, keep_best=True)]}
    trajectories.run(tmp_path, 3, data={"val_fraction": 0.2}, flags=flags)
    found = DistilledSet.load(tmp_path)
    assert len({step_size for _, step_size in kept}) == 3 and found.config["iterations"] == 2
    assert torch.equal(found.images, kept[1][0]) and found.step_size == pytest.approx(kept[1][1], rel=1e-6)


def test_the_best_images_outlive_a_resume():
    best, again = (ValidationAccuracy(1, 1, keep_best=True) for _ in range(2))
    best.best_accuracy, best.best_iterations, best.best_images = 90.0, 7, torch.ones(2)
    again.load_state_dict(best.state_dict())
    assert (again.best_accuracy, again.best_iterations) == (90, 7) and torch.equal(again.best_images, torch.ones(2))


def test_loggers_change_no_bit(tmp_path):
    alone = distill(tmp_path / "alone", 3)
    flags = {"logger": TensorBoardLogger(tmp_path), "callbacks": [ImageGrid()], "log_every_n_steps": 1}
    watched = distill(tmp_path / "watched", 3, flags=flags)
    assert torch.equal(alone.images, watched.images)
