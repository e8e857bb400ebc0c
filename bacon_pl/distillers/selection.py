"""Selection: sets of real images that are drawn at random or selected by a rule, without optimization."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from jsonargparse import lazy_instance

from bacon_pl.augment import DSA, Augmentation
from bacon_pl.configured import made
from bacon_pl.data import IterationBatch
from bacon_pl.distillers.base import Distiller
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.learners import Recipe, feature_spaces
from bacon_pl.networks import ConvNet, NetworkFactory
from bacon_pl.partition import assemble
from bacon_pl.selection import Start, choose, herding, k_center

Rule = Literal["drawn", "herding", "k_center"]
_RULES: dict[str, Any] = {"herding": herding, "k_center": k_center}


class Selection(Distiller):
    """Selects real images without changing them: the baselines for other methods with the same number of pixels.

    ``drawn`` keeps the initial images of a run of any method; with a factor of 2, the set consists of tiles that have
    not been optimized. ``herding`` (Welling 2009) and ``k_center`` (Sener and Savarese 2018) select images of each
    class in the feature space of a network that is briefly trained on the real images.

    There is one iteration. Every process makes the same selection.

    Args:
        ipc: Images per class.
        factor: Every canvas holds factor × factor smaller images; 1 keeps whole images.
        start: Kind of the drawn images, and how selected images are scaled down to tiles.
        method: Name of the method in results.
        rule: ``drawn``, ``herding`` or ``k_center``.
        network: Architecture of the network whose feature space is used; not used for drawn images.
        augment: Augmentation for the training of the network.
        coreset_steps: Training steps of the network, rounded up to whole passes over the real images.
        seed: Seed of every draw; by default that of ``seed_everything``.

    Raises:
        BaconError: An argument is out of range.
    """

    num_iterations = 1

    def __init__(
        self,
        ipc: int = 10,
        factor: int = 1,
        start: Start = Start(),
        method: str = "selection",
        rule: Rule = "drawn",
        network: NetworkFactory = ConvNet,
        augment: Augmentation = lazy_instance(DSA),
        coreset_steps: int = 500,
        seed: int | None = None,
    ) -> None:
        super().__init__(ipc, factor, start, method, seed)
        if rule not in get_args(Rule):
            raise unknown_name("rule of Selection", str(rule), get_args(Rule))
        if rule != "drawn" and start.images != "tiles":
            raise BaconError(
                f"--model.start.images {start.images} does not go with the rule {rule}, which chooses real images: "
                "leave one of them out."
            )
        if coreset_steps < 1:
            raise BaconError(f"--model.coreset_steps must be at least 1, got {coreset_steps}.")
        self.rule = rule
        self.network = network
        self.augment = made(augment)
        self.coreset_steps = coreset_steps

    def iterate(self, batch: IterationBatch) -> None:
        """Select the images, unless the rule is ``drawn``.

        Args:
            batch: The batch, of which all real images are used.

        Raises:
            BaconError: A class has too few images.
        """
        if self.rule == "drawn":
            return
        recipe = Recipe(network=self.network, augment=self.augment, num_networks=1, coreset_steps=self.coreset_steps)
        (embed,) = feature_spaces(recipe, batch.store, self.meta, self.seed)
        factor = self.synthetic.factor
        index = choose(batch.store, self.synthetic.ipc * factor**2, _RULES[self.rule], embed)
        real = self.normalize(batch.store.images[index])
        with torch.no_grad():
            self.images.copy_(assemble(real, factor, self.synthetic.start.scaling).flatten(0, 1))
