"""Prior and likelihood: normalized, minus the loss's terms, and stable where they end."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate

from bacon_pl.bound import BoundSettings, check_prior, log_likelihood, log_prior
from bacon_pl.errors import BaconError
from bacon_pl.objectives import BaconObjective
from bacon_pl.objectives import functional as F
from tests.bound.quadrature import densities, kinks


@given(densities, st.floats(0, 8))
def test_prior_is_normalized(density, s):
    tv_weight, clip = density

    def p(v):
        difference, std = torch.tensor([v], dtype=torch.float64), torch.tensor([s], dtype=torch.float64)
        return log_prior(difference, std, tv_weight, clip).exp().item()

    edges = [-math.inf, *kinks(s, clip), math.inf]
    assert sum(integrate.quad(p, a, b)[0] for a, b in pairwise(edges)) == pytest.approx(1, abs=1e-6)


@given(densities, st.lists(st.floats(-3, 3), min_size=1, max_size=4))
def test_prior_is_minus_the_losses_terms(density, differences):
    # Two points: their constants are the same, so the difference is that of the training loss's own terms.
    tv_weight, clip = density
    v = torch.tensor(differences, dtype=torch.float64)
    std = torch.linspace(0, 2, len(v), dtype=torch.float64)
    found = log_prior(v, std, tv_weight, clip) - log_prior(torch.zeros_like(v), std, tv_weight, clip)
    zero = torch.zeros_like(v)[None]
    loss = tv_weight * F.total_variation(v[None], zero) + (1 - tv_weight) * F.clip(v[None], zero, std[None], clip)
    torch.testing.assert_close(found, -loss[0])


def test_likelihood_is_minus_the_losses_term():
    generator = torch.Generator().manual_seed(0)
    z_syn, z_real = (torch.randn(2, n, 3, generator=generator, dtype=torch.float64) for n in (1, 9))
    mean, std = F.moments(z_real)
    loss = BaconObjective().terms({"z": z_syn}, {"z": z_real})["likelihood"]
    torch.testing.assert_close(log_likelihood(z_syn[:, 0] - mean, std), -loss)


def test_normalizer_is_stable_at_its_ends():
    for dtype in (torch.float32, torch.float64):
        std = torch.tensor([0.0, 1e-6, 1.0, 1e3, 1e6], dtype=dtype)
        for tv_weight in (0.0, 5e-324, 1e-12, 1e-6, 0.5, 1 - 1e-12, 1.0):
            for clip in ("acting", "symmetric"):
                assert log_prior(torch.zeros(5, 1, dtype=dtype), std[:, None], tv_weight, clip).isfinite().all()
    # A wide Gaussian-tailed interval tends to the Laplace density of λ = 1.
    near = log_prior(torch.ones(1), torch.ones(1), 1 - 1e-7, "acting")
    torch.testing.assert_close(near, log_prior(torch.ones(1), torch.ones(1), 1.0, "acting"), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"tv_weight": 0.0, "clip": "none"}, "prior with tv_weight 0 and clip none is flat everywhere"),
        ({"tv_weight": 1.2}, r"tv_weight must be in \[0, 1\]"),
        ({"clip": "actng"}, "Did you mean 'acting'"),
        ({"samples": 1}, "samples must be at least 2"),
        ({"epsilon": 0.0}, "epsilon must be positive"),
        ({"epsilon": math.nan}, "epsilon must be positive"),
    ],
)
def test_bad_settings_are_one_sentence(settings, sentence):
    with pytest.raises(BaconError, match=sentence):
        BoundSettings(**settings)
    if {"tv_weight", "clip"} >= settings.keys():
        with pytest.raises(BaconError, match=sentence):
            check_prior(**{"tv_weight": 0.8, "clip": "acting", **settings})
