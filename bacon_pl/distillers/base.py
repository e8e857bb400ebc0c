"""What a distillation method is: one abstract class, and what helps its subclasses."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from bacon_pl import rng
from bacon_pl.data import IterationBatch, normalize
from bacon_pl.distillers.check_finite import FiniteCheck
from bacon_pl.distillers.lifecycle import Lifecycle
from bacon_pl.distillers.synthetic_set import SyntheticSet
from bacon_pl.errors import BaconError, DivergedError
from bacon_pl.networks import Network, NetworkFactory
from bacon_pl.selection.tiles import Start

ASK_EVERY = 50
"""Iterations between two questions to a GPU whether its numbers are finite."""


class Distiller(Lifecycle):
    """A method that makes a synthetic set: a subclass says in :meth:`iterate` what one iteration does.

    A training step is one iteration, with its own counter: any number of optimizers may take steps in it, none
    included. Everything random should be a function of (``seed``, ``iteration``, class or network), so that resuming
    and the number of processes cannot change a result. Every process runs every iteration; those that share its work
    put it together by :mod:`bacon_pl.distributed`.

    Args:
        ipc: Images per class.
        factor: Every synthetic image holds factor × factor smaller ones; 1 keeps whole images.
        start: What the images start from.
        method: Name under which results are recorded; the class's name by default.
        seed: Seed of every draw; by default that of ``seed_everything``.

    Attributes:
        synthetic: The parameters: images, and the step size where one is learned.
        iteration: Iterations done.
        overwrite: Whether a finished set in the Trainer's root directory may be replaced.
        config: The run's resolved settings, recorded in the set; the command line fills them in.

    Raises:
        BaconError: An argument is out of range.
    """

    def __init__(
        self, ipc: int = 10, factor: int = 1, start: Start = Start(), method: str = "", seed: int | None = None
    ) -> None:
        super().__init__(SyntheticSet(ipc, factor, start), method, seed)
        self._finite = FiniteCheck()
        self._at_start: list[int] = []

    def on_fit_start(self) -> None:
        """Begin anew to look for numbers that are not finite."""
        self._finite = FiniteCheck()
        super().on_fit_start()

    def training_step(self, batch: Any, batch_idx: int) -> None:
        """See :meth:`Lifecycle.training_step`."""
        self._at_start = self._versions()
        super().training_step(batch, batch_idx)

    def _versions(self) -> list[int]:
        """How often each parameter has been written to, which torch counts."""
        return [parameter._version for parameter in self.parameters()]

    # What a subclass says.

    @abstractmethod
    def iterate(self, batch: IterationBatch) -> None:
        """Run iteration ``batch.iteration``, the same as ``self.iteration``.

        Args:
            batch: The real images, drawn on demand on the device.
        """

    def prepare(self) -> None:
        """Make what iterations need, once the images are where they will be."""

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint must hold besides parameters and optimizers: tensors, numbers and text."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`extra_state` gave, after :meth:`prepare`."""

    # What helps it.

    def normalize(self, images: Tensor) -> Tensor:
        """Map uint8 images (…, ch, H, W) to normalized pixel space, in the synthetic images' type."""
        return normalize(images, self.meta.mean, self.meta.std, self.images.dtype)

    def make_network(self, factory: NetworkFactory, *keys: int | str) -> Network:
        """Make a network whose initial weights depend on the seed and the keys alone, where the images are."""
        with rng.seeded(self.seed, *keys):
            model = factory(self.meta.channels, self.meta.size, self.meta.num_classes)
        return model.to(self.images.device, self.images.dtype)

    def descend(self, terms: Mapping[str, Tensor]) -> None:
        """Take a step down the sum of loss terms with every optimizer, and log the terms.

        The gradients are torch's own, not those of ``backward()``, where a data-parallel wrapper would average what is
        complete on every process already.

        Args:
            terms: 0-d each, by name.

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
        # A parameter that this loss does not depend on has no gradient, and its optimizer leaves it alone.
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
        """Log loss terms, weights applied, and their sum: 0-d, or one number per class, of which the mean is taken."""
        means = {name: value.mean() for name, value in terms.items()}
        self.log("loss", torch.stack(list(means.values())).sum(), prog_bar=True)
        self.log_dict({f"loss/{name}": value for name, value in means.items()})

    def check_finite(self, numbers: Mapping[str, Sequence[Tensor]], state_is_good: bool = False) -> None:
        """Notice numbers that are not finite.

        A CPU says so at once. A GPU, which asking would make wait, remembers the iteration until it is asked: at
        intervals and before a checkpoint.

        Args:
            numbers: What is looked at, by name.
            state_is_good: The state is still that of the iteration before.

        Raises:
            DivergedError: Something is not finite.
        """
        self._finite.record(self.iteration, numbers)
        if self.device.type == "cpu":
            self.raise_if_diverged(state_is_good)
        elif self.iteration % ASK_EVERY == 0:
            self.raise_if_diverged()

    def raise_if_diverged(self, state_is_good: bool = False) -> None:
        """Stop if something has not been finite since the start.

        Raises:
            DivergedError: Names the iteration and what it was.
        """
        try:
            self._finite.raise_if_any(state_is_good)
        except DivergedError as error:
            if error.state_is_good:  # what was found has not reached the state, which may still be saved
                self._finite = FiniteCheck()
            raise

    def profile(self, part: str) -> AbstractContextManager[None]:
        """Name a part of the iteration for ``--trainer.profiler``."""
        trainer: Any = self.trainer
        return trainer.profiler.profile(f"[bacon]{part}")
