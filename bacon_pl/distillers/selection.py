"""Selection: sets of real images that are drawn at random or selected by a rule, without optimization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, get_args

import torch
from jsonargparse import lazy_instance
from torch import Tensor

from bacon_pl import ranges
from bacon_pl.augment import DSA, Augmentation
from bacon_pl.configured import made
from bacon_pl.data import IterationBatch, LabeledImages
from bacon_pl.distillers.base import Distiller
from bacon_pl.errors import BaconError, unknown_name
from bacon_pl.learners import Pretraining, Recipe, TeacherSettings, feature_spaces, teachers
from bacon_pl.networks import Acceleration, ConvNet, NetworkFactory
from bacon_pl.networks.base import check_factory
from bacon_pl.partition import Upscaling, assemble
from bacon_pl.selection import Crops, Select, Start, check_crops, choose, herding, k_center, rded

Rule = Literal["drawn", "herding", "k_center", "rded"]


@dataclass(frozen=True)
class Observer(TeacherSettings):
    """The network that scores RDED's crops: trained on the real images before the run, or read from a file.

    Args:
        count: 1, since one network scores the crops.
        epochs: Passes over the training images.
        batch_size: Images per step.
        lr: Learning rate, the highest that the schedule reaches.
        momentum: Momentum of SGD; AdamW does not use it.
        weight_decay: Weight decay.
        augment: Augmentation of every batch; null is none.
        seed: Seed of its weights, batches and augmentation; the run's own plays no part, so that runs share it.
        optimizer: ``sgd`` or ``adamw``; the latter needs a different learning rate, such as 0.001.
        schedule: ``constant``, or ``cosine``: decrease from lr to 0 over the training.
        warmup: Share of the training, in [0, 1), in which the learning rate rises to lr first, step by step.
        network: Its architecture; by default the run's ``network``.
        file: A trained network of one's own instead: a safetensors file with the parameters and buffers of ``network``
            under the names that they have there. It is never trained, so that of the other settings only ``network``
            counts.

    Raises:
        BaconError: An argument is out of range.
    """

    option: ClassVar[str] = "--model.observer"
    narrowed_to: ClassVar[str] = "teacher"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count != 1:
            raise BaconError(f"--model.observer.count must be 1, since one network scores the crops, got {self.count}.")


class Selection(Distiller):
    """Selects real images without changing them: the baselines for other methods with the same number of pixels.

    ``drawn`` keeps the initial images of a run of any method; with a factor of 2, the set consists of tiles that have
    not been optimized. ``herding`` (Welling 2009) and ``k_center`` (Sener and Savarese 2018) select images of each
    class in the feature space of a network that is briefly trained on the real images. ``rded`` (arXiv 2312.03526)
    selects the crops of images that a trained network finds easiest.

    There is one iteration. Every process makes the same selection.

    Args:
        ipc: Images per class.
        factor: Every canvas holds factor × factor smaller images; 1 keeps whole images. It is 1 for ``rded``, whose
            crops on one canvas (``crops.tiles``) are one training image.
        start: Kind of the drawn images, and how selected images are scaled down to tiles.
        method: Name of the method in results.
        rule: ``drawn``, ``herding``, ``k_center`` or ``rded``.
        network: Architecture of the network whose feature space is used, or that scores crops; not used for drawn
            images.
        augment: Augmentation for the training of the network whose feature space is used.
        coreset_steps: Training steps of that network, rounded up to whole passes over the real images.
        crops: The crops from which ``rded`` chooses, and how they are put on canvases; null has the default values.
        observer: The network that scores crops for ``rded``; null has the default values.
        pretraining: Most that is spent on the observer, as a budget sets it.
        acceleration: Whether to compile the observer and run it in bfloat16 if the device supports it; see
            ``DistributionMatching``.
        seed: Seed of every draw; by default that of ``seed_everything``.
        upscaling: How smaller images are scaled up; ``bicubic`` is sharper.

    Raises:
        BaconError: An argument is out of range.
    """

    num_iterations = 1
    free_settings = ("acceleration",)

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
        crops: Crops | None = None,
        observer: Observer | None = None,
        pretraining: Pretraining = Pretraining(),
        acceleration: Acceleration = "auto",
        seed: int | None = None,
        upscaling: Upscaling = "bilinear",
    ) -> None:
        super().__init__(ipc, factor, start, method, seed, upscaling)
        if rule not in get_args(Rule):
            raise unknown_name("rule of Selection", str(rule), get_args(Rule))
        if rule != "drawn" and start.images != "tiles":
            raise BaconError(
                f"--model.start.images {start.images} does not go with the rule {rule}, which chooses real images: "
                "leave one of them out."
            )
        ranges.whole("--model.", coreset_steps=coreset_steps)
        for name, value in (("crops", crops), ("observer", observer)):
            if value is not None and rule != "rded":
                raise BaconError(f"--model.{name} is for the rule rded, and the rule is {rule}: leave one of them out.")
        if rule == "rded" and factor != 1:
            raise BaconError(
                f"--model.factor {factor} does not go with the rule rded, of whose sets whole canvases are trained on: "
                "set it to 1, and --model.crops.tiles to the crops per side of a canvas."
            )
        self.rule = rule
        check_factory("--model.network", network)
        self.network = network
        self.augment = made(augment)
        self.coreset_steps = coreset_steps
        self.crops = crops or Crops()
        self.pretraining = pretraining
        self.observer = pretraining.limit(observer or Observer())
        self.acceleration: Acceleration = acceleration

    def iterate(self, batch: IterationBatch) -> None:
        """Select the images, unless the rule is ``drawn``.

        Args:
            batch: The batch, of which all real images are used.

        Raises:
            BaconError: A class has too few images.
        """
        if (select := _RULES[self.rule]) is not None:
            with torch.no_grad():
                self.images.copy_(select(self, batch.store).flatten(0, 1))


def _coreset(rule: Select, module: Selection, store: LabeledImages) -> Tensor:
    """Choose images in the feature space of a briefly trained network: (C, ipc, ch, H, W)."""
    steps = module.coreset_steps
    recipe = Recipe(network=module.network, augment=module.augment, num_networks=1, coreset_steps=steps)
    (embed,) = feature_spaces(recipe, store, module.meta, module.seed)
    factor = module.synthetic.factor
    index = choose(store, module.synthetic.ipc * factor**2, rule, embed)
    real = module.normalize(store.images[index])
    return assemble(real, factor, module.synthetic.start.scaling)


def _rded(module: Selection, store: LabeledImages) -> Tensor:
    """Choose the crops that the observer finds easiest: (C, ipc, ch, H, W)."""
    meta = module.meta
    check_crops(store, meta, module.synthetic.ipc, module.crops)  # before the observer's training, which may be long
    (observer,) = teachers(module.observer, module.data.train, meta, module.network, module.acceleration)
    observer.prepare(store.images.device)
    return rded(store, meta, module.synthetic.ipc, module.crops, observer.logits, module.seed)


_RULES: dict[str, Callable[[Selection, LabeledImages], Tensor] | None] = {
    "drawn": None,
    "herding": partial(_coreset, herding),
    "k_center": partial(_coreset, k_center),
    "rded": _rded,
}
