"""Runs that end early or never start, and the errors raised in Python."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from bacon_pl import checkpoints
from bacon_pl.callbacks import ValidationAccuracy
from bacon_pl.checkpoint_files import newest
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distillers import Distiller, DistributionMatching, GradientMatching, Selection, TrajectoryMatching
from bacon_pl.errors import BaconError, DivergedError
from bacon_pl.learners import Recipe
from bacon_pl.objectives import MeanMatching
from tests.distillers.running import digits, fit, matching, resume, small, trainer


@pytest.mark.parametrize(
    "flag",
    [{"limit_train_batches": 2}, {"limit_train_batches": 1}, {"limit_train_batches": 0}, {"overfit_batches": 1},
     {"min_steps": 9}, {"max_epochs": 0}, {"val_check_interval": 2}, {"limit_val_batches": 3},
     {"accumulate_grad_batches": 2}],
)  # fmt: skip
def test_trainer_flags_that_cannot_act_are_refused(tmp_path, flag):
    with pytest.raises((BaconError, MisconfigurationException), match=next(iter(flag))):
        fit(matching(), tmp_path, 4, **flag)
    assert not (tmp_path / "distilled.safetensors").exists()


def test_averages_of_weights_are_refused_and_hooks_that_are_not_called_are_told(tmp_path):
    class Watching(pl.Callback):
        def on_after_backward(self, trainer, module):
            raise AssertionError

    if hasattr(pl.callbacks, "WeightAveraging"):
        with pytest.raises(BaconError, match="WeightAveraging averages the weights of networks"):
            fit(matching(), tmp_path, 3, pl.callbacks.WeightAveraging())
    with pytest.warns(UserWarning, match=r"Watching.on_after_backward is not called by methods that"):
        fit(matching(), tmp_path, 2, Watching())


def test_a_set_says_after_how_many_iterations_it_was_taken(tmp_path):
    class Enough(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            trainer.should_stop = module.iteration == 2

    assert fit(matching(), tmp_path / "a", 3).distilled().config["iterations"] == 3
    fit(matching(), tmp_path / "b", 3, Enough())
    assert DistilledSet.load(tmp_path / "b").config["iterations"] == 2


def test_a_run_that_is_out_of_time_leaves_no_set(tmp_path):
    with pytest.raises(BaconError, match=r"max_time gives was up after iteration .* of 100,000, so no set is written"):
        fit(matching(), tmp_path, 100_000, max_time={"seconds": 1})
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize("cross_class", [False, True])
def test_an_objective_without_a_gradient_is_refused(tmp_path, cross_class):
    class Flat(MeanMatching):
        def terms(self, syn, real, mask=None):
            return {name: value.detach() for name, value in super().terms(syn, real, mask).items()}

    Flat.cross_class = cross_class
    with pytest.raises(BaconError, match="terms of Flat do not depend on .* in a way that has a gradient"):
        fit(matching(objective=Flat()), tmp_path)


def test_a_method_without_a_name_is_called_by_its_objective_or_class():
    class Own(DistributionMatching):
        pass

    assert [m.method for m in (matching(), matching(objective=MeanMatching()), matching(method="mine"), Own())] == [
        "bacon", "meanmatching", "mine", "own",
    ]  # fmt: skip


@pytest.mark.parametrize("network", ["ConvNet", None, small(1, (8, 8), 10)])
@pytest.mark.parametrize("made", [DistributionMatching, GradientMatching, TrajectoryMatching, Selection, Recipe])
def test_what_cannot_make_a_network_is_refused(made, network):
    with pytest.raises(BaconError, match="network must be a class or function that makes a network of .channels, size"):
        made(network=network)


def test_a_run_goes_on_under_another_name(tmp_path):
    fit(matching(method="one"), tmp_path, 2, Checkpoints(1))
    assert resume(matching(method="other"), tmp_path, 3).iteration == 3
    assert DistilledSet.load(tmp_path).method == "other"


def test_terms_may_be_constant_for_a_while_beside_the_cross_entropy(tmp_path):
    class Pausing(MeanMatching):
        seen = 0

        def terms(self, syn, real, mask=None):
            found = super().terms(syn, real, mask)
            self.seen += 1
            return {name: value.detach() if self.seen == 2 else value for name, value in found.items()}

    assert fit(matching(objective=Pausing()), tmp_path / "a", 3).iteration == 3
    with pytest.raises(BaconError, match="in a way that has a gradient"):
        fit(matching(objective=Pausing(), cross_entropy=None), tmp_path / "b", 3)


def test_a_loaded_module_knows_its_data(tmp_path):
    made = fit(matching(), tmp_path, 2, Checkpoints(1), data=digits(batch_real=7)).distilled()
    again = DistributionMatching.load_from_checkpoint(newest(tmp_path), network=small).distilled()
    assert again.config["data"]["batch_real"] == 7
    free = ("root", "download", "eval_batch")  # which change no image, so that checkpoints do not record them
    assert again.config["data"] == {name: v for name, v in made.config["data"].items() if name not in free}


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
