"""The distillation step: the published trajectory, and what must not change a result."""

import logging

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from bacon_pl.augment import NoAugmentation
from bacon_pl.data import DataModule, DatasetMeta
from bacon_pl.distillers import DistributionMatching, PoolSettings, batched_sgd
from bacon_pl.distillers.matching import Matching
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet, StatelessNetwork
from bacon_pl.networks.cost import activation_bytes
from bacon_pl.objectives import CrossEntropy, MeanMatching
from tests.distillers.running import distill, small


class FixedNetwork:
    """A pool of one given network that never trains, with a given accuracy."""

    def __init__(self, model, accuracy):
        self.template, self.percent = model, accuracy
        self.model = StatelessNetwork(model)

    advance = reset_meters = train = lambda self, *_: None
    matched = lambda self, t: 0  # noqa: E731
    trained = lambda self, t: []  # noqa: E731

    def accuracy(self, network_id):
        return self.percent

    def forward(self, network_id, x, read, keys):
        return self.template(x, read)


class FixedBatch:
    """One iteration's given real images, already normalized."""

    def __init__(self, iteration, real):
        self.iteration, self.real = iteration, real

    def matching(self, classes):
        return self.real[classes], None


class InUnevenBlocks(Matching):
    """Takes four classes in two blocks, of three and one."""

    block_rows = 3


class Trajectory(DistributionMatching):
    """DistributionMatching with given images and network, which records what the golden file holds."""

    def __init__(self, data, accuracy="percent"):
        super().__init__(ipc=2, factor=2, lr=data["lr"].item(), momentum=data["momentum"].item(),
                         cross_entropy=CrossEntropy(0.5, accuracy), augment=NoAugmentation(),
                         acceleration="off")  # fmt: skip
        self.recorded = data
        self.losses, self.after = [], []

    def setup(self, stage):
        self.synthetic.meta = DatasetMeta("golden", tuple("abcd"), 3, (32, 32), (0.0,) * 3, (1.0,) * 3)
        self.synthetic.images = nn.Parameter(self.recorded["syn0"].clone())

    def on_fit_start(self):
        model = ConvNet(3, (32, 32), 4, width=8).double()
        weights = {k[5:].replace("__", "."): v for k, v in self.recorded.items() if k.startswith("net__")}
        model.load_state_dict(weights)
        self.pool = FixedNetwork(model.requires_grad_(False), self.recorded["net_accuracy_percent"])
        self.matching = InUnevenBlocks(self)

    def normalize(self, images):
        return images

    def train_dataloader(self):
        return range(3)

    def real_images(self):
        return FixedBatch(self.iteration, self.recorded["real"][self.iteration].double())

    def report(self, terms, accuracy):
        self.losses.append(sum(terms.values()).detach())

    def on_train_batch_end(self, outputs, batch, batch_idx):
        # The published tensor: class c after its own step and those of the classes behind it (§5).
        (state,) = self.optimizers(use_pl_optimizer=False).state.values()
        lr, m, classes = self.lr, self.momentum, self.meta.num_classes
        done = torch.arange(classes).repeat_interleave(self.synthetic.ipc).view(-1, 1, 1, 1)
        # Here the step has been taken; undo it to get where the gradient was evaluated.
        step, _ = batched_sgd(lr, m, classes)
        evaluated = self.images.detach() + step * state["momentum_buffer"]
        self.after.append(evaluated - lr * state["momentum_buffer"] * (1 - m ** (classes - done)) / (1 - m))

    def on_fit_end(self):
        pass


def follow(module, tmp_path):
    """Run the trainer on a :class:`Trajectory`."""
    pl.Trainer(
        max_steps=3, max_epochs=1, precision="64-true", accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    ).fit(module)  # fmt: skip
    return module


def test_accuracy_multiplies_the_cross_entropy_in_percent_as_a_fraction_or_not_at_all(golden, tmp_path):
    first = {}
    for scale in ("percent", "fraction", "none"):
        first[scale] = follow(Trajectory(golden("three_iterations"), scale), tmp_path).losses[0]
    # The rest of the loss is the same, so differences are the cross-entropy's times 37.5 - 0.375 and 1 - 0.375.
    ratio = (first["percent"] - first["fraction"]) / (first["none"] - first["fraction"])
    torch.testing.assert_close(ratio, torch.full_like(ratio, 37.125 / 0.625))


def test_three_iterations_match_the_published_class_by_class_trajectory(golden, tmp_path):
    data = golden("three_iterations")
    module = follow(Trajectory(data), tmp_path)
    torch.testing.assert_close(torch.stack(module.losses), data["losses"], atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.stack(module.after), data["after"], atol=1e-6, rtol=0)


