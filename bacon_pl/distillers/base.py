"""The abstract base class of distillation methods, with helpers for its subclasses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import IterationBatch
from bacon_pl.distillers.check_finite import FiniteCheck
from bacon_pl.distillers.lifecycle import Lifecycle
from bacon_pl.distillers.synthetic_set import SyntheticSet
from bacon_pl.errors import BaconError, DivergedError
from bacon_pl.networks import Network, NetworkFactory
from bacon_pl.networks.placing import place
from bacon_pl.partition import Upscaling
from bacon_pl.selection.tiles import Start

ASK_EVERY = 50
"""Interval in iterations at which a GPU is asked whether its numbers are finite."""


class Distiller(Lifecycle):
    """A method that makes a synthetic set. Subclasses define one iteration in :meth:`iterate`.

    A training step is one iteration with its own counter, in which any number of optimizers may take a step, or none.
    All random draws should be functions of (``seed``, ``iteration``, class or network), so that neither resuming nor
    the number of processes can change a result. Every process runs every iteration; processes that share its work
    combine their results with :mod:`bacon_pl.distributed`.

    Args:
        ipc: Images per class.
        factor: Every synthetic image holds factor × factor smaller images; 1 keeps whole images.
        start: Initial images.
        method: Name of the method in results; by default the name of the class.
        seed: Seed of every draw; by default that of ``seed_everything``.
        upscaling: How smaller images are scaled up; ``bicubic`` is sharper.

    Attributes:
        synthetic: The parameters: the images and, if it is learned, the step size.
        iteration: Number of finished iterations.
        overwrite: Whether a finished set in the Trainer's root directory may be replaced.
        config: Resolved settings of the run, recorded in the set; set by the command line.

    Raises:
        BaconError: An argument is out of range.
    """

    def __init__(
        self,
        ipc: int = 10,
        factor: int = 1,
        start: Start = Start(),
        method: str = "",
        seed: int | None = None,
        upscaling: Upscaling = "bilinear",
    ) -> None:
        super().__init__(SyntheticSet(ipc, factor, start, upscaling), method, seed)
        self._finite = FiniteCheck()
        self._at_start: list[int] = []

    @property
    def upscaling(self) -> Upscaling:
        """How tiles are scaled up for networks."""
        return self.synthetic.upscaling

    def on_fit_start(self) -> None:
        """Reset the check for numbers that are not finite."""
        self._finite = FiniteCheck()
        super().on_fit_start()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """See :meth:`Lifecycle.training_step`."""
        self._at_start = self._versions()
        super().training_step(batch, batch_idx)

    def _versions(self) -> list[int]:
        """Return how often each parameter has been modified, as counted by torch."""
        return [parameter._version for parameter in self.parameters()]

    # For subclasses to implement.

    @abstractmethod
    def iterate(self, batch: IterationBatch) -> None:
        """Run one iteration, whose number is both ``batch.iteration`` and ``self.iteration``.

        Args:
            batch: The real images, drawn on demand on the device.
        """

    def prepare(self) -> None:
        """Create the objects that iterations need. Called when the images are on their final device."""

    def extra_state(self) -> dict[str, Any]:
        """Return the state to save in checkpoints besides parameters and optimizers: tensors, numbers and text."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Restore a state returned by :meth:`extra_state`. Called after :meth:`prepare`."""

    # Helpers for subclasses.

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 images (…, ch, H, W) to normalized or whitened space, in the type of the synthetic images."""
        return self.meta.normalize(images, self.images.dtype)

    def make_network(self, factory: NetworkFactory, *keys: int | str) -> Network:
        """Create a network on the images' device whose initial weights depend on the seed and the keys alone."""
        with rng.seeded(self.seed, *keys):
            model = factory(self.meta.channels, self.meta.size, self.meta.num_classes)
        place(model, self.images.device, self.images.dtype)
        return model

    def descend(self, terms: Mapping[str, Tensor]) -> None:
        """Minimize the sum of loss terms by one step of every optimizer, and log the terms.

        The gradients are computed without ``backward()``, since a data-parallel wrapper would average gradients that
        are already complete on every process.

        Args:
            terms: Loss terms by name, 0-d each.

        Raises:
            BaconError: There is no optimizer, or the terms do not depend on its parameters.
            DivergedError: A term or a gradient is not finite, or a learned step size is not positive.
        """
        found: Any = self.optimizers(use_pl_optimizer=False)
        optimizers: list[torch.optim.Optimizer] = found if isinstance(found, list) else [found]
        parameters = [p for o in optimizers if o for group in o.param_groups for p in group["params"]]
        total = torch.stack(list(terms.values())).sum()
        if not parameters or not total.requires_grad:
            raise BaconError(
                f"{type(self).__name__} has nothing to descend by: configure_optimizers must give an optimizer, and "
                "the terms must depend on its parameters."
            )
        # A parameter on which the loss does not depend has no gradient, so its optimizer does not change it.
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        numbers = {name: [t] for name, t in terms.items()}
        numbers["gradient"] = [gradient for gradient in gradients if gradient is not None]
        if self.synthetic.step_size is not None:
            numbers["logarithm of the step size"] = [self.synthetic.step_size.detach().log()]
        self.check_finite(numbers, state_is_good=self._versions() == self._at_start)
        for optimizer in optimizers:
            optimizer.step()
        self.log_terms({name: value.detach() for name, value in terms.items()})

    def log_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Log weighted loss terms and their sum. Terms are 0-d, or have one number per class, which is averaged."""
        means = {name: value.mean() for name, value in terms.items()}
        self.log("loss", torch.stack(list(means.values())).sum(), prog_bar=True)
        self.log_dict({f"loss/{name}": value for name, value in means.items()})

    def check_finite(self, numbers: Mapping[str, Sequence[Tensor]], state_is_good: bool = False) -> None:
        """Check that numbers are finite.

        On a CPU, the check is immediate. On a GPU, where it would cause a synchronization, the iteration is recorded
        on the device and checked at intervals and before checkpoints.

        Args:
            numbers: Tensors to check, by name.
            state_is_good: Whether the parameters are still those of the previous iteration.

        Raises:
            DivergedError: A number is not finite.
        """
        self._finite.record(self.iteration, numbers)
        if self.device.type == "cpu":
            self.raise_if_diverged(state_is_good)
        elif self.iteration % ASK_EVERY == 0:
            self.raise_if_diverged()

    def raise_if_diverged(self, state_is_good: bool = False) -> None:
        """Raise an error if any checked number has not been finite since the start of the run.

        Args:
            state_is_good: Whether the parameters are still those of the previous iteration.

        Raises:
            DivergedError: A number was not finite; the message names it and the iteration.
        """
        try:
            self._finite.raise_if_any(state_is_good)
        except DivergedError as error:
            if error.state_is_good:  # the parameters are not affected and may still be saved
                self._finite = FiniteCheck()
            raise

    def profile(self, part: str) -> AbstractContextManager[None]:
        """Return a context that measures a named part of the iteration for ``--trainer.profiler``."""
        trainer: Any = self.trainer
        return trainer.profiler.profile(f"[bacon]{part}")
