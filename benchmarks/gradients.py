"""Suite ``gradients``: an iteration of DC beside the published loop written literally, and the memory of both."""

from __future__ import annotations

import statistics
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from bacon_pl.augment import NoAugmentation
from bacon_pl.data import IterationBatch
from bacon_pl.distillers import GradientMatching, NetworkSettings
from benchmarks.fit import data_of
from benchmarks.timing import in_child, median_ratio, now, peak_memory
from benchmarks.workload import Settings, data_module, fit, memory_of_literal, prepare

LR = 1e-6
"""Learning rate of the images, which stay nearly as they are, for both alike."""


def module_of(s: Settings) -> GradientMatching:
    """Our contender: DC in its frame, with a network that is never trained, which is the same for both."""
    return GradientMatching(
        ipc=s.ipc,
        network=s.network,
        networks=NetworkSettings(renew_every=1, synthetic_epochs=0),
        augment=NoAugmentation(),
        lr=LR,
        acceleration=s.acceleration,
        seed=s.seed,
    )


def literal_step(module: GradientMatching, images: Tensor, batch: IterationBatch) -> Tensor:
    """The gradient by the images as published: class after class, with all graphs kept until one backward pass.

    Args:
        module: What gives the network and normalizes.
        images: The synthetic images (C·ipc, ch, H, W).
        batch: Real images of the iteration.

    Returns:
        (C·ipc, ch, H, W).
    """
    network = module.make_network(module.network, "network", module.networks.number(batch.iteration))
    weights = list(network.parameters())
    leaf = images.detach().clone().requires_grad_()
    loss = torch.zeros((), device=leaf.device)
    for c in range(module.meta.num_classes):
        label = torch.tensor([c], device=leaf.device)
        real = module.normalize(batch.matching(label)[0][0])
        output = network(real)[1]
        g_real = torch.autograd.grad(F.cross_entropy(output, label.expand(len(real))), weights)
        syn = leaf[c * module.ipc : (c + 1) * module.ipc]
        output = network(syn)[1]
        g_syn = torch.autograd.grad(F.cross_entropy(output, label.expand(len(syn))), weights, create_graph=True)
        for g, h in zip((g.detach() for g in g_real), g_syn, strict=True):
            if g.ndim > 1:
                g, h = g.flatten(1), h.flatten(1)
                loss = loss + (1 - (g * h).sum(1) / (g.norm(dim=1) * h.norm(dim=1) + 1e-6)).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


class Turns(pl.Callback):
    """Lets the literal step run after each of our iterations, inside the Trainer's own loop.

    Args:
        s: The workload.
    """

    def __init__(self, s: Settings) -> None:
        self.s = s
        self.seconds: dict[str, list[float]] = {"literal": [], "ours": []}
        self.apart = 0.0
        """Largest difference of the two gradients, as a share of the largest value."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Start our clock."""
        assert isinstance(pl_module, GradientMatching)
        self._images = pl_module.images.detach().clone()
        self._began = now(pl_module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Stop it, and let the literal step run from the same images."""
        assert isinstance(pl_module, GradientMatching)
        device = pl_module.device
        self.seconds["ours"].append(now(device) - self._began)
        batch = data_of(trainer).iteration_batch(pl_module.iteration - 1, pl_module.seed, device)
        with memory_of_literal(self.s), torch.enable_grad():
            start = now(device)
            gradient = literal_step(pl_module, self._images, batch)
            self.seconds["literal"].append(now(device) - start)
        own = pl_module.images.grad
        assert own is not None
        self.apart = max(self.apart, float((gradient - own).abs().max() / gradient.abs().max()))


def run(s: Settings) -> dict[str, Any]:
    """Time both, one after the other.

    Args:
        s: The workload.

    Returns:
        Seconds of both in every round, medians, how many times longer the literal loop takes, and how far their
        gradients are apart.
    """
    turns = Turns(s)
    fit(module_of(s), data_module(s), s.device, s.warm_up + s.rounds, [turns])
    seconds = {name: times[s.warm_up :] for name, times in turns.seconds.items()}
    return {
        "seconds": seconds,
        "medians": {name: statistics.median(times) for name, times in seconds.items()},
        "ratio": median_ratio(seconds["literal"], seconds["ours"]),
        "apart": turns.apart,
    }


def memory(s: Settings, literal: bool) -> dict[str, Any] | None:
    """Peak memory of one of them alone, in a process of its own; None if it ran out of it."""
    peak = in_child(_peak_of_literal if literal else _peak_of_ours, s)
    return None if peak is None else {"bytes": peak[0], "measured": peak[1]}


def _peak_of_ours(s: Settings) -> tuple[int, str]:
    prepare(s)
    fit(module_of(s), data_module(s), s.device, 2, [])
    return peak_memory(torch.device(s.device))


def _peak_of_literal(s: Settings) -> tuple[int, str]:
    prepare(s)
    device = torch.device(s.device)
    data, module = data_module(s), module_of(replace(s, acceleration="off"))
    module.synthetic.initialize(data.train, data.meta, module.seed)
    module = module.to(device)
    for t in range(2):
        literal_step(module, module.images, data.iteration_batch(t, s.seed, device))
    return peak_memory(device)
