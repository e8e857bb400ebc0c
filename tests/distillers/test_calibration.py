"""NCFM's second step: cross-entropy under the pair's trained network."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from bacon_pl.distillers.calibration import calibrate
from bacon_pl.distillers.pixel_adamw import PixelAdamW
from bacon_pl.errors import BaconError
from bacon_pl.partition import expand
from tests.distillers.running import digits, distill, small, trainer
from tests.distillers.test_pairs import NCFM_FRAME, PAIRS


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))


def test_its_gradient_is_that_of_the_trained_network_on_newly_augmented_images(tmp_path):
    module = distill(tmp_path, 2, ipc=2, factor=2, **NCFM_FRAME)
    run = trainer(tmp_path / "again", 1)  # the finished run's module still knows its data
    module.trainer = run
    run.datamodule = digits()
    t = 7
    module.pool.advance(t)
    term, gradient = calibrate(module, t, 0.5)
    network = small(1, (8, 8), 10)
    network.load_state_dict(module.pool.networks.state(module.pool.matched(t), PAIRS.epochs))
    canvases = module.images.detach().unflatten(0, (10, 2)).requires_grad_()
    classes = torch.arange(10)
    x = module.augment.siamese(expand(canvases, 2), classes, module.seed, "calibration augment", t)
    logits = network.eval()(x.flatten(0, 1))[1]
    losses = F.cross_entropy(logits, classes.repeat_interleave(8), reduction="none").view(10, 8).mean(1)
    torch.testing.assert_close(term, 0.5 * losses.detach(), rtol=1e-5, atol=1e-6)
    by_hand = torch.autograd.grad(0.5 * losses.sum(), canvases)[0].flatten(0, 1)
    torch.testing.assert_close(gradient, by_hand, rtol=1e-4, atol=1e-6)


def test_it_is_a_step_of_its_own_and_logged(tmp_path):
    steps = []
    for weight in (0.0, 2.0):
        settings = {**NCFM_FRAME, "pairs": replace(PAIRS, calibration=weight), "optimizer": "adamw", "lr": 0.01}
        module = distill(tmp_path / str(weight), 3, **settings)
        (state,) = module.trainer.optimizers[0].state.values()
        steps.append(state["step"])
        assert ("loss/calibration" in module.trainer.callback_metrics) == (weight > 0)
    assert steps == [30, 60]  # a step per class, and once more


def test_classes_approach_their_turn_before_each_of_both_steps(tmp_path, monkeypatch):
    calls = []
    for name in ("approach", "step"):
        own = getattr(PixelAdamW, name)
        monkeypatch.setattr(PixelAdamW, name, lambda self, *a, own=own, name=name: calls.append(name) or own(self, *a))
    distill(tmp_path, 1, **{**NCFM_FRAME, "optimizer": "adamw", "lr": 0.01})
    assert calls == ["approach", "step"] * 2


def test_its_weight_is_checked():
    with pytest.raises(BaconError, match="calibration must be zero or positive"):
        replace(PAIRS, calibration=-1.0)
