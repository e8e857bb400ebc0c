"""Gradient matching: whole runs against golden numbers, and what must not change a result."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch

from bacon_pl.augment import DSA, Chain, CutMix, NoAugmentation, RandAugment
from bacon_pl.data import DatasetMeta
from bacon_pl.data.in_memory import InMemoryData, labeled_images
from bacon_pl.distillers import GradientMatching, NetworkSettings
from bacon_pl.distillers.matched_network import MatchedNetwork
from bacon_pl.distillers.weight_gradients import WeightGradients
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import LayerwiseCosine, SquaredError
from bacon_pl.selection import Start
from tests.distillers.frames import GRADIENT_FRAMES
from tests.distillers.running import digits, distill, small, trainer

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Watch(pl.Callback):
    """Sets the images at the start and keeps the distances of every iteration."""

    def __init__(self, start):
        self.start, self.found = start, []

    def on_train_start(self, trainer, pl_module):
        pl_module.images.data.copy_(self.start)
        matched = pl_module.match

        def match(batch):
            result = matched(batch)
            self.found.append(result[0])
            return result

        pl_module.match = match


def golden_network(data):
    def make(channels, size, num_classes):
        made = ConvNet(channels, size, num_classes, width=8)
        made.load_state_dict({k[5:].replace("__", "."): v for k, v in data.items() if k.startswith("net__")})
        return made

    return make


def run_of_golden(tmp_path, module, start, real, batch_real, steps):
    """Run a module on 3 classes in double precision from a start; returns the distances of all iterations."""
    n = real.shape[1]
    labels = torch.arange(3).repeat_interleave(n)
    meta = DatasetMeta("golden", ("a", "b", "c"), 3, (16, 16), MEAN, STD)
    data = InMemoryData(
        labeled_images((real.flatten(0, 1), labels), meta.class_names), meta=meta, batch_real=batch_real, pool_batch=4
    )
    watch = Watch(start)
    trainer(tmp_path, steps, precision="64-true", callbacks=[watch]).fit(module, datamodule=data)
    return torch.stack(watch.found)


class OfDC(GradientMatching):
    """Reads the real images, which are no multiples of 1/255, by number: a pixel is the number of its image."""

    real: torch.Tensor

    def normalize(self, images):
        return self.real.flatten(0, 1)[images[..., 0, 0, 0].long()]


def test_a_run_of_dc_with_training_on_the_synthetic_set(golden, tmp_path):
    data = golden("dc_loss")
    networks = NetworkSettings(renew_every=3, synthetic_epochs=2)
    module = OfDC(ipc=2, network=golden_network(data), networks=networks, augment=NoAugmentation(), acceleration="off")
    module.real = data["real"]
    numbers = torch.arange(24, dtype=torch.uint8).view(3, 8, 1, 1, 1).expand(3, 8, 3, 16, 16)
    found = run_of_golden(tmp_path, module, data["syn"].flatten(0, 1), numbers, 8, 3)
    torch.testing.assert_close(found, data["run_losses"], rtol=1e-11, atol=0)
    moved = module.images.detach() - data["syn"].flatten(0, 1)
    torch.testing.assert_close(moved, data["run_after"].flatten(0, 1), rtol=0, atol=1e-13)
    for name in ("weight", "bias"):
        wanted = data[f"run_last_{name}"]
        torch.testing.assert_close(module.matched.weights[f"classifier.{name}"], wanted, rtol=0, atol=1e-14)


def test_a_run_of_idc_with_tiles_a_step_per_class_and_clamps_in_pixels(golden, tmp_path):
    data = golden("idc_loss")
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (MEAN, STD))
    module = GradientMatching(
        ipc=2, factor=2, distance=SquaredError("convolutions"), network=golden_network(data),
        networks=NetworkSettings(renew_every=2, synthetic_epochs=0), augment=NoAugmentation(), lr=0.05, momentum=0.5,
        space="pixels", clamp_pixels=True, per_class_steps=True, acceleration="off", start=Start("noise"),
    )  # fmt: skip
    start = (data["run_start"].flatten(0, 1) - mean) / std
    real = (data["real"] * 255).round().to(torch.uint8)
    found = run_of_golden(tmp_path, module, start, real, 4, 4)
    torch.testing.assert_close(found, data["run_losses"], rtol=1e-11, atol=0)
    # The published tensor at the end of the last iteration: earlier classes have not moved on yet.
    (state,) = module.trainer.optimizers[0].state.values()
    c = torch.arange(3.0, dtype=torch.float64).repeat_interleave(2).view(-1, 1, 1, 1)
    ahead = 0.05 * 0.5 ** (3 - c) * (1 - 0.5**c) / 0.5 * state["momentum_buffer"]
    after = (module.images.detach() + ahead) * std + mean
    torch.testing.assert_close(after, data["run_after"].flatten(0, 1), rtol=0, atol=1e-12)


def matched(root, steps=3, flags=None, data=None, **settings):
    module = GradientMatching(**{"ipc": 1, "network": small, "acceleration": "off", **settings})
    return distill(root, steps, module=module, flags=flags, data=data)


DOUBLE = {"precision": "64-true"}


@pytest.mark.parametrize("settings", GRADIENT_FRAMES.values(), ids=GRADIENT_FRAMES)
def test_chunks_blocks_and_side_by_side_change_nothing_but_rounding(tmp_path, settings, monkeypatch):
    whole = matched(tmp_path / "a", flags=DOUBLE, **settings)
    chunks = matched(tmp_path / "b", flags=DOUBLE, memory_gib=1e-6, **settings)
    assert chunks._real_chunk < 8 <= whole._real_chunk
    torch.testing.assert_close(whole.images, chunks.images, atol=1e-8, rtol=0)
    monkeypatch.setattr(GradientMatching, "_block_rows", lambda self: 3)  # the last block has one class
    monkeypatch.setattr(
        "bacon_pl.distillers.gradient_matching.WeightGradients", partial(WeightGradients, side_by_side=True)
    )
    blocks = matched(tmp_path / "c", flags=DOUBLE, **settings)
    torch.testing.assert_close(whole.images, blocks.images, atol=1e-8, rtol=0)


def test_all_images_of_small_classes_are_used_and_large_sets_are_drawn_from(tmp_path):
    settings = {"networks": NetworkSettings(synthetic_epochs=1, batch_size=7), "factor": 2, "start": Start("tiles")}
    module = matched(tmp_path / "a", 1, data={"batch_real": 1000}, **settings)  # digits differ in number: rows masked
    assert module.images.isfinite().all()
    some = matched(tmp_path / "b", 1, synthetic_batch=3, augment=NoAugmentation(), **settings)
    start = matched(tmp_path / "c", 1, lr=1e-30, **settings)
    moved = (some.images - start.images).detach().view(10, 2, 4, 2, 4).abs().amax((2, 4)).flatten(1)
    assert ((moved > 0).sum(1) == 3).all()  # 3 of 4 tiles of every class had a gradient


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_second_derivatives_never_meet_fused_kernels(tmp_path, precision, monkeypatch):
    from bacon_pl.networks import fused

    if fused.compiler() is None:
        pytest.skip("needs a C++ compiler")
    fused.load()
    module = matched(tmp_path, 2, flags={"precision": precision}, network=partial(ConvNet, width=4, depth=2))
    assert module.images.isfinite().all()


def test_batch_norms_see_real_images_and_a_network_is_trained_until_it_is_replaced(tmp_path):
    networks = NetworkSettings(renew_every=2, synthetic_epochs=2, augment=DSA(["crop"]), mixing=CutMix())
    settings = {"networks": networks, "network": partial(ConvNet, width=4, depth=2, norm="batch")}
    one, two, three = (matched(tmp_path / str(n), n, **settings).matched for n in (1, 2, 3))
    assert (one.number, two.number, three.number) == (0, 0, 1)
    key = "features.1.running_var"
    assert not torch.equal(one.buffers[key], torch.ones(4)) and not torch.equal(one.buffers[key], two.buffers[key])
    fresh = one.make(0).state_dict()
    assert not torch.equal(one.weights["classifier.weight"], fresh["classifier.weight"])
    # The second training would be for nothing, since the third iteration has another network.
    assert torch.equal(one.weights["classifier.weight"], two.weights["classifier.weight"])


def test_batch_norms_see_sixteen_images_of_each_class(tmp_path, monkeypatch):
    seen, see = [], MatchedNetwork.see
    monkeypatch.setattr(MatchedNetwork, "see", lambda self, x: seen.append(len(x)) or see(self, x))
    matched(tmp_path, 1, network=partial(ConvNet, width=4, depth=2, norm="batch"), data={"batch_real": 40})
    assert seen == [160]


def test_a_longer_life_of_a_network_is_more_training(tmp_path):
    untrained = NetworkSettings(renew_every=3, synthetic_epochs=0)
    real = NetworkSettings(renew_every=3, synthetic_epochs=0, real_steps=2, momentum=0.9, weight_decay=5e-4)
    none, some = (matched(tmp_path / str(i), 2, networks=n).matched for i, n in enumerate((untrained, real)))
    assert torch.equal(none.weights["classifier.weight"], none.make(0).classifier.weight)
    assert not torch.equal(some.weights["classifier.weight"], none.weights["classifier.weight"])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"lr": 0.0}, "--model.lr must be positive"),
        ({"momentum": 1.0}, r"--model.momentum must be in \[0, 1\)"),
        ({"memory_gib": 0.0}, "--model.memory_gib must be positive"),
        ({"synthetic_batch": 0}, "--model.synthetic_batch must be at least 1"),
        ({"space": "pixel"}, "unknown --model.space 'pixel'"),
        ({"data": {"whitening": "zca"}, "clamp_pixels": True}, "--model.clamp_pixels cannot be used with"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, settings, says):
    with pytest.raises(BaconError, match=says):
        matched(tmp_path, 1, **settings)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"renew_every": 0}, "--model.networks.renew_every must be at least 1"),
        ({"synthetic_epochs": -1}, "--model.networks.synthetic_epochs must be at least 0"),
        ({"real_steps": -1}, "--model.networks.real_steps must be at least 0"),
        ({"lr": 0.0}, "--model.networks.lr must be positive"),
        ({"momentum": 1.0}, "--model.networks.momentum must be in"),
        ({"weight_decay": -1.0}, "--model.networks.weight_decay must be zero or positive"),
        ({"augment": RandAugment()}, "RandAugment takes pixels.*use DSA or Chain"),
    ],
)
def test_bad_networks_are_one_sentence(settings, says):
    with pytest.raises(BaconError, match=says):
        NetworkSettings(**settings)


class Wrong(LayerwiseCosine):
    def between(self, real, syn):
        return super().between(real, syn).sum()


def test_a_distance_of_ones_own_must_give_one_number_for_each_class(tmp_path):
    with pytest.raises(
        BaconError, match=r"Wrong must give one number for each class, shape \(1,\) here; it gives \(\)"
    ):
        matched(tmp_path, 1, distance=Wrong())


def test_augmentation_is_shared_by_real_and_synthetic_images(tmp_path):
    # If a class's only real images are its synthetic ones, their gradients agree whatever is drawn.
    class Same(GradientMatching):
        def normalize(self, images):
            return self.synthetic.by_class()[self.asked].detach() if images.ndim == 5 else super().normalize(images)

        def _drawn(self, canvases, classes, iteration):
            return canvases

    module = Same(ipc=2, network=small, augment=Chain(["color", ["crop", "rotate"], "cutout"]), acceleration="off")
    fit = trainer(tmp_path, 1, precision="64-true")
    seen = []
    inner = Same.match

    def match(self, batch):
        drawn = batch.matching

        def matching(classes=None):
            self.asked = classes
            return drawn(classes)

        batch.matching = matching
        seen.append(inner(self, batch)[0])
        return seen[-1], torch.zeros_like(self.images)

    Same.match = match
    fit.fit(module, datamodule=digits())
    assert seen[0].abs().max() < 0.1  # of about 2·28 at most: 1e-6 in the denominators alone
