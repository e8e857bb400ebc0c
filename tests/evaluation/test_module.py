"""Evaluation: each network's training is its own and reproducible; the published protocol; the report."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from bacon_pl.augment import DSA, NoAugmentation
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError, DivergedError
from bacon_pl.evaluation import EvalModule, LearningCurve, results, run_line, summary, write_results
from bacon_pl.learners import Learners, Recipe, TrainingSet
from bacon_pl.networks import ConvNet, Network
from bacon_pl.report import markdown
from tests import logged


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=8, depth=2)


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def recipe(**settings):
    return Recipe(**{"network": small, "num_networks": 2, "epochs": 3, "batch_size": 16, "augment": DSA(), **settings})


def trainer(tmp_path, steps, *callbacks, logger=False):
    return pl.Trainer(
        max_steps=steps, max_epochs=1, accelerator="cpu", logger=logger, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, callbacks=list(callbacks),
    )  # fmt: skip


def counted(module, data):
    """Test networks as they are, as if they had been trained."""
    module.learners.steps_taken = module.learners.total_steps
    trainer(None, 1).test(module, datamodule=data, verbose=False)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_networks_train_apart_and_network_k_does_not_depend_on_how_many_there_are(data):
    real = TrainingSet.random(data.train, ipc=2, draws=1, seed=0)
    two = Learners(real, recipe(num_networks=2), data.meta).fit()
    three = Learners(real, recipe(num_networks=3), data.meta).fit()
    for k in range(2):
        torch.testing.assert_close(weights(two.networks[k]), weights(three.networks[k]))
    assert not torch.allclose(weights(two.networks[0]), weights(two.networks[1]))


def test_training_is_torch_sgd_with_one_drop_and_restarted_momentum(data):
    real = TrainingSet.random(data.train, ipc=3, draws=1, seed=0)  # 30 images: batches of 16 and 14
    settings = recipe(num_networks=1, epochs=4, augment=NoAugmentation())
    module = Learners(real, settings, data.meta)
    reference = small(1, (8, 8), 10)
    reference.load_state_dict(module.networks[0].state_dict())
    seen = []
    for epoch in range(4):
        if epoch in (0, 2):
            optimizer = torch.optim.SGD(
                reference.parameters(), lr=0.01 if epoch == 0 else 0.001, momentum=0.9, weight_decay=5e-4
            )
        for step in (2 * epoch, 2 * epoch + 1):
            x, y = module.batch(0, step)
            seen.append(len(y))
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(reference(x)[1], y).backward()
            optimizer.step()
    assert seen == [16, 14] * 4
    module.fit()
    torch.testing.assert_close(weights(module.networks[0]), weights(reference))


def test_trainer_and_plain_loop_agree(data, tmp_path):
    real = TrainingSet.random(data.train, ipc=2, draws=2, seed=0)
    plain = Learners(real, recipe(), data.meta).fit()
    module = EvalModule(Learners(real, recipe(), data.meta))
    fit = trainer(tmp_path, module.learners.total_steps)
    fit.fit(module)
    assert fit.global_step == module.learners.total_steps
    torch.testing.assert_close(weights(module.learners.networks), weights(plain.networks))


def test_what_is_cut_short_has_no_result(data, tmp_path):
    real = TrainingSet.random(data.train, ipc=2, draws=1, seed=0)
    module = EvalModule(Learners(real, recipe(), data.meta))
    with pytest.raises(BaconError, match="'random' have taken 0 of the 6 steps of their recipe"):
        module.run_result("ConvNet")
    trainer(tmp_path, 4).fit(module)
    with pytest.raises(BaconError, match="have taken 4 of the 6 steps"):
        module.run_result("ConvNet")
    fit = trainer(tmp_path, 6)
    fit.fit(module)
    with pytest.raises(BaconError, match="have been tested on no test images"):
        module.run_result("ConvNet")
    fit.limit_test_batches = 1
    fit.test(module, datamodule=DataModule("digits", eval_batch=50), verbose=False)
    with pytest.raises(BaconError, match=f"tested on 1 of {-(-len(data.test) // 50)} batches of the test images"):
        module.run_result("ConvNet")
    # A module that goes on from a checkpoint knows what had been done.
    fit.save_checkpoint(tmp_path / "last.ckpt")
    again, resumed = EvalModule(Learners(real, recipe(), data.meta)), trainer(tmp_path, 6)
    resumed.fit(again, ckpt_path=tmp_path / "last.ckpt")
    resumed.test(again, datamodule=data, verbose=False)
    assert again.run_result("ConvNet").confusion.sum() == 2 * len(data.test)


def test_images_without_a_number_may_be_tested(data, tmp_path):
    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield data.normalize(data.test.images[:9]), data.test.labels[:9]

    module = EvalModule(Learners(TrainingSet.random(data.train, 2, 1, 0), recipe(), data.meta))
    trainer(tmp_path, 1).test(module, torch.utils.data.DataLoader(Endless(), batch_size=None), verbose=False)
    assert module.confusions().sum((1, 2)).tolist() == [9, 9] and not module.untested


class Normed(Network):
    """Has running statistics."""

    def __init__(self, channels, size, num_classes):
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(channels)
        self.classifier = torch.nn.Linear(channels * size[0] * size[1], num_classes)

    def embed(self, x):
        return self.norm(x).flatten(1)


def test_running_statistics_are_kept_for_the_test(data):
    real = TrainingSet.random(data.train, ipc=2, draws=1, seed=0)
    module = Learners(real, recipe(network=Normed, augment=NoAugmentation(), lr=1e-9), data.meta)
    reference = Normed(1, (8, 8), 10)
    for step in range(module.total_steps):
        reference(module.batch(1, step)[0])
    module.fit()
    assert module.networks[1].norm.num_batches_tracked == module.total_steps
    torch.testing.assert_close(module.networks[1].norm.running_mean, reference.norm.running_mean)
    assert reference.norm.running_mean.abs() > 1e-4
    torch.testing.assert_close(
        module.classify(0, x := data.normalize(data.test.images[:9])), module.networks[0].eval()(x)[1]
    )


def test_every_epoch_shows_every_image_once(data):
    real = TrainingSet.random(data.train, ipc=3, draws=1, seed=0)
    module = Learners(real, recipe(), data.meta)
    module.images = torch.arange(len(data.train.images)).float().view(-1, 1, 1, 1)
    for epoch in range(2):
        shown = [module.batch(1, 2 * epoch + part)[0].flatten() for part in range(2)]
        assert torch.equal(torch.cat(shown).sort().values, real.index[0].float().sort().values)


def test_random_real_draws_differ_between_networks_and_are_balanced(data):
    real = TrainingSet.random(data.train, ipc=4, draws=3, seed=0)
    assert real.index.shape == (3, 40)
    for row in real.index:
        assert torch.bincount(data.train.labels[row], minlength=10).tolist() == [4] * 10
        assert len(row.unique()) == 40
    assert not torch.equal(real.index[0], real.index[1])
    assert real.storage_bytes == 40 * 64
    with pytest.raises(BaconError, match="more images per class than class"):
        TrainingSet.random(data.train, ipc=10_000, draws=1, seed=0)


def test_report_counts_the_test_set_honestly(data, tmp_path):
    images = torch.randn(10, 1, 8, 8)
    distilled = DistilledSet(images, torch.arange(10), data.meta, factor=2, method="bacon", seed=4)
    modules = {}
    for training_set in (
        TrainingSet.distilled(distilled),
        TrainingSet.random(data.train, 1, 2, 0),
        TrainingSet.whole(data.train),
    ):
        module = EvalModule(Learners(training_set, recipe(epochs=1), data.meta))
        fit = trainer(tmp_path, module.learners.total_steps)
        fit.fit(module)
        fit.test(module, datamodule=data, verbose=False)
        modules[training_set.name] = module
    numbers = results(distilled, [module.run_result("ConvNet") for module in modules.values()], {"a": 1})
    # Accuracy by hand, in percent, on every test image.
    x, y = data.normalize(data.test.images), data.test.labels
    by_hand = [100 * (n(x)[1].argmax(1) == y).float().mean().item() for n in modules["whole"].learners.networks]
    assert numbers["baselines"]["whole"]["accuracy"]["per_network"] == pytest.approx(by_hand, abs=1e-3)
    assert numbers["storage_bytes"] == 640
    assert numbers["train_images"] == 40
    assert (numbers["dataset"], numbers["ipc"], numbers["network"], numbers["epochs"]) == ("digits", 1, "ConvNet", 1)
    path = write_results(tmp_path / "results.json", numbers)
    assert json.loads(path.read_text())["accuracy"]["mean"] == pytest.approx(numbers["accuracy"]["mean"])


def test_a_second_test_counts_anew(data, tmp_path):
    module = EvalModule(Learners(TrainingSet.random(data.train, 2, 1, 0), recipe(epochs=1), data.meta))
    fit = trainer(tmp_path, module.learners.total_steps)
    fit.fit(module)
    for _ in range(2):
        fit.test(module, datamodule=data, verbose=False)
    assert module.confusions().sum((1, 2)).tolist() == [len(data.test)] * 2


def test_a_curve_is_in_percent_of_images_spread_over_the_test_set(data, tmp_path):
    module = EvalModule(Learners(TrainingSet.random(data.train, 2, 1, 0), recipe(epochs=4), data.meta))
    curve = LearningCurve(data.test, points=2, images=50)
    trainer(tmp_path, module.learners.total_steps, curve, logger=CSVLogger(tmp_path, "", "")).fit(module)
    index = torch.linspace(0, len(data.test) - 1, 50).long()
    counted(module, data)
    found = module.run_result("ConvNet")
    assert found.curve_epochs == (2, 4)
    by_hand = module.learners.accuracies(data.test.images[index], data.test.labels[index])
    torch.testing.assert_close(found.curve[:, -1], by_hand)
    step, mean = logged.of_csv(tmp_path).curves["curve/test_accuracy"][-1]
    assert (step, mean) == (module.learners.total_steps, pytest.approx(float(by_hand.mean()), rel=1e-5))


def test_a_network_that_diverged_has_no_accuracy(data, tmp_path):
    module = EvalModule(Learners(TrainingSet.random(data.train, 2, 2, 0), recipe(lr=1e30), data.meta))
    said = r"network 1 of 2 \(ConvNet\) diverged in its training on the set 'random' with the learning rate 1e\+30: "
    with pytest.raises(DivergedError, match=said):
        trainer(tmp_path, module.learners.total_steps).fit(module)


def test_results_are_json_whatever_a_loss_was(data, tmp_path):
    module = EvalModule(Learners(TrainingSet.whole(data.train), recipe(), data.meta))
    counted(module, data)
    module.learners.epoch_loss[0] = float("nan")
    distilled = DistilledSet(torch.randn(10, 1, 8, 8), torch.arange(10), data.meta)
    numbers = results(distilled, [module.run_result("ConvNet")], {"limit": float("inf")})
    assert numbers["runs"][0]["final_loss"] == [None, 0]
    text = write_results(tmp_path / "results.json", numbers).read_text()
    assert json.loads(text, parse_constant=pytest.fail)["config"] == {"limit": None}


def test_accuracies_keep_the_order_of_the_networks(data):
    module = EvalModule(Learners(TrainingSet.whole(data.train), recipe(num_networks=11), data.meta))
    x, y = data.normalize(data.test.images[:90]), data.test.labels[:90]
    module.test_step((x, y), 0)
    by_hand = [100 * (network(x)[1].argmax(1) == y).float().mean().item() for network in module.learners.networks]
    assert len(set(by_hand)) > 3
    assert module.per_network().tolist() == pytest.approx(by_hand, abs=1e-3)


def test_the_summary_names_every_network_and_set():
    def run(network, training_set, mean, std, variant="given"):
        accuracy = {"mean": mean, "std": std}
        return {"network": network, "training_set": training_set, "variant": variant, "accuracy": accuracy}

    runs = [
        run("net", "distilled", 84.13, 0.61), run("net", "whole", 97.91, 0.2), run("net", "random", 52.0, 12.1),
        run("longer", "distilled", 9.0, 0.1), run("net", "distilled", 1.0, 0.1, "plain"),
    ]  # fmt: skip
    numbers = {"accuracy": {"per_network": [1, 2]}, "runs": runs}
    assert summary(numbers).splitlines() == [
        "Test accuracy in percent, mean ± standard deviation of 2 networks:",
        "network   distilled  random real    all real",
        "net      84.1 ± 0.6  52.0 ± 12.1  97.9 ± 0.2",
        "longer    9.0 ± 0.1",
    ]


def test_a_single_network_has_no_spread(data):
    module = EvalModule(Learners(TrainingSet.whole(data.train), recipe(num_networks=1), data.meta))
    counted(module, data)
    result = module.run_result("ConvNet")
    numbers = results(DistilledSet(torch.randn(10, 1, 8, 8), torch.arange(10), data.meta), [result])
    assert numbers["accuracy"]["std"] is None
    assert numbers["runs"][0]["per_class"]["std"] == [None] * 10
    assert "±" not in summary(numbers) + run_line(result) + markdown(numbers)
    assert f"ConvNet on all real: {result.accuracies.mean():.1f} %" == run_line(result)


@pytest.mark.parametrize("setting", [{"epochs": 0}, {"num_networks": 0}, {"lr": -1.0}, {"lr_drop": 0.0}])
def test_bad_recipes_are_named(setting):
    with pytest.raises(BaconError, match=f"--evaluation.{next(iter(setting))} must be"):
        recipe(**setting)
