"""The ball's volume and the draws from it."""

import math

import pytest
import torch
from scipy import stats

from bacon_pl.bound import draw_in_ball, log_volume


def test_volume_of_small_dimensions():
    radius = torch.tensor([0.5, 3.0], dtype=torch.float64)
    for d, volume in ((1, 2 * radius), (2, math.pi * radius**2), (3, 4 / 3 * math.pi * radius**3)):
        torch.testing.assert_close(log_volume(d, radius), volume.log())


@pytest.mark.parametrize("d", [1, 2, 5, 200])
def test_draws_are_uniform_in_the_ball(d):
    draws = draw_in_ball(20_000, d, 3, "ball", dtype=torch.float64)
    radius = draws.norm(dim=1)
    assert radius.max() <= 1
    assert stats.kstest((radius**d).numpy(), "uniform").pvalue > 1e-3
    # Mean 0 and covariance I / (d + 2), each within five standard errors.
    assert draws.mean(0).abs().max() < 5 / math.sqrt(20_000 * (d + 2))
    covariance = (d + 2) * draws.T @ draws / len(draws)
    assert (covariance - torch.eye(d)).abs().max() < 5 * math.sqrt(2 / 20_000) * 1.2
    # A circle's angles are uniform, too.
    if d == 2:
        angle = torch.atan2(draws[:, 1], draws[:, 0]) / (2 * math.pi) + 0.5
        assert stats.kstest(angle.numpy(), "uniform").pvalue > 1e-3


def test_draws_depend_on_their_keys_and_place_alone():
    few, many = draw_in_ball(3, 7, 1, "a", 5), draw_in_ball(9, 7, 1, "a", 5)
    assert torch.equal(few, many[:3])
    assert not torch.equal(few, draw_in_ball(3, 7, 1, "a", 6))
