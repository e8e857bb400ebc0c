"""One iteration's matching: passes of real and synthetic images in blocks of classes, terms, and the gradient.

Classes that do not meet in the loss are taken block by block, each with its own backward pass, so that memory is
bounded and devices share the work. Where an objective compares classes, every block first gives what the objective
keeps of its images; all of that is put together on every process, the terms are computed of it as of leaves, and the
gradients by the leaves go back through each block's own pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from bacon_pl import rng
from bacon_pl.data import IterationBatch
from bacon_pl.distributed import all_reduce_sum, shard
from bacon_pl.errors import BaconError
from bacon_pl.networks import Network, Read, embedding
from bacon_pl.networks.acceleration import even_rows
from bacon_pl.networks.cost import activation_bytes
from bacon_pl.partition import expand

if TYPE_CHECKING:
    from bacon_pl.distillers.distribution_matching import DistributionMatching

MIN_CPU_BLOCKS = 8
"""Blocks of classes on a CPU, if there are so many classes: enough to share evenly, few enough to be fast."""

Readings = dict[str, Tensor]


class Matching:
    """Compares the synthetic images with the real ones through networks of a pool.

    Args:
        distiller: Whose images, pool, objective and settings these are.

    Raises:
        BaconError: The network needs all images in one pass, and they do not fit ``memory_gib``.
    """

    def __init__(self, distiller: DistributionMatching) -> None:
        self.distiller = distiller
        self.read = distiller.objective.read
        meta, template = distiller.meta, distiller.pool.template
        image = (meta.channels, *meta.size)
        kept = activation_bytes(template, image, self.read)
        if distiller.references is not None:
            kept += activation_bytes(distiller.references.template, image)
        keeps = distiller.synthetic.ipc * distiller.synthetic.factor**2 * kept
        self.fits = int(min(distiller.memory_gib * 2**30 / keeps, meta.num_classes))
        """Classes whose synthetic images' pass fits the memory."""
        self.whole = not template.rows_are_independent or draws(template, image)
        """Whether all images go through the network in one pass, for it lets them meet."""
        self.embeddings = self._embeddings(image)
        """Under which name embeddings are kept, for the bound and the risk; None where they are not."""
        if self.whole and self.fits < meta.num_classes:
            raise BaconError(
                f"{type(template).__name__} lets the images of a pass meet (batch norm, or dropout), so all "
                f"{meta.num_classes} classes have to be in one, which takes "
                f"{meta.num_classes * keeps / 2**30:.1f} GiB: raise --model.memory_gib, or use another norm."
            )
        self._found: dict[str, tuple[int, ...]] | None = None
        self._drawn: tuple[int, Readings] = (-1, {})

    def _embeddings(self, image: tuple[int, int, int]) -> str | None:
        """Try the objective's reading on blank images, and find the embeddings among what it keeps."""
        x = torch.zeros(2, *image, device=self.distiller.device, dtype=self.distiller.images.dtype)
        kept, _ = _tried(self.distiller.pool.template, x, self.read)
        for name, value in kept.items():
            if value.ndim < 1 or len(value) != len(x) or not value.is_floating_point():
                raise BaconError(
                    f"{type(self.distiller.objective).__name__} keeps '{name}' of shape {tuple(value.shape)} and type "
                    f"{value.dtype} of {len(x)} images: it must be floating-point, with a row for each image."
                )
        return next((name for name in kept if name.rpartition(".")[2] == "z"), None)

    # Blocks.

    def class_blocks(self) -> tuple[Tensor, ...]:
        """Cut the classes into blocks that fit ``memory_gib`` and can be shared out to devices.

        On CPUs the blocks do not depend on the number of devices: there a block's result has the same bits wherever it
        is computed. A GPU, which fast work needs large batches for, takes its whole share at once.
        """
        return torch.arange(self.distiller.meta.num_classes, device=self.distiller.device).split(self.block_rows)

    @property
    def block_rows(self) -> int:
        """Classes in a block."""
        d = self.distiller
        classes = d.meta.num_classes
        if self.whole:
            return classes
        blocks = MIN_CPU_BLOCKS if d.device.type == "cpu" else d.trainer.world_size
        return even_rows(classes, min(self.fits, -(-classes // blocks)))

    def own_blocks(self) -> Iterator[Tensor]:
        """This process's blocks of classes."""
        d = self.distiller
        yield from shard(self.class_blocks(), d.global_rank, d.trainer.world_size)

    # Matching.

    def match(self, batch: IterationBatch, network_id: int, accuracy: Tensor) -> tuple[Readings, Tensor]:
        """Match the synthetic images to the real ones; all processes call this together.

        Args:
            batch: The iteration's real images.
            network_id: The network to match through.
            accuracy: Its running accuracy in percent.

        Returns:
            The loss terms, (C,) each, and the gradient of their sum by the images, (C·ipc, ch, H, W).
        """
        d = self.distiller
        gradient = torch.zeros_like(d.synthetic.by_class())
        logged = bool(d.loggers) and self.embeddings is not None
        d.bound_log.begin(batch.iteration, gradient.new_zeros(len(gradient)), logged)
        across = self._match_across if d.objective.cross_class else self._match_apart
        terms = across(batch, network_id, accuracy, gradient)
        return terms, gradient.flatten(0, 1)

    def _match_apart(self, batch: IterationBatch, network_id: int, accuracy: Tensor, gradient: Tensor) -> Readings:
        """Match block by block: classes do not meet in the loss. Fills the gradient in and returns the terms."""
        d = self.distiller
        found: Readings = {}
        for classes in self.own_blocks():
            with d.profile("real"):
                real, mask = self.read_real(batch, network_id, classes)
            with d.profile("synthetic"):
                canvases = d.synthetic.by_class()[classes].requires_grad_()
                syn, logits = self.read_synthetic(canvases, network_id, classes, batch.iteration)
            with d.profile("objective"):
                terms = self.terms(syn, real, mask, len(classes))
                self.add_cross_entropy(terms, logits, classes, accuracy)
            with d.profile("bound"):
                self._measure(syn, real, mask, classes)
            with d.profile("backward"):
                gradient[classes] = self.gradient(terms, canvases)
            for name, value in terms.items():
                found.setdefault(name, value.new_zeros(len(gradient)))[classes] = value.detach()
        with d.profile("share"):
            self._fill_in(found, gradient)
            all_reduce_sum([gradient, *found.values(), *d.bound_log.values])
        return found

    def _match_across(self, batch: IterationBatch, network_id: int, accuracy: Tensor, gradient: Tensor) -> Readings:
        """Match with all classes at once. Fills the gradient in and returns the terms."""
        d = self.distiller
        blocks = list(self.own_blocks())
        # Where all own blocks fit the memory, their passes are kept; else they are run again, block by block.
        keeps = sum(map(len, blocks)) <= self.fits
        passes: list[tuple[Tensor, Tensor, Readings, Tensor]] = []
        found: Readings = {}
        mask: Tensor | None = None
        for classes in blocks:
            with d.profile("real"):
                real, own_mask = self.read_real(batch, network_id, classes)
            with d.profile("synthetic"), torch.set_grad_enabled(keeps):
                canvases = d.synthetic.by_class()[classes].requires_grad_(keeps)
                syn, logits = self.read_synthetic(canvases, network_id, classes, batch.iteration)
            if keeps:
                passes.append((classes, canvases, syn, logits))
            parts = {**{f"syn.{k}": v for k, v in syn.items()}, **{f"real.{k}": v for k, v in real.items()}}
            if own_mask is not None:
                parts["mask"] = own_mask.to(gradient.dtype)
            for name, value in parts.items():
                row = value.new_zeros(len(gradient), *value.shape[1:])
                found.setdefault(name, row)[classes] = value.detach()
            self._measure(syn, real, own_mask, classes)
        with d.profile("share"):
            self._fill_in(found, gradient)
            all_reduce_sum([*found.values(), *d.bound_log.values])
        with d.profile("objective"):
            if "mask" in found:
                mask = found["mask"] > 0
            leaves = {k[len("syn.") :]: v.requires_grad_() for k, v in found.items() if k.startswith("syn.")}
            real = {k[len("real.") :]: v for k, v in found.items() if k.startswith("real.")}
            terms = self.terms(leaves, real, mask, len(gradient))
            total = torch.stack([value.sum() for value in terms.values()]).sum()
            if not total.requires_grad:
                raise BaconError(
                    f"the terms of {type(d.objective).__name__} do not depend on what it keeps of the synthetic images "
                    "in a way that has a gradient."
                )
            by_leaf = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        terms = {name: value.detach() for name, value in terms.items()}
        ce = gradient.new_zeros(len(gradient))
        for i, classes in enumerate(blocks):
            if keeps:
                _, canvases, syn, logits = passes[i]
            else:
                with d.profile("synthetic"):
                    canvases = d.synthetic.by_class()[classes].requires_grad_()
                    syn, logits = self.read_synthetic(canvases, network_id, classes, batch.iteration)
            with d.profile("backward"):
                own: Readings = {}
                self.add_cross_entropy(own, logits, classes, accuracy)
                used = [(syn[k], g[classes]) for k, g in zip(leaves, by_leaf, strict=True) if g is not None]
                ends = [value for value, _ in used] + list(own.values())
                weights = [g for _, g in used] + [torch.ones_like(value) for value in own.values()]
                gradient[classes] = torch.autograd.grad(ends, canvases, weights)[0]
                if "ce" in own:
                    ce[classes] = own["ce"].detach()
        with d.profile("share"):
            all_reduce_sum([gradient, ce])
        return terms if d.cross_entropy is None else {**terms, "ce": ce}

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None, classes: int) -> Readings:
        """The objective's terms, checked.

        Raises:
            BaconError: There are none, one is not a number per class, or one has the cross-entropy's name.
        """
        d = self.distiller
        if self._drawn[0] != d.iteration:  # one draw for all blocks of classes
            self._drawn = (d.iteration, d.objective.draw(real, d.seed, "objective", d.iteration))
        found = dict(d.objective.terms(syn, {**real, **self._drawn[1]}, mask))
        wrong = [f"'{name}' of shape {tuple(v.shape)}" for name, v in found.items() if tuple(v.shape) != (classes,)]
        if wrong or not found:
            raise BaconError(
                f"{type(d.objective).__name__}.terms must give at least one term, each of one number per class, shape "
                f"({classes},) here; it gives {', '.join(wrong) or 'none'}."
            )
        if "ce" in found and d.cross_entropy is not None:
            raise BaconError(
                f"{type(d.objective).__name__} calls a term 'ce', which is the cross-entropy's name: rename it, or set "
                "--model.cross_entropy null."
            )
        return found

    def add_cross_entropy(self, terms: Readings, logits: Tensor, classes: Tensor, accuracy: Tensor) -> None:
        """Add the term ``ce``, where the method has it."""
        if self.distiller.cross_entropy is not None:
            terms["ce"] = self.distiller.cross_entropy.term(logits, classes, accuracy)

    @staticmethod
    def gradient(terms: Mapping[str, Tensor], canvases: Tensor) -> Tensor:
        """Gradient of the terms' sum by the images that they were computed of."""
        return torch.autograd.grad(torch.stack(list(terms.values())).sum(), canvases)[0]

    def _measure(self, syn: Mapping[str, Tensor], real: Mapping[str, Tensor], mask: Tensor | None, ids: Tensor) -> None:
        """Measure bound and risk, where embeddings are at hand."""
        if (name := self.embeddings) is not None:
            self.distiller.bound_log.measure(syn[name].detach(), real[name], mask, ids)

    def _fill_in(self, found: Readings, like: Tensor) -> None:
        """Add the zeros of a process that has no classes, which does not know the names by itself."""
        if self._found is None:
            shapes = {name: tuple(value.shape) for name, value in found.items()}
            told: Any = self.distiller.trainer.strategy.broadcast(shapes)
            self._found = dict(told)
        for name, shape in self._found.items():
            found.setdefault(name, like.new_zeros(shape))

    # Passes.

    @torch.no_grad()
    def read_real(self, batch: IterationBatch, network_id: int, classes: Tensor) -> tuple[Readings, Tensor | None]:
        """Run this iteration's real images of the given classes through a network, augmented, in chunks.

        Returns:
            What the objective keeps, (C, n, …) each, and the mask of :meth:`IterationBatch.matching`.
        """
        d = self.distiller
        real, mask = batch.matching(classes)
        chunk = real.shape[1] if self.whole else d.real_chunk
        rows = len(real) if self.whole else even_rows(len(real), d.real_chunk // real.shape[1])

        def read(ids: Tensor, images: Tensor) -> Readings:
            x = d.augment.siamese(d.normalize(images), ids, d.seed, "augment", batch.iteration)
            kept, _ = d.pool.forward(network_id, x.flatten(0, 1), self.read, ("real", batch.iteration))
            return {name: value.unflatten(0, images.shape[:2]) for name, value in kept.items()}

        blocks = [
            _join([read(ids, images) for images in block.split(chunk, dim=1)], 1)
            for ids, block in zip(classes.split(rows), real.split(rows), strict=True)
        ]
        return _join(blocks, 0), mask

    def read_synthetic(
        self, canvases: Tensor, network_id: int, classes: Tensor, iteration: int
    ) -> tuple[Readings, Tensor]:
        """Expand, augment and run the synthetic images (C, ipc, ch, H, W) of the given classes through a network.

        Returns:
            What the objective keeps, (C, factor²·ipc, …) each, with the embeddings of the reference network as
            ``reference`` where there is one, and logits (C, factor²·ipc, number of classes).
        """
        d = self.distiller
        x = expand(canvases, d.synthetic.factor)
        x = d.augment.siamese(x, classes, d.seed, "augment", iteration)
        kept, logits = d.pool.forward(network_id, x.flatten(0, 1), self.read, ("synthetic", iteration))
        if d.references is not None:
            kept = {**kept, "reference": d.references.embed(x.flatten(0, 1), iteration)}
        shape = x.shape[:2]
        return {name: value.unflatten(0, shape) for name, value in kept.items()}, logits.unflatten(0, shape)


def draws(template: Network, image: tuple[int, int, int]) -> bool:
    """Tell whether a network's pass in training mode draws at random, by trying it under two seeds.

    Args:
        template: The architecture.
        image: Channels, height and width.
    """
    reference = next(template.parameters())
    x = torch.linspace(-1, 1, 2 * math.prod(image), device=reference.device, dtype=reference.dtype).view(2, *image)
    found = []
    for seed in (0, 1):
        with rng.seeded(seed, "trial", device=x.device):
            found.append(_tried(template, x, embedding)[1])
    return not torch.equal(*found)


def _tried(template: Network, x: Tensor, read: Read) -> Any:
    """What a pass gives, which leaves the network's running statistics as they were."""
    state = {**dict(template.named_parameters()), **dict(template.named_buffers())}
    with torch.no_grad():
        return functional_call(template, {name: t.clone() for name, t in state.items()}, (x, read))


def _join(parts: list[Readings], dim: int) -> Readings:
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
