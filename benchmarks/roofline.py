"""A lower bound of the time that a device needs, from its peak arithmetic and bandwidth and the work of an iteration.

Counted: the multiply-adds of convolutions and linear layers (by torch's own counter), and the bytes that the networks
must move. Bytes are an estimate with perfect fusion: forward, every convolution or linear layer reads its input and
writes its output, and what lies between two of them reads the one's output and writes the other's input, once;
backward moves twice as much, for it reads each activation again and writes its gradient. A training step also reads
and writes weights and momentum and reads gradients. Drawing, augmenting and logging count as free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bacon_pl.networks import Network
from bacon_pl.networks.acceleration import has_bfloat16
from benchmarks.timing import best_of


@dataclass(frozen=True)
class Work:
    """Floating-point operations, and numbers moved."""

    flops: float = 0.0
    numbers: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.numbers + other.numbers)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.numbers * times)


@dataclass(frozen=True)
class Device:
    """Peaks of a device: FLOP/s by name of the type, bytes/s."""

    flops: dict[str, float]
    bandwidth: float

    def seconds(self, work: Work, dtype: str) -> float:
        """Roofline time of some work done in one type."""
        size = 2 if dtype == "bfloat16" else 4
        return max(work.flops / self.flops[dtype], work.numbers * size / self.bandwidth)


@dataclass(frozen=True)
class Passes:
    """Work of one image in one network.

    Attributes:
        forward: Forward pass.
        to_images: Forward and backward down to the image.
        to_weights: Forward and backward down to the weights.
        step: A step of the weights' SGD (per step, not per image).
    """

    forward: Work
    to_images: Work
    to_weights: Work
    step: Work


def measure_device(device: torch.device, quick: bool = False) -> Device:
    """Measure peaks: square matrix products or 3×3 convolutions, best of several, and the copy of a large tensor.

    On a CPU a library of its own computes the convolutions, which may be twice as fast as the one of the products.

    Args:
        device: The device.
        quick: Take small ones, which do not reach the peaks.
    """
    cuda = device.type == "cuda"
    side = 256 if quick else 8192 if cuda else 2048
    flops = {}
    for name, dtype in (("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16)):
        if (name == "tf32" and not cuda) or (name == "bfloat16" and not has_bfloat16(device)):
            continue  # emulated, a product takes a minute, and nothing of ours uses it
        settings = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [setting.allow_tf32 for setting in settings]
        for setting in settings:
            setting.allow_tf32 = name == "tf32"
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        products = 2 * side**3 / best_of(lambda a=a, b=b: torch.mm(a, b), device)
        flops[name] = max(products, _convolutions(device, dtype, quick))
        for setting, allowed in zip(settings, before, strict=True):
            setting.allow_tf32 = allowed
    source = torch.ones((2**20 if quick else 2**31 if cuda else 2**28) // 4, device=device)
    target = torch.empty_like(source)
    return Device(flops, 2 * source.nbytes / best_of(lambda: target.copy_(source), device))


@torch.no_grad()
def _convolutions(device: torch.device, dtype: torch.dtype, quick: bool) -> float:
    """Measure the FLOP/s of a convolution like those of the networks."""
    images, channels, pixels = (4, 32, 8) if quick else (256, 128, 32) if device.type == "cuda" else (64, 128, 32)
    x = torch.randn(images, channels, pixels, pixels, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)
    flops = 2 * images * pixels**2 * channels**2 * 9
    return flops / best_of(lambda: F.conv2d(x, weight, padding=1), device)


def count_passes(network: Network, image: tuple[int, int, int]) -> Passes:
    """Count the work of one image (ch, H, W) in a network; ``network`` is on the CPU."""
    numbers = _numbers(network, image)
    weights = sum(p.numel() for p in network.parameters())
    return Passes(
        Work(_flops(network, image, "nothing"), numbers),
        Work(_flops(network, image, "images"), 3 * numbers),
        Work(_flops(network, image, "weights"), 3 * numbers),
        # Forward and backward read the weights, backward writes gradients; SGD reads three and writes two.
        Work(0.0, (3 + 5) * weights),
    )


def _flops(network: Network, image: tuple[int, int, int], wanted: str) -> float:
    network.requires_grad_(wanted == "weights")
    x = torch.zeros(1, *image, requires_grad=wanted == "images")
    with FlopCounterMode(display=False) as counter:
        z, logits = network(x)
        if wanted != "nothing":
            (z.sum() + logits.sum()).backward()
    network.requires_grad_(True)
    return float(counter.get_total_flops())


def _numbers(network: Network, image: tuple[int, int, int]) -> float:
    total = 0

    def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += inputs[0].numel() + output.numel()

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    with torch.no_grad():
        network(torch.zeros(1, *image))
    for hook in hooks:
        hook.remove()
    return 2.0 * total
