"""AdamW per class against golden numbers, and against torch's own optimizer."""

import pickle

import pytest
import torch

from bacon_pl.distillers import pixel_adamw
from bacon_pl.distillers.pixel_adamw import PixelAdamW


def test_steps_per_class_match_golden(golden):
    data = golden("ncfm_loss")
    images = torch.nn.Parameter(data["adam_start"].clone().view(3, 1, 1, 5))
    optimizer = PixelAdamW(images, (0.0,), (1.0,), 3, lr=0.001, weight_decay=5e-4)
    for gradients, after in zip(data["adam_gradients"], data["adam_after"], strict=True):
        with torch.no_grad():
            images.clamp_(0, 1)
        for gradient in gradients:
            optimizer.approach()
            images.grad = gradient.view_as(images)
            optimizer.step()
        torch.testing.assert_close(images.detach().view(3, 5), after, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("per_class", [False, True])
def test_it_is_torchs_adamw_on_pixels(per_class):
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(6, 3, 4, 4, generator=generator, dtype=torch.float64)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    center, scale = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (mean, std))
    pixels = torch.nn.Parameter(start.clone())
    images = torch.nn.Parameter((start - center) / scale)
    theirs = torch.optim.AdamW([pixels], lr=0.01, weight_decay=0.1)
    ours = PixelAdamW(images, mean, std, 3, lr=0.01, weight_decay=0.1, per_class_steps=per_class)
    for _ in range(5):
        gradient = torch.randn(start.shape, generator=generator, dtype=torch.float64)
        ours.approach()
        images.grad = gradient * scale  # by the normalized images
        ours.step()
        for turn in range(3 if per_class else 1):
            rows = slice(2 * turn, 2 * turn + 2) if per_class else slice(None)
            pixels.grad = torch.zeros_like(gradient)
            pixels.grad[rows] = gradient[rows]
            theirs.step()
    torch.testing.assert_close(images.detach() * scale + center, pixels.detach(), rtol=1e-12, atol=1e-13)


def test_the_closed_form_of_many_classes_is_the_steps_one_by_one(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    start = torch.rand(40, 1, 3, 3, generator=generator, dtype=torch.float64)
    gradients = torch.randn(4, *start.shape, generator=generator, dtype=torch.float64)
    found = []
    for few in (0, 100):
        monkeypatch.setattr(pixel_adamw, "FEW_CLASSES", few)
        images = torch.nn.Parameter(start.clone())
        optimizer = PixelAdamW(images, (0.5,), (0.3,), 20, lr=0.01, weight_decay=0.1, eps=1e-18)
        for gradient in gradients:
            optimizer.approach()
            images.grad = gradient
            optimizer.step()
        found.append((images.detach().clone(), optimizer.state[images]))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-11, atol=1e-12)
    for name in ("step", "mean", "square"):
        torch.testing.assert_close(found[0][1][name], found[1][1][name], rtol=1e-12, atol=1e-14)


def test_copies_of_optimizers_go_on():
    images = torch.nn.Parameter(torch.rand(4, 1, 3, 3, dtype=torch.float64))
    ours = PixelAdamW(images, (0.5,), (0.3,), 2, lr=0.01)
    images.grad = torch.ones_like(images)
    ours.step()
    other = pickle.loads(pickle.dumps(ours))
    (copied,) = other.param_groups[0]["params"]
    for one, parameter in ((ours, images), (other, copied)):
        one.approach()
        parameter.grad = torch.ones_like(parameter)
        one.step()
    assert torch.equal(copied, images)
