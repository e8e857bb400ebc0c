"""Fused CPU operators (see ``fused.cpp``) that compute a block of the ConvNet in one pass over memory.

The layers between two convolutions (instance norm, ReLU, pooling) are limited by memory bandwidth. These operators read
each feature map once, process it in float32 in the L1 cache, and write only the pooled map. A first convolution with
few channels is computed in the same pass. The result equals that of the plain modules up to rounding, of which there is
less in bfloat16. The operators are used in compiled programs on CPUs, in bfloat16 and in float32.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor

from bacon_pl.cache_files import kernels_path

SOURCES = tuple(Path(__file__).with_name(name) for name in ("fused.cpp", "fused_norm.h"))
"""Source files of the kernels: the compiled file, followed by the files that it includes."""
FEW_CHANNELS = 4
"""Largest number of input channels for which the first convolution is fused. Up to this number, computing it without
matrix instructions is no slower than writing its output to memory: a training step of the ConvNet takes 0.10 s instead
of 0.13 s for gray images, and the same time for color images, in less memory.
"""

_library: ctypes.CDLL | None = None


def compiler() -> list[str] | None:
    """Return the command of the C++ compiler, ``$CXX`` or g++; None if it is not installed."""
    command = shlex.split(os.environ.get("CXX") or "g++")
    return command if shutil.which(command[0]) else None


def load() -> bool:
    """Compile the kernels (once per machine, about a second) and load them; return whether they can be used."""
    global _library
    if _library is None:
        _library = _load()
    return _library is not None


def unload() -> None:
    """Stop using the kernels, so that the plain modules are used again."""
    global _library
    _library = None


@functools.cache
def _load() -> ctypes.CDLL | None:
    command = compiler()
    if command is None:
        return None
    # No -ffast-math: NaN must stay NaN.
    command += ["-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC"]
    try:
        machine = subprocess.run(
            [*command[:1], "-march=native", "-Q", "--help=target"], capture_output=True, timeout=60, check=False
        ).stdout
        source = b"".join(path.read_bytes() for path in SOURCES)
        key = hashlib.blake2b(source + machine + " ".join(command).encode(), digest_size=8).hexdigest()
        path = kernels_path(key)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                built = Path(folder) / path.name
                build = [*command, "-o", str(built), str(SOURCES[0])]
                subprocess.run(build, capture_output=True, text=True, timeout=300, check=True)
                os.replace(built, path)  # atomic, since another process may do the same
        library = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        detail = getattr(error, "stderr", None) or error
        warnings.warn(f"the fused CPU kernels cannot be built, so runs are slower: {detail}", stacklevel=3)
        return None
    for name in ("norm_forward", "norm_backward", "stem_forward", "stem_backward"):
        getattr(library, f"bacon_{name}").restype = None
    return library


def usable(x: Tensor) -> bool:
    """Return whether the kernels are loaded and apply to a tensor on a CPU.

    They apply under bfloat16 autocast, and to float32 in a compiled program. Elsewhere float32 passes run torch's own
    modules, which can be differentiated twice.
    """
    if _library is None or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.bfloat16):
        return False
    if torch.is_autocast_enabled("cpu"):
        return torch.get_autocast_dtype("cpu") is torch.bfloat16
    return x.dtype is torch.float32 and torch.compiler.is_compiling()


def _call(name: str, *arguments: Tensor | int | float | None) -> None:
    assert _library is not None
    converted: list[object] = []
    for a in arguments:
        if isinstance(a, Tensor):
            converted.append(ctypes.c_void_p(a.data_ptr()))
        elif a is None:
            converted.append(ctypes.c_void_p())
        else:
            converted.append(ctypes.c_float(a) if isinstance(a, float) else ctypes.c_int64(a))
    getattr(_library, f"bacon_{name}")(*converted)


def _is_half(x: Tensor) -> int:
    return int(x.dtype is torch.bfloat16)


def _kept(like: Tensor, filters: int) -> tuple[Tensor, Tensor]:
    shape = (like.shape[0], filters)
    return like.new_empty(shape, dtype=torch.float32), like.new_empty(shape, dtype=torch.float32)


def _pooled(x: Tensor, filters: int, height: int, width: int, half: bool) -> Tensor:
    """Allocate the pooled maps."""
    dtype = torch.bfloat16 if half else torch.float32
    shape = (len(x), filters, height // 2, width // 2)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=torch.channels_last)


def _last(maps: Tensor) -> Tensor:
    """Convert feature maps to the channels-last layout, which the kernels expect."""
    return maps.contiguous(memory_format=torch.channels_last)


@torch.library.custom_op("bacon_pl::norm_relu_pool", mutates_args=())
def norm_relu_pool(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Apply instance norm with affine parameters, ReLU and 2×2 average pooling.

    Args:
        x: (B, F, H, W), bfloat16 or float32.
        gamma: Scale, (F,), float32.
        beta: Shift, (F,), float32.
        eps: Added to the variance.
        half: Return the maps as bfloat16 rather than float32.

    Returns:
        The pooled maps (B, F, H // 2, W // 2), channels last; and for the backward pass the mean and the inverse
        standard deviation, (B, F) each.
    """
    x, gamma, beta = _last(x), gamma.contiguous(), beta.contiguous()
    n, filters, h, w = x.shape
    out = _pooled(x, filters, h, w, half)
    mean, scale = _kept(x, filters)
    _call("norm_forward", x, gamma, beta, out, mean, scale, n, filters, h, w, eps, _is_half(x), int(half))
    return out, mean, scale


