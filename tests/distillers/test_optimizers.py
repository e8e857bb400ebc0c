"""The images' optimizers within a run: what space and weight decay mean, and that a resume changes no bit."""

import pytest
import torch

from bacon_pl.checkpoints import Checkpoints
from bacon_pl.distillers.conditional import taken_if
from bacon_pl.errors import BaconError
from bacon_pl.objectives import MeanMatching
from tests.distillers.running import distill, fit, matching, resume

DIRECT = {"objective": MeanMatching(), "cross_entropy": None, "factor": 1, "acceleration": "off"}


def step(root, **settings):
    """The images' change in the first iteration, and the data's std."""
    start = distill(root / "start", 1, **DIRECT, lr=1e-9).images.detach()
    module = distill(root / "moved", 1, **DIRECT, **settings)
    return module.images.detach() - start, module.meta.std[0]


def test_a_step_in_pixel_space_is_the_same_rate_by_the_pixels_gradient(tmp_path):
    normalized, std = step(tmp_path / "a", lr=0.1, per_class_steps=False)
    pixels, _ = step(tmp_path / "b", lr=0.1, per_class_steps=False, space="pixels")
    assert normalized.abs().max() > 1e-4
    torch.testing.assert_close(pixels, normalized / std**2, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("space", ["normalized", "pixels"])
def test_adamws_first_step_is_its_rate(tmp_path, space):
    moved, std = step(tmp_path, lr=0.01, optimizer="adamw", per_class_steps=False, space=space)
    wanted = 0.01 / (std if space == "pixels" else 1)
    moves = moved[moved.abs() > wanted / 2].abs()
    assert len(moves) > 100
    torch.testing.assert_close(moves, torch.full_like(moves, wanted), rtol=1e-2, atol=0)


def test_adamw_goes_on_bit_for_bit(tmp_path):
    settings = {**DIRECT, "optimizer": "adamw", "lr": 0.01, "weight_decay": 5e-4, "space": "pixels"}
    whole = fit(matching(**settings), tmp_path / "whole", 4)
    fit(matching(**settings), tmp_path / "half", 2, Checkpoints(2))
    again = resume(matching(**settings), tmp_path / "half", 4)
    assert again.images.equal(whole.images)


def test_gradients_shorter_than_the_bound_are_not_clipped(tmp_path):
    free, bound = (distill(tmp_path / str(most), 2, clip_gradient=most).images for most in (0.0, 1e9))
    assert torch.equal(free, bound)


def test_a_step_that_is_not_taken_leaves_the_momentum():
    p = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([p], 0.1, momentum=0.9)
    p.grad = torch.ones(3)
    optimizer.step()
    with taken_if(torch.tensor(False), [optimizer], []):
        p.grad = torch.full((3,), 5.0)
        optimizer.step()
    assert torch.equal(optimizer.state[p]["momentum_buffer"], torch.ones(3))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adam"}, "adamw"),
        ({"space": "pixel"}, "pixels"),
        ({"weight_decay": 0.1}, "AdamW's alone"),
        ({"weight_decay": -0.1, "optimizer": "adamw"}, "zero or positive"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(BaconError, match=said):
        matching(**settings)
