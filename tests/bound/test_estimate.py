"""The bound against integrals by quadrature, the risk against counting."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, special

from bacon_pl.bound import (
    BoundSettings,
    Measured,
    bound,
    draw_in_ball,
    log_likelihood,
    log_prior,
    log_volume,
    measure,
    median_distance,
    risk,
)
from bacon_pl.objectives import functional as F
from tests.bound.quadrature import CLIPS, constant, densities, kinks, log_density, ours

places = st.tuples(st.floats(-3, 3), st.floats(0.1, 2))  # z̃ - μ and s of a dimension
radii = st.floats(0.05, 4)


def compare(found, log_integral, mean_log, quadrature=1e-6):
    """The estimate is the mean of the logarithm within its error, so never above the logarithm of the integral."""
    slack = 6 * found.se.item() + quadrature
    assert found.value.item() == pytest.approx(mean_log, abs=slack)
    assert found.value.item() <= log_integral + slack
    assert found.value.item() <= found.integral.item()
    assert mean_log <= log_integral + quadrature


@given(places, radii, densities)
@settings(deadline=None)
def test_bound_in_one_dimension(place, epsilon, density):
    (offset, s), (tv_weight, clip) = place, density
    c = [constant(s, tv_weight, clip)]

    def log(step):
        return log_density([step], [offset], [0.0], [s], tv_weight, clip, c)

    points = sorted(p for p in (k - offset for k in kinks(s, clip)) if abs(p) < epsilon)
    edges = [-epsilon, *points, epsilon]
    pieces = list(pairwise(edges))
    top = max(log(t) for t in np.linspace(-epsilon, epsilon, 1001))  # a narrow density may be tiny in all the ball
    integral = sum(integrate.quad(lambda t: math.exp(log(t) - top), a, b)[0] for a, b in pieces)
    mean_log = sum(integrate.quad(log, a, b)[0] for a, b in pieces) / (2 * epsilon)
    found = ours([offset], [0.0], [s], epsilon, tv_weight, clip)
    compare(found, top + math.log(integral), math.log(2 * epsilon) + mean_log)


@given(st.tuples(places, places), radii, densities)
@settings(deadline=None, max_examples=12)
def test_bound_in_two_dimensions(two, epsilon, density):
    tv_weight, clip = density
    z, s = zip(*two, strict=True)
    c = [constant(deviation, tv_weight, clip) for deviation in s]

    def over_the_disc(f):
        edge = lambda x: math.sqrt(max(0.0, epsilon**2 - x * x))  # noqa: E731
        options = {"epsabs": 1e-5, "epsrel": 1e-5}
        return integrate.dblquad(f, -epsilon, epsilon, lambda x: -edge(x), edge, **options)[0]

    def log(y, x):
        return log_density([x, y], z, [0.0, 0.0], s, tv_weight, clip, c)

    area = math.pi * epsilon**2
    grid = np.linspace(-epsilon, epsilon, 41)
    top = max(log(y, x) for x in grid for y in grid if math.hypot(x, y) <= epsilon)
    integral, mean_log = over_the_disc(lambda y, x: math.exp(log(y, x) - top)), over_the_disc(log) / area
    found = ours(z, [0.0, 0.0], s, epsilon, tv_weight, clip)
    # Quadrature across kinks may be off by a little.
    compare(found, top + math.log(integral), math.log(area) + mean_log, 1e-3 * (1 + abs(mean_log)))


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("d", [1, 2, 6])
def test_gap_falls_with_the_square_of_the_radius(clip, d):
    # Away from the kinks the density is smooth: half the radius, a quarter of the gap.
    place = [1.7 + 0.1 * i for i in range(d)], [0.0] * d, [0.9] * d
    gaps = []
    for epsilon in (0.2, 0.1, 0.05, 0.025):
        found = ours(*place, epsilon, 0.6, clip)
        gaps.append((found.integral - found.value).item())
    assert gaps[-1] < 2e-3
    for wide, narrow in pairwise(gaps):
        assert wide / narrow == pytest.approx(4, rel=0.1)


@pytest.fixture
def embeddings():
    generator = torch.Generator().manual_seed(0)
    z_syn, z_real = (torch.randn(3, n, 5, generator=generator, dtype=torch.float64).relu() for n in (4, 11))
    return z_syn, z_real


def test_classes_embeddings_and_chunks_by_hand(embeddings, monkeypatch):
    z_syn, z_real = embeddings
    mean, std = F.moments(z_real)
    epsilon = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    unit = draw_in_ball(50, 5, 1, dtype=torch.float64)
    found = bound(z_syn, mean, std, epsilon, unit, 0.3, "symmetric")
    logs = torch.zeros(50, 3, 4, dtype=torch.float64)
    for i in range(50):
        for c in range(3):
            for j in range(4):
                z = z_syn[c, j] + epsilon[c] * unit[i]
                logs[i, c, j] = log_volume(5, epsilon[c]) + log_likelihood(z_syn[c, j] - z, std[c])
                logs[i, c, j] += log_prior(z - mean[c], std[c], 0.3, "symmetric")
    torch.testing.assert_close(found.per_class, logs.mean((0, 2)))
    torch.testing.assert_close(found.per_class_se, logs.mean(2).std(0) / 50**0.5)
    torch.testing.assert_close(found.value, logs.mean())
    torch.testing.assert_close(found.se, logs.mean((1, 2)).std() / 50**0.5)
    torch.testing.assert_close(found.integral, logs.exp().mean(0).log().mean(1))
    assert (found.se <= found.per_class_se.mean()).all()
    monkeypatch.setattr("bacon_pl.bound.estimate.CHUNK", 7 * z_syn.numel())
    parts = bound(z_syn, mean, std, epsilon, unit, 0.3, "symmetric")
    torch.testing.assert_close(parts.per_class, found.per_class)


def test_settings_are_those_of_the_bound_and_the_risk(embeddings):
    z_syn, z_real = embeddings
    settings = BoundSettings(samples=16, epsilon=0.7, tv_weight=0.3, clip="symmetric")
    found = measure(z_syn, z_real, None, settings, 3, "bound")
    epsilon, unit = z_syn.new_full((3,), 0.7), draw_in_ball(16, 5, 3, "bound", dtype=torch.float64)
    expected = bound(z_syn, *F.moments(z_real), epsilon, unit, 0.3, "symmetric")
    torch.testing.assert_close(found.bound.draws, expected.draws)
    torch.testing.assert_close(found.risk.per_class, risk(z_syn, z_real, epsilon).per_class)
    assert torch.equal(found.epsilon, epsilon)


# The risk.


def test_risk_and_radius_by_counting(embeddings):
    z_syn, z_real = embeddings
    epsilon = median_distance(z_real)
    found = risk(z_syn, z_real, epsilon)
    ses = []
    for c in range(3):
        pairs = [(z_real[c, i] - z_real[c, j]).norm().item() for i in range(11) for j in range(i)]
        assert epsilon[c].item() == pytest.approx(np.median(pairs))
        far = [[((a - b).norm() > epsilon[c]).item() for a in z_syn[c]] for b in z_real[c]]
        assert found.per_class[c].item() == pytest.approx(np.mean(far))
        ses.append(np.std(np.mean(far, 1), ddof=1) / 11**0.5)
        assert found.per_class_se[c].item() == pytest.approx(ses[-1])
    assert found.value.item() == pytest.approx(found.per_class.mean().item())
    assert found.se.item() == pytest.approx(np.sqrt(np.square(ses).sum()) / 3)


def test_the_radius_is_that_of_the_first_256_images():
    z_syn, z_real = (torch.randn(1, n, 3, generator=torch.Generator().manual_seed(n)) for n in (2, 300))
    found = measure(z_syn, z_real, None, BoundSettings(), 0).epsilon
    assert torch.equal(found, median_distance(z_real[:, :256]))


@given(st.integers(2, 7), st.integers(0, 3))
def test_masked_rows_do_not_count(n, filler):
    generator = torch.Generator().manual_seed(n)
    z_syn, z_real = (torch.randn(2, m, 3, generator=generator, dtype=torch.float64) for m in (4, n))
    padded = torch.cat([z_real, torch.full((2, filler, 3), 1e3, dtype=torch.float64)], 1)
    mask = torch.arange(n + filler).expand(2, -1) < n
    plain = measure(z_syn, z_real, None, BoundSettings(samples=5), 0)
    masked = measure(z_syn, padded, mask, BoundSettings(samples=5), 0)
    torch.testing.assert_close(masked.epsilon, plain.epsilon)
    for part in ("bound", "risk"):
        for name, value in vars(getattr(plain, part)).items():
            torch.testing.assert_close(getattr(getattr(masked, part), name), value)


def test_order_of_images_and_classes_does_not_matter(embeddings):
    z_syn, z_real = embeddings
    order = torch.tensor([2, 0, 1])
    straight = measure(z_syn, z_real, None, BoundSettings(), 0)
    shuffled = measure(
        z_syn[order][:, torch.randperm(4)], z_real[order][:, torch.randperm(11)], None, BoundSettings(), 0
    )
    torch.testing.assert_close(shuffled.epsilon, straight.epsilon[order])
    torch.testing.assert_close(shuffled.bound.per_class, straight.bound.per_class[order])
    torch.testing.assert_close(shuffled.risk.per_class, straight.risk.per_class[order])
    torch.testing.assert_close(shuffled.bound.value, straight.bound.value)
    torch.testing.assert_close(shuffled.risk.se, straight.risk.se)


@pytest.mark.parametrize("clip", CLIPS)
def test_bound_in_many_dimensions(clip):
    # A coordinate of a uniform point in the unit ball has the density (1 - b²)^((d - 1)/2), up to a constant.
    d, epsilon, tv_weight = 40, 3.0, 0.7
    generator = torch.Generator().manual_seed(0)
    z, mu, s = (torch.randn(d, generator=generator, dtype=torch.float64) for _ in range(3))
    s = 0.2 + s.abs()
    nodes, weights = (torch.from_numpy(x) for x in special.roots_gegenbauer(400, d / 2))
    place = z[:, None] - mu[:, None] + epsilon * nodes
    std = s[:, None].expand_as(place)
    each = log_prior(place[..., None], std[..., None], tv_weight, clip)
    each += log_likelihood(epsilon * nodes.expand_as(place)[..., None], std[..., None])
    exact = math.log(math.pi) * d / 2 - math.lgamma(d / 2 + 1) + d * math.log(epsilon)
    exact += (each @ weights / weights.sum()).sum().item()
    found = ours(z.tolist(), mu.tolist(), s.tolist(), epsilon, tv_weight, clip)
    assert found.value.item() == pytest.approx(exact, abs=5 * found.se.item())


def test_blocks_of_classes_are_put_together(embeddings):
    z_syn, z_real = embeddings
    whole = measure(z_syn, z_real, None, BoundSettings(), 0)
    blocks = [measure(z_syn[rows], z_real[rows], None, BoundSettings(), 0) for rows in (slice(0, 2), slice(2, 3))]
    for value, expected in zip(Measured.join(blocks).parts, whole.parts, strict=True):
        torch.testing.assert_close(value, expected)


def test_classes_without_a_radius_are_left_out(embeddings):
    z_syn, z_real = embeddings
    mask = torch.ones(3, 11, dtype=torch.bool)
    mask[0, 1:] = False  # one real image
    z_real[1] = z_real[1, :1]  # all alike
    found = measure(z_syn, z_real, mask, BoundSettings(), 0)
    assert found.epsilon.isfinite().tolist() == [False, False, True]
    for part in (found.bound, found.risk):
        assert part.per_class.isnan().tolist() == [True, True, False]
        torch.testing.assert_close(part.value, part.per_class[2])
        torch.testing.assert_close(part.se, part.per_class_se[2])
    given = measure(z_syn, z_real, mask, BoundSettings(epsilon=1.0), 0)
    assert given.bound.per_class.isfinite().all() and given.risk.per_class.isfinite().all()
    assert given.risk.per_class_se.isnan().tolist() == [True, False, False]  # one image has no spread
    assert measure(z_syn, z_real[:, :1], None, BoundSettings(), 0).bound.value.isnan()


def test_copies_of_the_real_images_have_a_risk_of_half():
    z = torch.randn(2, 60, 8, generator=torch.Generator().manual_seed(0))
    fresh = torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(1))
    found = measure(fresh, z, None, BoundSettings(), 0).risk
    assert found.value.item() == pytest.approx(0.5, abs=0.1)


def test_half_precision_embeddings_are_computed_in_single(embeddings):
    z_syn, z_real = (z.to(torch.bfloat16) for z in embeddings)
    with torch.autocast("cpu", torch.bfloat16):
        found = measure(z_syn, z_real, None, BoundSettings(), 0)
    exact = measure(z_syn.float(), z_real.float(), None, BoundSettings(), 0)
    assert torch.equal(found.bound.per_class, exact.bound.per_class)
    assert torch.equal(found.risk.per_class, exact.risk.per_class)
