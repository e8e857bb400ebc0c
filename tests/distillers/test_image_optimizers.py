"""Steps of all classes at once, against torch's optimizers one class after another with gradients of the places."""

import copy

import pytest
import torch

from bacon_pl.distillers import pixel_adamw
from bacon_pl.distillers.batched_sgd import ImageSGD
from bacon_pl.distillers.pixel_adamw import PixelAdamW

CLASSES, ROUNDS = 5, 6
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def start_and_target():
    generator = torch.Generator().manual_seed(0)
    start, target = torch.rand(2, 10, 3, 2, 2, generator=generator, dtype=torch.float64).unbind()
    return start, 2 * target - 0.5  # so that clamping matters


def in_pixels(images):
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    return images * std + mean


def gradient(x, target):
    return 3 * (x - target) + torch.sin(20 * x)


def one_after_another(theirs, pixels, target, clamped):
    for _ in range(ROUNDS):
        if clamped:
            with torch.no_grad():
                pixels.clamp_(0, 1)
        for turn in range(CLASSES):
            rows = slice(2 * turn, 2 * turn + 2)
            pixels.grad = torch.zeros_like(pixels)
            pixels.grad[rows] = gradient(pixels.detach()[rows], target[rows])
            theirs.step()


def all_at_once(ours, images, target, clamped):
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    for k in range(ROUNDS):
        ours.approach()
        images.grad = gradient(in_pixels(images.detach()), target) * std  # by the normalized images
        ours.step()
        if clamped and k < ROUNDS - 1:
            ours.clamp((0 - mean) / std, (1 - mean) / std)


def normalized(pixels):
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    return torch.nn.Parameter((pixels - mean) / std)


@pytest.mark.parametrize("clamped", [False, True])
@pytest.mark.parametrize("few", [0, 100])
def test_adamw_takes_each_gradient_where_its_class_is_at_its_turn(monkeypatch, few, clamped):
    monkeypatch.setattr(pixel_adamw, "FEW_CLASSES", few)
    start, target = start_and_target()
    pixels, images = torch.nn.Parameter(start.clone()), normalized(start)
    settings = {"lr": 0.05, "weight_decay": 0.1, "eps": 1e-18}  # the closed form is exact but for eps
    one_after_another(torch.optim.AdamW([pixels], **settings), pixels, target, clamped)
    all_at_once(PixelAdamW(images, MEAN, STD, CLASSES, **settings), images, target, clamped)
    torch.testing.assert_close(in_pixels(images.detach()), pixels.detach(), rtol=0, atol=1e-11)
    assert (pixels < 0).any() or (pixels > 1).any()


@pytest.mark.parametrize("clamped", [False, True])
def test_sgd_takes_each_gradient_where_its_class_is_at_its_turn(clamped):
    start, target = start_and_target()
    lr, m = 0.1, 0.7
    pixels, images = torch.nn.Parameter(start.clone()), normalized(start)
    one_after_another(torch.optim.SGD([pixels], lr=lr, momentum=m), pixels, target, clamped)
    ours = ImageSGD(images, CLASSES, lr, m, std=STD)
    all_at_once(ours, images, target, clamped)
    # It holds the images at their turns in the next round. Back to the end of the last one:
    everywhere = torch.full((3, 1, 1), torch.inf, dtype=torch.float64)
    begun = images.detach().clone()
    ours.clamp(-everywhere, everywhere)
    torch.testing.assert_close(images.detach(), begun, rtol=0, atol=1e-14)
    velocity = ours.state[images]["momentum_buffer"]
    c = torch.arange(CLASSES, dtype=torch.float64).repeat_interleave(2).view(-1, 1, 1, 1)
    ahead = lr * m ** (CLASSES - c) * (1 - m**c) / (1 - m) * velocity
    torch.testing.assert_close(in_pixels(begun + ahead), pixels.detach(), rtol=0, atol=1e-12)
    assert (pixels < 0).any() or (pixels > 1).any()


def test_a_copy_goes_on_alike():
    start, target = start_and_target()
    images = normalized(start)
    ours = ImageSGD(images, CLASSES, 0.1, 0.7, std=STD)
    all_at_once(ours, images, target, clamped=True)
    other = copy.deepcopy(ours)
    (others,) = other.param_groups[0]["params"]
    all_at_once(ours, images, target, clamped=True)
    all_at_once(other, others, target, clamped=True)
    assert torch.equal(images, others) and images is not others


def test_one_step_for_all_classes_is_torchs_sgd():
    start, target = start_and_target()
    pixels, images = torch.nn.Parameter(start.clone()), normalized(start)
    theirs, ours = torch.optim.SGD([pixels], lr=0.1, momentum=0.7), ImageSGD(images, CLASSES, 0.1, 0.7, False, STD)
    for _ in range(ROUNDS):
        pixels.grad = gradient(pixels.detach(), target)
        theirs.step()
    all_at_once(ours, images, target, clamped=False)
    torch.testing.assert_close(in_pixels(images.detach()), pixels.detach(), rtol=0, atol=1e-12)
