"""The life of a run from Python: what it refuses, what it keeps, and what a checkpoint brings back."""

import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.loggers import TensorBoardLogger

from bacon_pl.callbacks import ImageGrid, ValidationAccuracy
from bacon_pl.checkpoint_files import newest
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distillers import DistributionMatching, PoolSettings
from bacon_pl.distillers.checks import check_trainer
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import BaconObjective
from tests.distillers.running import SMALL_POOL, digits, distill, fit, matching, resume, small, trainer


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a run of four iterations with checkpoints, as it was left."""
    root = tmp_path_factory.mktemp("run")
    fit(matching(lr=0.3), root, 4, Checkpoints(2))
    return root


@pytest.fixture
def run(saved, tmp_path):
    """A copy of that folder, to go on in."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


# What is refused.


def test_loss_scaling_is_refused():
    # On a CPU Lightning makes bf16-mixed of it.
    with pytest.raises(BaconError, match="16-mixed scales losses"):
        check_trainer(SimpleNamespace(precision="16-mixed", callbacks=[]))


@pytest.mark.parametrize("precision", ["16-true", "bf16-true"])
def test_half_precision_images_are_refused(tmp_path, precision):
    with pytest.raises(BaconError, match=f"--trainer.precision {precision} would make the images themselves half"):
        fit(matching(), tmp_path, precision=precision)


def test_early_stopping_never_acts_so_it_is_refused(tmp_path):
    with pytest.raises(BaconError, match="EarlyStopping looks at an epoch's end"):
        fit(matching(), tmp_path, 3, EarlyStopping("loss"))


def test_a_finished_set_is_lost_to_no_fit(tmp_path):
    fit(matching(), tmp_path)
    before = (tmp_path / "distilled.safetensors").read_bytes()
    with pytest.raises(BaconError, match="holds a finished run, whose set would be lost"):
        fit(matching(seed=1), tmp_path)
    fit(matching(seed=1), tmp_path, fast_dev_run=True)
    assert (tmp_path / "distilled.safetensors").read_bytes() == before
    replacing = matching(seed=1)
    replacing.overwrite = True
    fit(replacing, tmp_path)
    assert (tmp_path / "distilled.safetensors").read_bytes() != before


def test_a_fast_dev_run_leaves_nothing(tmp_path):
    fit(matching(), tmp_path, 3, Checkpoints(1), ImageGrid(), fast_dev_run=True)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


def test_checkpoints_of_two_runs_are_not_mixed(tmp_path):
    fit(matching(), tmp_path, 3, Checkpoints(1))
    (tmp_path / "distilled.safetensors").unlink()
    with pytest.raises(BaconError, match="holds an unfinished run"):
        fit(matching(seed=1), tmp_path, 3, Checkpoints(1))


def test_a_module_is_fitted_once_and_to_one_dataset(tmp_path):
    module = fit(matching(), tmp_path / "a")
    with pytest.raises(BaconError, match="has done 3 iterations already: make a new one"):
        fit(module, tmp_path / "b")
    with pytest.raises(BaconError, match="holds images of digits, and the data are digits, or differ"):
        fit(module, tmp_path / "c", data=digits(mean=[0.1], std=[0.5]))


# Seeds.


def test_lightnings_seed_is_the_default(tmp_path):
    assert matching().seed == 0
    given = fit(matching(seed=3), tmp_path / "given").images
    pl.seed_everything(3)
    module = fit(matching(), tmp_path / "global")
    assert module.seed == module.settings()["seed_everything"] == 3
    assert torch.equal(module.images, given)


def test_data_have_no_seed_of_their_own():
    with pytest.raises(TypeError, match="seed"):
        DataModule(name="digits", seed=1)


# Checkpoints.


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"lr": 5.0}, "--model.lr was 0.3, now 5.0"),
        ({"seed": 1}, "--seed_everything was 0, now 1"),
        ({"pool": PoolSettings(initial=2, push_every=2, capacity=4, train_networks=1, train_steps=2)},
         "--model.pool.train_networks was 2, now 1"),
        ({"network": partial(ConvNet, width=8, depth=2)}, "--model.network was .*small, now .*'width': 8"),
        ({"objective": BaconObjective(tv_weight=0.5)}, "--model.objective.init_args.tv_weight was 0.8, now 0.5"),
        ({"cross_entropy": None}, "--model.cross_entropy was .*, now None"),
    ],
)  # fmt: skip
def test_a_resume_from_python_with_other_settings_is_refused(run, settings, sentence):
    with pytest.raises(BaconError, match=f"the checkpoint is of another run: {sentence}"):
        resume(matching(**{"lr": 0.3, **settings}), run)


def test_precision_and_validation_belong_to_the_run(run, tmp_path):
    with pytest.raises(BaconError, match="--trainer.precision was 32-true, now bf16-mixed"):
        resume(matching(lr=0.3), run, precision="bf16-mixed")
    choosing = partial(ValidationAccuracy, every_n_steps=2, epochs=1)
    fit(matching(), tmp_path, 2, Checkpoints(2), choosing(keep_best=True), data=digits(val_fraction=0.2))
    with pytest.raises(BaconError, match="--validation.keep_best was True, now False"):
        trainer(tmp_path, 4, callbacks=[Checkpoints(2), choosing()]).fit(
            matching(), datamodule=digits(val_fraction=0.2), ckpt_path=newest(tmp_path)
        )


