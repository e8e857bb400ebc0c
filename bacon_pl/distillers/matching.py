"""The matching in one iteration: passes of real and synthetic images in blocks of classes, terms, and the gradient.

If the objective treats classes separately, they are processed block by block, each with its own backward pass, so that
memory is limited and devices can share the work. If the objective compares classes, each block first computes the
tensors that the objective keeps. These are collected on every process, and the terms are computed from them as leaves
of the graph. The gradients with respect to the leaves are then propagated through the pass of each block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import IterationBatch
from bacon_pl.distillers.ascent import Ascent
from bacon_pl.distillers.counted import CountedRows, filled_up
from bacon_pl.distillers.trial import check_terms, draws, kept_of_blank
from bacon_pl.distributed import all_reduce_sum, shard
from bacon_pl.errors import BaconError
from bacon_pl.networks import Captured, memory
from bacon_pl.networks.acceleration import even_rows
from bacon_pl.networks.cost import activation_bytes
from bacon_pl.networks.stateless import Keys

if TYPE_CHECKING:
    from bacon_pl.distillers.distribution_matching import DistributionMatching

MIN_CPU_BLOCKS = 8
"""Minimum number of blocks of classes on a CPU, if there are enough classes. Processes can share this many blocks
evenly, and more blocks would be slower."""

Readings = dict[str, Tensor]
Through = int | Mapping[str, Tensor]
"""The network to match through: its id, or its weights and running statistics by name, where a recording needs them."""


class Matching:
    """Compares the synthetic with the real images through networks of a pool.

    Args:
        distiller: The distiller with the images, the pool, the objective and the settings.

    Raises:
        BaconError: The network needs all images in one pass, and they do not fit into ``memory_gib``.
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
        """Number of classes for which the pass of the synthetic images fits into the memory."""
        self.real_chunk = memory.images_at_once(distiller.real_chunk, kept, distiller.memory_gib, distiller.device)
        self.whole = not template.rows_are_independent or draws(template, image)
        """Whether all images must go through the network in one pass, because their results depend on each other."""
        kept_of_two = kept_of_blank(template, distiller.objective, image)
        self.embeddings = next((name for name in kept_of_two if name.rpartition(".")[2] == "z"), None)
        """Name under which the objective keeps embeddings, for the bound and the risk; None if it does not."""
        if self.whole and self.fits < meta.num_classes:
            raise BaconError(
                f"{type(template).__name__} lets the images of a pass meet (batch norm, or dropout), so all "
                f"{meta.num_classes} classes have to be in one, which takes "
                f"{meta.num_classes * keeps / 2**30:.1f} GiB: raise --model.memory_gib, or use another norm."
            )
        self.ascent = Ascent(distiller.objective, kept_of_two, distiller.seed)
        """The objective's own parameters, which maximize the loss, if it has any."""
        self._found: dict[str, tuple[int, ...]] | None = None
        self._drawn: Readings | None = None
        self._has_terms = False
        self.captured: Captured | None = None
        """The matching as a recorded function, if it is one."""
        self._batch: IterationBatch | None = None
        self._counted = CountedRows()

    # Blocks.

    def class_blocks(self) -> tuple[Tensor, ...]:
        """Divide the classes into blocks that fit into ``memory_gib`` and can be distributed among devices.

        On CPUs, the blocks do not depend on the number of devices, so that results have the same bits everywhere. A
        GPU needs large batches to be fast, so it processes its whole share at once.
        """
        return torch.arange(self.distiller.meta.num_classes, device=self.distiller.device).split(self.block_rows)

    @property
    def block_rows(self) -> int:
        """Number of classes in a block."""
        d = self.distiller
        classes = d.meta.num_classes
        if self.whole:
            return classes
        blocks = MIN_CPU_BLOCKS if d.device.type == "cpu" else d.trainer.world_size
        return even_rows(classes, min(self.fits, -(-classes // blocks)))

    def own_blocks(self) -> Sequence[tuple[int, Tensor]]:
        """This process's blocks of classes, each with its number."""
        d = self.distiller
        return shard(list(enumerate(self.class_blocks())), d.global_rank, d.trainer.world_size)

    # Matching.

    def match(self, batch: IterationBatch, network_id: int, accuracy: Tensor) -> tuple[Readings, Tensor]:
        """Match the synthetic to the real images; all processes must call this together.

        Args:
            batch: Real images of the iteration.
            network_id: Id of the network to match through.
            accuracy: Running accuracy of the network in percent, 0-d.

        Returns:
            The loss terms by name, (C,) each, and the gradient of their sum with respect to the images,
            (C·ipc, ch, H, W).
        """
        d = self.distiller
        images = d.synthetic.by_class()
        logged = bool(d.loggers) and self.embeddings is not None
        d.bound_log.begin(batch.iteration, images.new_zeros(len(images)), logged)
        if self.captured is not None and self._is_recordable(batch):
            iteration = torch.full((), batch.iteration, device=images.device)
            terms, gradient = self.captured(iteration, d.pool.state(network_id), images, accuracy)
        else:
            terms, gradient = self._compare(batch, network_id, images, accuracy)
        return terms, gradient.flatten(0, 1)

    def _is_recordable(self, batch: IterationBatch) -> bool:
        """Test whether an iteration does no more than others, with the real images on which recordings were made."""
        self._batch = self._batch or batch
        return not self.distiller.bound_log.values and self._batch.store is batch.store

    def from_tensors(
        self, iteration: Tensor, state: Mapping[str, Tensor], images: Tensor, accuracy: Tensor
    ) -> tuple[Readings, Tensor]:
        """Match as a function of tensors, which can be recorded.

        Args:
            iteration: Number of the iteration, 0-d, int64.
            state: Weights and running statistics of the matched network, which does not draw at random.
            images: Synthetic images (C, ipc, ch, H, W).
            accuracy: Running accuracy of the network in percent, 0-d.

        Returns:
            The terms, (C,) each, and the gradient, like ``images``.
        """
        assert self._batch is not None
        # Draws take tensors as coordinates, too.
        batch = replace(self._batch, iteration=cast(int, iteration))
        return self._compare(batch, state, images, accuracy)

    def _compare(
        self, batch: IterationBatch, network: Through, images: Tensor, accuracy: Tensor
    ) -> tuple[Readings, Tensor]:
        """Match images (C, ipc, ch, H, W); return the terms, and the gradient, like the images."""
        d = self.distiller
        gradient = torch.zeros_like(images)
        self._drawn = None
        self.ascent.draw(d.seed, "objective", batch.iteration)
        across = self._match_across if d.objective.cross_class else self._match_apart
        terms = across(batch, network, images, accuracy, gradient)
        return terms, gradient

    def _match_apart(
        self, batch: IterationBatch, network: Through, images: Tensor, accuracy: Tensor, gradient: Tensor
    ) -> Readings:
        """Match block by block, for objectives that treat classes separately; fill in the gradient, return terms."""
        d = self.distiller
        found: Readings = {}
        up = self.ascent.by_block(len(self.class_blocks()))
        for block, classes in self.own_blocks():
            with d.profile("real"):
                real, mask = self.read_real(batch, network, classes)
            with d.profile("synthetic"):
                canvases = images[classes].requires_grad_()
                syn, logits = self.read_synthetic(canvases, network, classes, batch.iteration)
            with d.profile("objective"):
                terms = self.terms(syn, real, mask, len(classes), batch.iteration)
                self.add_cross_entropy(terms, logits, classes, accuracy)
            with d.profile("bound"):
                self._measure(syn, real, mask, classes)
            with d.profile("backward"):
                total = torch.stack(list(terms.values())).sum()
                gradient[classes], *parts = torch.autograd.grad(total, [canvases, *self.ascent.leaves.values()])
                for rows, part in zip(up, parts, strict=True):
                    rows[block] = part
            for name, value in terms.items():
                found.setdefault(name, value.new_zeros(len(gradient)))[classes] = value.detach()
        with d.profile("share"):
            self._fill_in(found, gradient)
            all_reduce_sum([gradient, *found.values(), *d.bound_log.values, *up])
        self.ascent.differentiate([rows.sum(0) for rows in up])
        return found

    def _match_across(
        self, batch: IterationBatch, network: Through, images: Tensor, accuracy: Tensor, gradient: Tensor
    ) -> Readings:
        """Match all classes at once, for objectives that compare classes; fill in the gradient and return the terms."""
        d = self.distiller
        blocks = [classes for _, classes in self.own_blocks()]
        # If all blocks of this process fit into the memory, their passes are kept; otherwise they are run again.
        keeps = sum(map(len, blocks)) <= self.fits
        passes: list[tuple[Tensor, Tensor, Readings, Tensor]] = []
        found: Readings = {}
        mask: Tensor | None = None
        for classes in blocks:
            with d.profile("real"):
                real, own_mask = self.read_real(batch, network, classes)
            with d.profile("synthetic"), torch.set_grad_enabled(keeps):
                canvases = images[classes].requires_grad_(keeps)
                syn, logits = self.read_synthetic(canvases, network, classes, batch.iteration)
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
            terms = self.terms(leaves, real, mask, len(gradient), batch.iteration)
            total = torch.stack([value.sum() for value in terms.values()]).sum()
            ends = [*leaves.values(), *self.ascent.leaves.values()]
            by_leaf = torch.autograd.grad(total, ends, allow_unused=True)
            self.ascent.differentiate(by_leaf[len(leaves) :])  # complete, since every process has all classes here
        terms = {name: value.detach() for name, value in terms.items()}
        ce = gradient.new_zeros(len(gradient))
        for i, classes in enumerate(blocks):
            if keeps:
                _, canvases, syn, logits = passes[i]
            else:
                with d.profile("synthetic"):
                    canvases = images[classes].requires_grad_()
                    syn, logits = self.read_synthetic(canvases, network, classes, batch.iteration)
            with d.profile("backward"):
                own: Readings = {}
                self.add_cross_entropy(own, logits, classes, accuracy)
                pairs = zip(leaves, by_leaf[: len(leaves)], strict=True)
                used = [(syn[k], g[classes]) for k, g in pairs if g is not None]
                ends = [value for value, _ in used] + list(own.values())
                weights = [g for _, g in used] + [torch.ones_like(value) for value in own.values()]
                gradient[classes] = torch.autograd.grad(ends, canvases, weights)[0]
                if "ce" in own:
                    ce[classes] = own["ce"].detach()
        with d.profile("share"):
            all_reduce_sum([gradient, ce])
        return terms if d.cross_entropy is None else {**terms, "ce": ce}

    def terms(self, syn: Readings, real: Readings, mask: Tensor | None, classes: int, iteration: rng.Key) -> Readings:
        """Compute and check the terms of the objective; see :func:`check_terms`."""
        d = self.distiller
        if self._drawn is None:  # one draw for all blocks of classes
            self._drawn = d.objective.draw(real, d.seed, "objective", iteration)
        with torch.autocast(d.device.type, enabled=False):  # distances in full precision, whatever the networks have
            found = dict(d.objective.terms(syn, {**real, **self._drawn, **self.ascent.leaves}, mask))
        with_ce = d.cross_entropy is not None
        # Beside the cross-entropy terms may be constant for some iterations, but not from the beginning.
        needed = not with_ce or d.objective.cross_class or not self._has_terms
        check_terms(d.objective, found, classes, with_ce, needed)
        self._has_terms = True
        return found

    def add_cross_entropy(self, terms: Readings, logits: Tensor, classes: Tensor, accuracy: Tensor) -> None:
        """Add the term ``ce`` if the method uses the cross-entropy."""
        if self.distiller.cross_entropy is not None:
            terms["ce"] = self.distiller.cross_entropy.term(logits, classes, accuracy)

    def _measure(self, syn: Mapping[str, Tensor], real: Mapping[str, Tensor], mask: Tensor | None, ids: Tensor) -> None:
        """Measure the bound and the risk if the objective keeps embeddings."""
        if (name := self.embeddings) is not None:
            self.distiller.bound_log.measure(syn[name].detach(), real[name], mask, ids)

    def _fill_in(self, found: Readings, like: Tensor) -> None:
        """Add zeros on a process without classes, which learns the names of the tensors from the first process."""
        if self._found is None:
            shapes = {name: tuple(value.shape) for name, value in found.items()}
            self._found = dict(self.distiller.trainer.strategy.broadcast(shapes))
        for name, shape in self._found.items():
            found.setdefault(name, like.new_zeros(shape))

    # Passes.

    @torch.no_grad()
    def read_real(self, batch: IterationBatch, network: Through, classes: Tensor) -> tuple[Readings, Tensor | None]:
        """Run the augmented real images of the given classes through a network, in chunks.

        Returns:
            The tensors that the objective keeps, (C, n, …) each, and the mask of :meth:`IterationBatch.matching`.
        """
        d = self.distiller
        real, mask = batch.matching(classes)
        chunk = real.shape[1] if self.whole else self.real_chunk
        rows = len(real) if self.whole else even_rows(len(real), self.real_chunk // real.shape[1])
        counted = self._counted.of(mask) if self.whole and mask is not None else None  # fillers would meet real images

        def read(ids: Tensor, images: Tensor) -> Readings:
            x = d.augment.siamese(d.normalize(images), ids, d.seed, "augment", batch.iteration).flatten(0, 1)
            kept, _ = self._pass(network, x if counted is None else x[counted], ("real", batch.iteration))
            kept = kept if counted is None else filled_up(kept, counted, len(x))
            return {name: value.unflatten(0, images.shape[:2]) for name, value in kept.items()}

        blocks = [
            _join([read(ids, images) for images in block.split(chunk, dim=1)], 1)
            for ids, block in zip(classes.split(rows), real.split(rows), strict=True)
        ]
        return _join(blocks, 0), mask

    def read_synthetic(
        self, canvases: Tensor, network: Through, classes: Tensor, iteration: int
    ) -> tuple[Readings, Tensor]:
        """Expand and augment synthetic images (C, ipc, ch, H, W) of the given classes and run them through a network.

        Returns:
            The tensors that the objective keeps, (C, factor²·ipc, …) each, with the embeddings of the reference network
            as ``reference`` if there is one, and the logits (C, factor²·ipc, number of classes).
        """
        d = self.distiller
        x = d.synthetic.expand(canvases)
        x = d.augment.siamese(x, classes, d.seed, "augment", iteration)
        kept, logits = self._pass(network, x.flatten(0, 1), ("synthetic", iteration))
        if d.references is not None:
            kept = {**kept, "reference": d.references.embed(x.flatten(0, 1), iteration)}
        shape = x.shape[:2]
        return {name: value.unflatten(0, shape) for name, value in kept.items()}, logits.unflatten(0, shape)

    def _pass(self, network: Through, x: Tensor, keys: Keys) -> Any:
        pool = self.distiller.pool
        if isinstance(network, int):
            return pool.forward(network, x, self.read, keys)
        buffers = {name: network[name].clone() for name, _ in pool.template.named_buffers()}
        return pool.model({**network, **buffers}, x, self.read)


def _join(parts: list[Readings], dim: int) -> Readings:
    return {name: torch.cat([part[name] for part in parts], dim) for name in parts[0]}