def test_images_start_as_half_size_real_images_of_their_class(tmp_path):
    data = DataModule(name="digits")
    data.setup()
    module = DistributionMatching(ipc=2, factor=2)
    module.synthetic.initialize(data.train, data.meta, module.seed)
    assert module.images.shape == (20, 1, 8, 8)
    real = data.normalize(data.train.images)
    halves = torch.nn.functional.interpolate(real, scale_factor=0.5, mode="bilinear")
    for image in range(20):
        mine = halves[data.train.labels == image // 2].flatten(1)
        for rows in (slice(0, 4), slice(4, 8)):
            for columns in (slice(0, 4), slice(4, 8)):
                tile = module.images[image, :, rows, columns].detach().flatten()
                assert (mine - tile).abs().amax(1).min() < 1e-6


def test_same_seed_same_bits_and_another_seed_others(tmp_path):
    first, again, other = (distill(tmp_path, seed=s).images.detach() for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_global_generators_have_no_say(tmp_path):
    torch.manual_seed(1)
    first = distill(tmp_path).images.detach()
    torch.manual_seed(2)
    torch.rand(17)
    assert torch.equal(first, distill(tmp_path).images.detach())


def test_resumed_run_ends_in_the_same_bits(tmp_path):
    whole = distill(tmp_path / "a", 7)
    saver = pl.callbacks.ModelCheckpoint(tmp_path, filename="at", every_n_train_steps=4)
    distill(tmp_path / "b", 7, flags={"enable_checkpointing": True, "callbacks": [saver]})
    resumed = distill(tmp_path / "b", 7, ckpt_path=tmp_path / "at.ckpt")
    assert torch.equal(whole.images, resumed.images)
    for kind in ("weights", "velocity"):
        for name, stack in getattr(whole.pool, kind).items():
            rows = min(resumed.pool.created, resumed.pool.settings.capacity)
            assert torch.equal(stack[:rows], getattr(resumed.pool, kind)[name][:rows])


@pytest.mark.parametrize(("classes_that_fit", "blocks"), [(0.5, 10), (1.5, 10), (2.5, 5), (10, 5)])
def test_memory_budget_takes_classes_in_blocks_and_changes_nothing_but_rounding(tmp_path, classes_that_fit, blocks):
    whole = distill(tmp_path, 2, flags={"precision": "64-true"})
    per_class = 4 * activation_bytes(small(1, (8, 8), 10).double(), (1, 8, 8))
    budget = classes_that_fit * per_class / 2**30
    parts = distill(tmp_path, 2, memory_gib=budget, flags={"precision": "64-true"})
    assert len(parts.matching.class_blocks()) == blocks
    torch.testing.assert_close(whole.images, parts.images, atol=1e-9, rtol=0)


@pytest.mark.parametrize("chunk", [1, 3, 16])
def test_chunks_change_nothing_but_rounding(tmp_path, chunk):
    whole = distill(tmp_path, 2, real_chunk=10_000, flags={"precision": "64-true"})
    parts = distill(tmp_path, 2, real_chunk=chunk, flags={"precision": "64-true"})
    torch.testing.assert_close(whole.images, parts.images, atol=1e-9, rtol=0)


def test_classes_smaller_than_the_batch_are_used_whole(tmp_path):
    # No class of the digits has 1000 images, and their sizes differ: every class's real images are all of its own.
    module = distill(tmp_path, 2, data={"batch_real": 1000})
    assert torch.isfinite(module.images).all()


def test_method_dm_is_a_setting(tmp_path):
    pool = PoolSettings(initial=1, push_every=1, capacity=1, train_networks=0, train_steps=0)
    module = distill(tmp_path, 3, pool=pool, objective=MeanMatching(), factor=1, cross_entropy=None, lr=1.0,
                    per_class_steps=False)  # fmt: skip
    assert module.pool.created == 4
    assert [list(module.pool.active(t)) for t in range(3)] == [[1], [2], [3]]
    assert module.pool.meters.sum() == 0


def test_matching_improves(tmp_path):
    losses = []

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            losses.append(trainer.callback_metrics["loss/likelihood"].item())

    frozen = PoolSettings(initial=1, push_every=10_000, capacity=1, train_networks=0)
    distill(tmp_path, 40, pool=frozen, augment=NoAugmentation(), cross_entropy=None, flags={"callbacks": [Record()]},
           data={"batch_real": 100})  # fmt: skip
    assert losses[-1] < losses[0] - 0.1


def test_running_accuracy_restarts_at_the_window(tmp_path):
    module = distill(tmp_path, 5, accuracy_window=3)
    # After iterations 3 and 4 alone: two networks, two steps of 16 images, each.
    assert module.pool.meters[:, 1].sum() == 2 * 2 * 2 * 16


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ipc": 0}, "--model.ipc must be at least 1"),
        ({"lr": float("inf")}, "--model.lr must be positive and finite"),
        ({"momentum": 1.0}, "--model.momentum must be in"),
        ({"ipc": 1000}, "asks for more images per class than class"),
        ({"factor": 5}, "does not cut images of 8×8"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, settings, sentence):
    with pytest.raises(BaconError, match=sentence):
        distill(tmp_path, 1, **settings)


def test_a_bad_cross_entropy_is_one_sentence():
    with pytest.raises(BaconError, match="--model.cross_entropy.weight must be positive.*null leaves the term out"):
        CrossEntropy(weight=0.0)
    with pytest.raises(BaconError, match="unknown cross_entropy.accuracy 'per cent'"):
        CrossEntropy(accuracy="per cent")


@pytest.mark.parametrize("profiler", ["simple", "pytorch"])
def test_profilers_name_the_parts_of_an_iteration(tmp_path, profiler, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)
    with caplog.at_level(logging.INFO):
        distill(tmp_path, 6, flags={"profiler": profiler})
    parts = {"real", "synthetic", "objective", "backward", "update", "pool"}
    written = caplog.text + "".join(path.read_text() for path in tmp_path.glob("fit-*"))
    assert {part for part in parts if f"[bacon]{part}" in written} == parts


def test_missing_data_is_told(tmp_path):
    trainer = pl.Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(BaconError, match="datamodule"):
        trainer.fit(DistributionMatching(), train_dataloaders=range(1))
