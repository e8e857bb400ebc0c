"""What images are recovered by: golden numbers of the losses, the views and the steps of SRe2L."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bacon_pl.augment import View, Views
from bacon_pl.distillers.recovery import batches
from bacon_pl.distillers.squeeze import Squeezed
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.objectives.recovery import image_l2, tv_l2

EXACT = {"rtol": 1e-10, "atol": 1e-12}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # mean and deviation


@pytest.fixture
def g(golden):
    return golden("sre2l_bn")


@pytest.fixture
def teacher(g):
    network = ConvNet(3, (8, 8), 4, width=6, depth=2, norm="batch").double()
    state = {name.removeprefix("net."): value for name, value in g.items() if name.startswith("net.")}
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    return Squeezed(network, float(g["first_bn_multiplier"]))


def gradient(loss, x):
    return torch.autograd.grad(loss, x, retain_graph=True)[0]


def test_losses(g, teacher):
    x = g["inputs"].clone().requires_grad_()
    logits, gap = teacher(x)
    ce = torch.nn.functional.cross_entropy(logits, g["labels"])
    total = ce + g["r_bn"] * gap
    found = {"logits": logits, "bn_loss": gap, "ce": ce, "total": total, "tv_l2": tv_l2(x), "image_l2": image_l2(x)}
    found |= {"grad_bn": gradient(gap, x), "grad_ce": gradient(ce, x), "grad_total": gradient(total, x)}
    found |= {"grad_tv_l2": gradient(found["tv_l2"], x), "grad_image_l2": gradient(found["image_l2"], x)}
    for name, value in found.items():
        torch.testing.assert_close(value, g[name], **EXACT, msg=name)


def test_each_layers_gap(g, teacher):
    first, others = g["layer_losses"]
    torch.testing.assert_close(teacher(g["inputs"])[1], 10 * first + others, **EXACT)


def test_views(g):
    for params, output, grad in zip(g["aug_params"], g["aug_outputs"], g["aug_grads"], strict=True):
        x = g["inputs"].clone().requires_grad_()
        shown = View(*map(int, params))(x)
        torch.testing.assert_close(shown, output, **EXACT)
        torch.testing.assert_close(gradient((g["aug_weights"] * shown).sum(), x), grad, **EXACT)


def test_steps(g, teacher):
    """Three of Adam's steps at the ends and in the middle of the cosine; the pixels are clamped after each."""
    x = torch.nn.Parameter(g["inputs"].clone())
    adam = torch.optim.Adam([x], betas=(0.5, 0.9), eps=1e-8)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in IMAGENET)
    low, high = ((v - mean) / std for v in (0.0, 1.0))
    for i, t in enumerate(g["step_iterations"].tolist()):
        adam.param_groups[0]["lr"] = 0.25 * (1 + math.cos(math.pi * t / int(g["iterations"]))) / 2
        torch.testing.assert_close(adam.param_groups[0]["lr"], float(g["step_lr"][i]), **EXACT)
        logits, gap = teacher(View(*map(int, g["aug_params"][i]))(x))
        loss = torch.nn.functional.cross_entropy(logits, g["labels"]) + g["r_bn"] * gap
        torch.testing.assert_close(loss.detach(), g["step_losses"][i], **EXACT)
        x.grad = gradient(loss, x)
        adam.step()
        x.data.clamp_(low, high)
        torch.testing.assert_close(x.detach(), g["step_inputs"][i], **EXACT)


@given(st.tuples(st.integers(1, 40), st.integers(1, 40)), st.floats(0.01, 1.0), st.integers(0, 2**63))
def test_a_view_crops_within_the_image(size, min_area, seed):
    view = Views(min_area=min_area).draw(size, 0.5, seed, "view")
    assert view.top >= 0 and view.top + view.height <= size[0]
    assert view.left >= 0 and view.left + view.width <= size[1]
    assert min(view.height, view.width) >= 1
    assert view == Views(min_area=min_area).draw(size, 0.5, seed, "view")


def test_the_curriculum_falls_from_whole_images_to_the_smallest_crop():
    views = Views(min_area=0.08, curriculum="cosine")
    shares = [views.smallest(t / 4000) for t in range(4000)]
    assert shares[0] == 1 and shares[2000] == pytest.approx(0.54) and shares[-1] == pytest.approx(0.08, abs=1e-5)
    assert shares == sorted(shares, reverse=True)
    assert Views(min_area=0.08).smallest(0.0) == 0.08
    assert views.draw((32, 32), 0.0, 1, "view")[:4] == (0, 0, 32, 32)


def test_views_without_crop_and_flip_only_roll():
    seen = {Views(min_area=None, flip=False, roll=(-2, 3)).draw((9, 7), 0.5, seed) for seed in range(400)}
    assert {view[:5] for view in seen} == {(0, 0, 9, 7, False)}
    assert {view.down for view in seen} == {view.right for view in seen} == set(range(-2, 4))
    assert len(seen) == 36


def test_half_of_the_views_are_flipped():
    views = Views(min_area=None)
    flipped = sum(views.draw((8, 8), 0.0, 0, "view", 0, t).flipped for t in range(2000))
    assert 900 < flipped < 1100


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_area": 0.0}, "min_area must be in"),
        ({"min_area": 1.5}, "min_area must be in"),
        ({"min_area": None, "curriculum": "cosine"}, "there are none"),
        ({"curriculum": "linear"}, "curriculum must be cosine or null"),
        ({"roll": (4, 0)}, "the smaller first"),
    ],
)
def test_odd_views_are_refused(settings, message):
    with pytest.raises(BaconError, match=message):
        Views(**settings)


@pytest.mark.parametrize(
    ("classes", "ipc", "size", "each"),
    [(10, 10, 100, [100]), (10, 25, 100, [100, 100, 50]), (100, 2, 100, [100, 100]), (200, 2, 100, [100] * 4),
     (150, 1, 100, [100, 50]), (10, 1, 100, [10]), (10, 3, 5, [5] * 6)],
)  # fmt: skip
def test_batches_mix_classes_and_hold_every_image_once(classes, ipc, size, each):
    found = batches(classes, ipc, size)
    assert [len(rows) for rows in found] == each
    assert torch.equal(torch.cat(found).sort().values, torch.arange(classes * ipc))
    for rows in found:
        counts = torch.bincount(rows // ipc)
        assert len(counts[counts > 0].unique()) == 1  # the same number of every class that is there
