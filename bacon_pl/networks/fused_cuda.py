"""The fused operator of :mod:`bacon_pl.networks.fused` for GPUs, in Triton: normalization, ReLU and pooling as one.

It is used where a plan says so (:attr:`Plan.fused`), which only measuring does. Triton is imported when it is first
needed, since it is missing where torch is made for CPUs alone. The result equals that of the plain modules up to
rounding; it cannot be differentiated twice.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from types import ModuleType

import torch
from torch import Tensor, nn

from bacon_pl.networks.base import Network

_wanted = False


@contextlib.contextmanager
def used(here: bool) -> Iterator[None]:
    """Use the operator in the networks that have a place for it during a block.

    Args:
        here: False changes nothing.
    """
    global _wanted
    before, _wanted = _wanted, here or _wanted
    try:
        yield
    finally:
        _wanted = before


def wanted() -> bool:
    """Return whether the operator is to be used."""
    return _wanted


def fits(x: Tensor) -> bool:
    """Return whether the operator takes feature maps (B, F, H, W) of these sides and type."""
    return x.shape[-1] % 2 == 0 and x.shape[-2] % 2 == 0 and x.dtype in (torch.float32, torch.bfloat16)


def applies(template: Network, device: torch.device) -> bool:
    """Return whether a network has a place for the operator and a device can run it."""
    has_triton = importlib.util.find_spec("triton") is not None
    return device.type == "cuda" and has_triton and bool(getattr(template, "has_kernels", False))


def _kernels() -> ModuleType:
    from bacon_pl.networks import triton_kernels  # imports Triton

    return triton_kernels


@torch.library.custom_op("bacon_pl::norm_relu_pool_cuda", mutates_args=())
def norm_relu_pool(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Apply instance norm with affine parameters, ReLU and 2×2 average pooling.

    Args:
        x: (N·B, F, H, W) of N networks, bfloat16 or float32; H and W are even.
        gamma: Scale, (N, F), float32.
        beta: Shift, (N, F), float32.
        eps: Added to the variance.
        half: Return the maps as bfloat16 rather than float32.

    Returns:
        The pooled maps (N·B, F, H // 2, W // 2) in the layout of x; and for the backward pass the mean and the inverse
        standard deviation, (N·B, F) each.
    """
    found: tuple[Tensor, Tensor, Tensor] = _kernels().forward(x, gamma.contiguous(), beta.contiguous(), eps, half)
    return found


def pooled(x: Tensor, half: bool) -> Tensor:
    """Allocate pooled maps in the layout of x."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.empty(
        (x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2),
        dtype=torch.bfloat16 if half else torch.float32,
        device=x.device,
        memory_format=torch.channels_last if last else torch.contiguous_format,
    )


@norm_relu_pool.register_fake
def _(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    return pooled(x, half), *_kept(x)


def _kept(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:2], dtype=torch.float32), x.new_empty(x.shape[:2], dtype=torch.float32)


@torch.library.custom_op("bacon_pl::norm_relu_pool_cuda_backward", mutates_args=())
def norm_relu_pool_backward(
    gradient: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of :func:`norm_relu_pool` for x, and per image for gamma and beta, (N·B, F) each."""
    found: tuple[Tensor, Tensor, Tensor] = _kernels().backward(
        gradient, x, gamma.contiguous(), beta.contiguous(), mean, scale
    )
    return found


@norm_relu_pool_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), *_kept(x)


def _keep(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3], *output[1:])


def _gradients(ctx, gradient, *_):  # type: ignore[no-untyped-def]
    x, gamma, *rest = ctx.saved_tensors
    d_x, d_gamma, d_beta = norm_relu_pool_backward(gradient, x, gamma, *rest)
    shape = (len(gamma), -1, gamma.shape[1])
    return d_x, d_gamma.view(shape).sum(1), d_beta.view(shape).sum(1), None, None


norm_relu_pool.register_autograd(_gradients, setup_context=_keep)


@norm_relu_pool.register_vmap
def _(info, in_dims, x, gamma, beta, eps, half):  # type: ignore[no-untyped-def]
    """Run the networks of a vmap as one, each with parameters of its own."""
    size = info.batch_size
    first = [
        t.movedim(dim, 0) if dim is not None else t.expand(size, *t.shape)
        for t, dim in zip((x, gamma, beta), in_dims[:3], strict=True)
    ]
    found = norm_relu_pool(*(t.reshape(-1, *t.shape[2:]) for t in first), eps, half)
    return tuple(t.unflatten(0, (size, -1)) for t in found), (0, 0, 0)


def block(x: Tensor, norm: nn.GroupNorm, half: bool) -> Tensor:
    """Apply a block's norm, ReLU and pooling to the maps (B, F, H, W) of its convolution."""
    out: Tensor = norm_relu_pool(x, norm.weight[None], norm.bias[None], norm.eps, half)[0]
    return out