def test_another_dataset_is_another_run(run):
    with pytest.raises(BaconError, match="--data.val_fraction was 0.0, now 0.2"):
        trainer(run, 6).fit(matching(lr=0.3), datamodule=digits(val_fraction=0.2), ckpt_path=newest(run))


def test_another_class_is_another_run(run):
    with pytest.raises(BaconError, match="--model.class_path was .*DistributionMatching, now .*Other"):
        resume(Other(ipc=1, network=small, pool=SMALL_POOL, lr=0.3), run)


class Other(DistributionMatching):
    pass


def test_what_changes_rounding_alone_may_change(run, tmp_path):
    whole = distill(tmp_path, 6, lr=0.3)
    resumed = resume(matching(lr=0.3, real_chunk=16, memory_gib=1.0), run)
    torch.testing.assert_close(whole.images, resumed.images, atol=1e-4, rtol=0)


def test_a_module_is_loaded_from_a_checkpoint_with_its_images(run):
    path = newest(run)
    module = DistributionMatching.load_from_checkpoint(path, network=small)
    held = torch.load(path, weights_only=True)["state_dict"]["synthetic.images"]
    assert torch.equal(module.images, held)
    assert (module.iteration, module.meta.name, module.lr, module.seed) == (4, "digits", 0.3, 0)
    assert module.distilled().config["model"]["lr"] == 0.3
    with pytest.raises(BaconError, match="iterations already"):
        fit(module, run / "again")


def test_a_plain_checkpoint_is_enough_to_make_the_module_again(tmp_path):
    network = partial(ConvNet, width=4, depth=2)
    fit(matching(network=network, objective=BaconObjective(tv_weight=0.25)), tmp_path, 2, Checkpoints(2))
    module = DistributionMatching.load_from_checkpoint(newest(tmp_path))
    assert module.objective.tv_weight == 0.25
    assert module.pool_settings == SMALL_POOL
    assert module.network(1, (8, 8), 10).classifier.in_features == small(1, (8, 8), 10).classifier.in_features


def test_a_checkpoint_of_another_format_is_refused(run, tmp_path):
    checkpoint = torch.load(newest(run), weights_only=True)
    for i, change in enumerate(({"bacon_pl": {"format": 1}}, {"bacon_pl": None})):
        path = tmp_path / f"{i}.ckpt"
        torch.save({**checkpoint, **change}, path)
        with pytest.raises(BaconError, match="of another version of this package"):
            trainer(tmp_path, 6).fit(matching(lr=0.3), datamodule=digits(), ckpt_path=path)


def test_loggers_show_the_settings(tmp_path):
    logger = TensorBoardLogger(tmp_path)
    fit(matching(lr=0.3), tmp_path, logger=logger)
    written = (tmp_path / "lightning_logs/version_0/hparams.yaml").read_text()
    assert "lr: 0.3" in written and "tv_weight: 0.8" in written


# The end.


def test_the_set_records_the_settings_that_python_gave(tmp_path):
    fit(matching(lr=0.3, method="mine"), tmp_path, data=digits(val_fraction=0.1))
    config = DistilledSet.load(tmp_path).config
    assert config["model"]["class_path"] == "bacon_pl.distillers.DistributionMatching"
    assert (config["model"]["lr"], config["data"]["val_fraction"], config["seed_everything"]) == (0.3, 0.1, 0)
    assert config["model"]["pool"]["push_every"] == 2


def test_the_picture_and_the_set_are_the_images_that_validated_best(tmp_path, monkeypatch):
    accuracies = iter([50.0, 90.0, 10.0])
    monkeypatch.setattr(ValidationAccuracy, "validate", lambda *_: next(accuracies))
    kept = []

    class Keep(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            kept.append(module.images.detach().clone())

    best = ValidationAccuracy(1, 1, keep_best=True)
    # In any order of the callbacks.
    fit(matching(), tmp_path, 3, ImageGrid(), Keep(), best, data=digits(val_fraction=0.2))
    assert torch.equal(DistilledSet.load(tmp_path).images, kept[1])
    assert (tmp_path / "distilled.png").read_bytes().startswith(b"\x89PNG")
    DistilledSet.load(tmp_path).save_grid(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "distilled.png").read_bytes()


# Spawned processes import everything anew, which takes most of a minute; forks are told their results in the same way.
@pytest.mark.parametrize("strategy", ["ddp_fork", pytest.param("ddp_spawn", marks=pytest.mark.slow)])
def test_spawned_processes_leave_their_images_in_the_module(tmp_path, strategy):
    alone = distill(tmp_path / "alone", 3)
    module = distill(tmp_path / "spawned", 3, flags={"devices": 2, "strategy": strategy})
    assert module.iteration == 3
    assert torch.equal(module.images, alone.images)
    assert torch.equal(module.distilled().images, DistilledSet.load(tmp_path / "spawned").images)