@norm_relu_pool.register_fake
def _(x: Tensor, gamma: Tensor, beta: Tensor, eps: float, half: bool) -> tuple[Tensor, Tensor, Tensor]:
    return _pooled(x, x.shape[1], x.shape[2], x.shape[3], half), *_kept(x, x.shape[1])


@torch.library.custom_op("bacon_pl::norm_relu_pool_backward", mutates_args=())
def norm_relu_pool_backward(
    gradient: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of :func:`norm_relu_pool` for x, and per image for gamma and beta, (B, F) each."""
    gradient, x, gamma, beta = _last(gradient), _last(x), gamma.contiguous(), beta.contiguous()
    d_x = torch.empty_like(x, memory_format=torch.channels_last)
    d_gamma, d_beta = _kept(x, x.shape[1])
    types = (_is_half(x), _is_half(gradient))
    _call("norm_backward", x, gamma, beta, mean, scale, gradient, d_x, d_gamma, d_beta, *x.shape, *types)
    return d_x, d_gamma, d_beta


@norm_relu_pool_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x, memory_format=torch.channels_last), *_kept(x, x.shape[1])


def _keep_norm(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:3], *output[1:])


def _norm_gradients(ctx, gradient, *_):  # type: ignore[no-untyped-def]
    d_x, d_gamma, d_beta = norm_relu_pool_backward(gradient, *ctx.saved_tensors)
    return d_x, d_gamma.sum(0), d_beta.sum(0), None, None


norm_relu_pool.register_autograd(_norm_gradients, setup_context=_keep_norm)


@torch.library.custom_op("bacon_pl::stem", mutates_args=())
def stem(
    x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, padding: int, eps: float, half: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply a 3×3 convolution of stride 1 in float32, followed by :func:`norm_relu_pool`.

    Args:
        x: (B, ch, H, W), float32.
        weight: (F, ch, 3, 3), float32.
        bias: (F,), float32.
        gamma: Scale, (F,), float32.
        beta: Shift, (F,), float32.
        padding: Zeros added on every side of the image.
        eps: Added to the variance.
        half: Return the maps as bfloat16 rather than float32.

    Returns:
        The pooled maps, channels last; and the mean and the inverse standard deviation of the convolution's maps,
        (B, F) each.
    """
    x, weight, bias, gamma, beta = (t.contiguous() for t in (x, weight, bias, gamma, beta))
    filters = len(weight)
    height, width = (side + 2 * padding - 2 for side in x.shape[2:])
    out = _pooled(x, filters, height, width, half)
    mean, scale = _kept(x, filters)
    _call("stem_forward", x, weight, bias, gamma, beta, out, mean, scale, *x.shape, padding, filters, eps, int(half))
    return out, mean, scale


@stem.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, gamma: Tensor, beta: Tensor, padding: int, eps: float, half: bool
) -> tuple[Tensor, Tensor, Tensor]:
    height, width = (side + 2 * padding - 2 for side in x.shape[2:])
    return _pooled(x, len(weight), height, width, half), *_kept(x, len(weight))


@torch.library.custom_op("bacon_pl::stem_backward", mutates_args=())
def stem_backward(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    scale: Tensor,
    padding: int,
    to_x: bool,
    to_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients of :func:`stem` for x, and per image for weight, gamma and beta.

    The gradients for x and weight are empty tensors unless ``to_x`` and ``to_weight`` request them.
    """
    x, weight, bias, gamma, beta = (t.contiguous() for t in (x, weight, bias, gamma, beta))
    gradient = _last(gradient)
    d_x, d_weight = _wanted(x, weight, to_x, to_weight)
    d_gamma, d_beta = _kept(x, len(weight))
    tensors = (x, weight, bias, gamma, beta, mean, scale, gradient)
    gradients = (d_x if to_x else None, d_weight if to_weight else None, d_gamma, d_beta)
    _call("stem_backward", *tensors, *gradients, *x.shape, padding, len(weight), _is_half(gradient))
    return d_x, d_weight, d_gamma, d_beta


def _wanted(x: Tensor, weight: Tensor, to_x: bool, to_weight: bool) -> tuple[Tensor, Tensor]:
    shape = (len(x), *weight.shape) if to_weight else (0,)
    d_x = torch.empty_like(x, memory_format=torch.contiguous_format) if to_x else x.new_empty(0)
    return d_x, x.new_empty(shape)


@stem_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    scale: Tensor,
    padding: int,
    to_x: bool,
    to_weight: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return *_wanted(x, weight, to_x, to_weight), *_kept(x, len(weight))


def _keep_stem(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.save_for_backward(*inputs[:5], *output[1:])
    ctx.padding = inputs[5]


def _stem_gradients(ctx, gradient, *_):  # type: ignore[no-untyped-def]
    to_x, to_weight = ctx.needs_input_grad[:2]
    d_x, d_weight, d_gamma, d_beta = stem_backward(gradient, *ctx.saved_tensors, ctx.padding, to_x, to_weight)
    # The norm subtracts the mean of every map, so the bias has no effect and its gradient is zero.
    bias = torch.zeros_like(d_gamma[0])
    by_weights = (d_weight.sum(0) if to_weight else None, bias, d_gamma.sum(0), d_beta.sum(0))
    return d_x if to_x else None, *by_weights, None, None, None


stem.register_autograd(_stem_gradients, setup_context=_keep_stem)
