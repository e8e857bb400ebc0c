"""Runs that end early or never start, and the errors raised in Python."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from bacon_pl import checkpoints
from bacon_pl.callbacks import ValidationAccuracy
from bacon_pl.checkpoint_files import newest
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.distillers import Distiller
from bacon_pl.errors import BaconError, DivergedError
from tests.distillers.running import digits, fit, matching, resume, small, trainer


@pytest.mark.parametrize(
    "flag",
    [{"limit_train_batches": 2}, {"limit_train_batches": 0}, {"overfit_batches": 1}, {"min_steps": 9},
     {"max_epochs": 0}, {"val_check_interval": 2}, {"limit_val_batches": 3}, {"accumulate_grad_batches": 2}],
)  # fmt: skip
def test_trainer_flags_that_cannot_act_are_refused(tmp_path, flag):
    with pytest.raises((BaconError, MisconfigurationException), match=next(iter(flag))):
        fit(matching(), tmp_path, 4, **flag)
    assert not (tmp_path / "distilled.safetensors").exists()


def test_a_trainer_serves_one_run(tmp_path):
    run = trainer(tmp_path, 3)
    run.fit(matching(), datamodule=digits())
    second = matching(seed=1)
    second.overwrite = True
    with pytest.raises(BaconError, match="has counted 3 iterations of another run"):
        run.fit(second, datamodule=digits())


def test_a_shorter_resume_is_refused(tmp_path):
    fit(matching(lr=0.3), tmp_path, 4, Checkpoints(2))
    with pytest.raises(BaconError, match="of iteration 4, and --trainer.max_steps is 2"):
        resume(matching(lr=0.3), tmp_path, 2)


def test_a_resume_from_an_older_checkpoint_gives_the_newer_ones_up(tmp_path):
    fit(matching(), tmp_path, 8, Checkpoints(2, keep=4))
    oldest = checkpoints.in_folder(tmp_path)[-1]
    trainer(tmp_path, 4, callbacks=[Checkpoints(1, keep=2)]).fit(matching(), datamodule=digits(), ckpt_path=oldest)
    assert [p.stem for p in checkpoints.in_folder(tmp_path)] == ["iteration=4", "iteration=3"]


def test_callbacks_serve_a_second_run_anew(tmp_path, monkeypatch):
    accuracies = iter([90.0, 10.0, 50.0, 60.0])
    monkeypatch.setattr(ValidationAccuracy, "validate", lambda *_: next(accuracies))
    callback = ValidationAccuracy(1, 1, keep_best=True)
    first = fit(matching(), tmp_path / "a", 2, callback, data=digits(val_fraction=0.2))
    second = fit(matching(seed=1), tmp_path / "b", 2, callback, data=digits(val_fraction=0.2))
    assert not torch.equal(first.images, second.images)


class Steps(Distiller):
    """Moves all images by one, three times, whatever the Trainer would allow."""

    num_iterations = 3

    def iterate(self, batch):
        self.images.data.add_(1)


class Mending(Steps):
    def prepare(self):
        self.student = self.make_network(small, "student")


def test_a_method_that_is_done_does_no_more(tmp_path):
    start = fit(Steps(ipc=1), tmp_path / "a", 10, Checkpoints(1))
    assert start.iteration == 3
    again = Steps(ipc=1)
    trainer(tmp_path / "a", 10).fit(again, datamodule=digits(), ckpt_path=newest(tmp_path / "a"))
    assert again.iteration == 3 and torch.equal(again.images, start.images)


def test_a_network_made_too_late_is_told(tmp_path):
    with pytest.raises(BaconError, match="prepare makes 'student' a part of the module"):
        fit(Mending(ipc=1), tmp_path)


class Descending(Distiller):
    """Descends by a loss of the images alone, as often as its optimizers say."""

    optimizer = staticmethod(lambda images: torch.optim.SGD([images], 1.0))

    def configure_optimizers(self):
        return self.optimizer(self.images)

    def iterate(self, batch):
        self.descend({"size": self.images.square().sum()})


def test_descending_by_nothing_is_told(tmp_path):
    module = Descending(ipc=1)
    module.optimizer = lambda images: None
    with pytest.raises(BaconError, match="has nothing to descend by"):
        fit(module, tmp_path)


def test_schedulers_step_once_an_iteration(tmp_path):
    rates = []

    class Halving(Descending):
        def configure_optimizers(self):
            optimizer = torch.optim.SGD([self.images], 1.0)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

        def iterate(self, batch):
            rates.append(self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"])
            super().iterate(batch)

    fit(Halving(ipc=1), tmp_path, 3)
    assert rates == [1.0, 0.5, 0.25]


def test_a_step_size_below_zero_is_told_at_once(tmp_path):
    class Falling(Descending):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.synthetic.learn_step_size(0.5)

        def configure_optimizers(self):
            return torch.optim.SGD([self.synthetic.step_size], 1.0)

        def iterate(self, batch):
            self.descend({"falls": self.synthetic.step_size})

    with pytest.raises(DivergedError, match="iteration 1: not finite: logarithm of the step size"):
        fit(Falling(ipc=1), tmp_path)
