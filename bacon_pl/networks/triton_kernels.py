"""Triton kernels of :mod:`bacon_pl.networks.fused_cuda`. Importing this file imports Triton.

One program takes all positions of some filters of one image: the four positions of each pooling are four tiles of
(positions, filters). Everything is computed in float32; each program writes what is its own, so that sums have always
the same order. Both layouts are read by their strides; with channels last, a program takes so many filters that memory
is read in rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bacon_pl.networks.fused_cuda import pooled

VALUES = 2048
"""Pooled values that a program holds at most, unless one map has more: more would not fit into the registers."""


@triton.jit
def _four(x, row, f, p, width, xb, xf, xh, xw, inside):  # type: ignore[no-untyped-def]
    """Read the four positions of each pooling."""
    base = x + row * xb + (2 * (p // width) * xh + 2 * (p % width) * xw)[:, None] + (f * xf)[None, :]
    x0 = tl.load(base, mask=inside, other=0.0).to(tl.float32)
    x1 = tl.load(base + xw, mask=inside, other=0.0).to(tl.float32)
    x2 = tl.load(base + xh, mask=inside, other=0.0).to(tl.float32)
    x3 = tl.load(base + xh + xw, mask=inside, other=0.0).to(tl.float32)
    return x0, x1, x2, x3


@triton.jit
def _square(x, mean, inside):  # type: ignore[no-untyped-def]
    centered = tl.where(inside, x - mean[None, :], 0.0)
    return tl.sum(centered * centered, 0)


@triton.jit
def _active(x, mean, scale, gamma, beta):  # type: ignore[no-untyped-def]
    return tl.maximum((x - mean[None, :]) * (scale * gamma)[None, :] + beta[None, :], 0.0)


@triton.jit
def _forward(  # type: ignore[no-untyped-def]
    x, gamma, beta, out, mean_out, scale_out,
    filters, width, positions, rows_each, eps,
    xb, xf, xh, xw, ob, of, op,
    tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * wide + tl.arange(0, wide)
    p = tl.arange(0, tall)
    inside = (p < positions)[:, None] & (f < filters)[None, :]
    x0, x1, x2, x3 = _four(x, row, f, p, width, xb, xf, xh, xw, inside)
    count = 4 * positions
    mean = tl.sum(x0 + x1 + x2 + x3, 0) / count
    squares = _square(x0, mean, inside) + _square(x1, mean, inside)
    squares += _square(x2, mean, inside) + _square(x3, mean, inside)
    scale = 1 / tl.sqrt(squares / count + eps)
    there = f < filters
    own = (row // rows_each) * filters + f
    g = tl.load(gamma + own, mask=there, other=0.0)
    b = tl.load(beta + own, mask=there, other=0.0)
    total = _active(x0, mean, scale, g, b) + _active(x1, mean, scale, g, b)
    total += _active(x2, mean, scale, g, b) + _active(x3, mean, scale, g, b)
    to = out + row * ob + (p * op)[:, None] + (f * of)[None, :]
    tl.store(to, (total / 4).to(out.dtype.element_ty), mask=inside)
    tl.store(mean_out + row * filters + f, mean, mask=there)
    tl.store(scale_out + row * filters + f, scale, mask=there)


@triton.jit
def _through(x, gradient, mean, scale, gamma, beta):  # type: ignore[no-untyped-def]
    """Gradient by the normalized and shifted value, which passes where ReLU does, and the normalized value."""
    normal = (x - mean[None, :]) * scale[None, :]
    return tl.where(normal * gamma[None, :] + beta[None, :] > 0, gradient, 0.0), normal


@triton.jit
def _backward(  # type: ignore[no-untyped-def]
    gradient, x, gamma, beta, mean_in, scale_in, d_x, d_gamma, d_beta,
    filters, width, positions, rows_each,
    xb, xf, xh, xw, db, df, dh, dw, gb, gf, gh, gw,
    tall: tl.constexpr, wide: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * wide + tl.arange(0, wide)
    p = tl.arange(0, tall)
    inside = (p < positions)[:, None] & (f < filters)[None, :]
    there = f < filters
    x0, x1, x2, x3 = _four(x, row, f, p, width, xb, xf, xh, xw, inside)
    at = gradient + row * gb + ((p // width) * gh + (p % width) * gw)[:, None] + (f * gf)[None, :]
    up = tl.load(at, mask=inside, other=0.0).to(tl.float32) / 4  # 0 in the padding, so that sums leave it out
    mean = tl.load(mean_in + row * filters + f, mask=there, other=0.0)
    scale = tl.load(scale_in + row * filters + f, mask=there, other=0.0)
    own = (row // rows_each) * filters + f
    g = tl.load(gamma + own, mask=there, other=0.0)
    b = tl.load(beta + own, mask=there, other=0.0)
    u0, n0 = _through(x0, up, mean, scale, g, b)
    u1, n1 = _through(x1, up, mean, scale, g, b)
    u2, n2 = _through(x2, up, mean, scale, g, b)
    u3, n3 = _through(x3, up, mean, scale, g, b)
    by_beta = tl.sum(u0 + u1 + u2 + u3, 0)
    by_gamma = tl.sum(u0 * n0 + u1 * n1 + u2 * n2 + u3 * n3, 0)
    tl.store(d_beta + row * filters + f, by_beta, mask=there)
    tl.store(d_gamma + row * filters + f, by_gamma, mask=there)
    count = 4 * positions
    factor = (scale * g)[None, :]
    shift, slope = (by_beta / count)[None, :], (by_gamma / count)[None, :]
    to = d_x + row * db + (2 * (p // width) * dh + 2 * (p % width) * dw)[:, None] + (f * df)[None, :]
    kind = d_x.dtype.element_ty
    tl.store(to, (factor * (u0 - shift - n0 * slope)).to(kind), mask=inside)
    tl.store(to + dw, (factor * (u1 - shift - n1 * slope)).to(kind), mask=inside)
    tl.store(to + dh, (factor * (u2 - shift - n2 * slope)).to(kind), mask=inside)
    tl.store(to + dh + dw, (factor * (u3 - shift - n3 * slope)).to(kind), mask=inside)


def _grid(x: Tensor) -> tuple[tuple[int, int], int, int, int, int]:
    """Return the grid, the pooled width, the pooled positions, and the sizes of a tile."""
    rows, filters, height, width = x.shape
    positions = (height // 2) * (width // 2)
    tall = triton.next_power_of_2(positions)
    last = x.stride(1) == 1 and filters > 1
    wide = min(max(VALUES // tall, 1), 32 if last else 4, triton.next_power_of_2(filters))
    return (rows, triton.cdiv(filters, wide)), width // 2, positions, tall, wide


def _warps(values: int) -> int:
    return min(max(values // 256, 1), 8)


def forward(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`bacon_pl.networks.fused_cuda.norm_relu_pool`."""
    filters = x.shape[1]
    out = pooled(x, half)
    mean, scale = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))
    grid, width, positions, tall, wide = _grid(x)
    step = out.stride(3)  # positions lie one after another in both layouts
    _forward[grid](
        x, gamma, beta, out, mean, scale, filters, width, positions, len(x) // len(gamma), eps,
        *x.stride(), out.stride(0), out.stride(1), step, tall=tall, wide=wide, num_warps=_warps(tall * wide),
    )  # fmt: skip
    return out, mean, scale


def backward(
    gradient: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`bacon_pl.networks.fused_cuda.norm_relu_pool_backward`."""
    filters = x.shape[1]
    d_x = torch.empty_like(x)
    d_gamma, d_beta = (x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))
    grid, width, positions, tall, wide = _grid(x)
    _backward[grid](
        gradient, x, gamma, beta, mean, scale, d_x, d_gamma, d_beta,
        filters, width, positions, len(x) // len(gamma), *x.stride(), *d_x.stride(), *gradient.stride(),
        tall=tall, wide=wide, num_warps=_warps(tall * wide),
    )  # fmt: skip
    return d_x, d_gamma, d_beta
