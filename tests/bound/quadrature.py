"""The densities of the bound written anew in plain Python, for integrals by quadrature."""

import math
from itertools import pairwise

import torch
from hypothesis import strategies as st
from scipy import integrate

from bacon_pl.bound import bound, draw_in_ball

CLIPS = ("none", "acting", "symmetric")
densities = st.tuples(st.floats(0, 1), st.sampled_from(CLIPS)).filter(lambda s: s[0] > 0.05 or s[1] != "none")


def energy(v, s, tv_weight, clip):
    """Minus the logarithm of the prior of one dimension, up to its constant, written anew in plain Python."""
    scale = max(s, 1e-3)
    u, low = v / scale, 0 if clip == "acting" else -1
    excess = 0 if clip == "none" else u - min(max(u, low), 1)
    return tv_weight * abs(v) / 2 + (1 - tv_weight) * excess**2


def kinks(s, clip):
    return [k * max(s, 1e-3) for k in (-1, 0, 1)] if clip != "none" else [0.0]


def constant(s, tv_weight, clip):
    """Logarithm of the prior's integral over one dimension, by quadrature between the kinks."""
    edges = [-math.inf, *kinks(s, clip), math.inf]
    parts = pairwise(edges)
    return math.log(sum(integrate.quad(lambda v: math.exp(-energy(v, s, tv_weight, clip)), *part)[0] for part in parts))


def log_density(steps, z, mu, s, tv_weight, clip, constants):
    """log p(z̃|z) + log p(z) at z = z̃ + steps, in plain Python."""
    total = 0.0
    for step, center, m, deviation, c in zip(steps, z, mu, s, constants, strict=True):
        total += -0.5 * math.log(2 * math.pi) - deviation - 0.5 * (step * math.exp(-deviation)) ** 2
        total += -energy(center + step - m, deviation, tv_weight, clip) - c
    return total


def ours(z, mu, s, epsilon, tv_weight, clip, samples=4000):
    """Bound of a single embedding."""
    z, mu, s = (torch.tensor(x, dtype=torch.float64)[None] for x in (z, mu, s))
    unit = draw_in_ball(samples, z.shape[1], 0, "test", dtype=torch.float64)
    return bound(z[None], mu, s, torch.tensor([epsilon], dtype=torch.float64), unit, tv_weight, clip)
