"""The parameters of a distillation: the synthetic images and, optionally, a learned step size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from bacon_pl import ranges
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.data.whitening import Whitening
from bacon_pl.distilled_set import DistilledSet, git_commit
from bacon_pl.distilled_set.start import start_images
from bacon_pl.errors import BaconError
from bacon_pl.partition import Upscaling, check_factor, check_upscaling, expand, expand_labels
from bacon_pl.selection.tiles import Start


class SyntheticSet(nn.Module):
    """A few images per class as parameters.

    The images do not exist before :meth:`initialize` is called or a checkpoint is loaded, which contains the images and
    the description of their dataset.

    Args:
        ipc: Images (canvases) per class.
        factor: Every canvas holds factor × factor smaller images; 1 keeps whole images.
        start: Kind of the initial images.
        upscaling: How the smaller images are scaled up for networks.

    Attributes:
        images: The canvases (C·ipc, ch, H, W), normalized, class by class; None before they are initialized.
        step_size: Learned learning rate for training on the set, 0-d; None if none is learned.
        soft_labels: Logits of the labels of the images that networks are trained on (factor²·C·ipc, C), in the order of
            :meth:`expanded`; None if labels are hard.
        average: Moving average of the canvases over the iterations; None if none is kept.
        meta: Description of the dataset; None before the images are initialized.

    Raises:
        BaconError: ``ipc`` is below 1, or there is no such upscaling.
    """

    images: nn.Parameter | None
    step_size: nn.Parameter | None
    soft_labels: nn.Parameter | None
    average: Tensor | None

    def __init__(self, ipc: int, factor: int, start: Start, upscaling: Upscaling = "bilinear") -> None:
        super().__init__()
        ranges.whole("--model.", ipc=ipc)
        check_upscaling(upscaling, "--model.upscaling")
        self.ipc = ipc
        self.factor = factor
        self.start = start
        self.upscaling = upscaling
        self.meta: DatasetMeta | None = None
        self.register_parameter("images", None)
        self.register_parameter("step_size", None)
        self.register_parameter("soft_labels", None)
        self.register_buffer("average", None)
        self._soft = False
        self._decay = 0.0

    def learn_step_size(self, initial: float) -> None:
        """Make the step size a parameter. Call this in the constructor of a method.

        Args:
            initial: Initial step size, positive.

        Raises:
            BaconError: ``initial`` is not positive.
        """
        if not initial > 0:
            raise BaconError(f"a learned step size must start above 0, got {initial}.")
        self.step_size = nn.Parameter(torch.tensor(float(initial)))

    def use_soft_labels(self) -> None:
        """Give the images soft labels, which a method fills in before its first iteration. Call it in the constructor.

        They are one-hot, with logits 1 and 0, until then.
        """
        self._soft = True

    def keep_average(self, decay: float) -> None:
        """Keep a moving average of the canvases, which becomes the distilled set. Call this in the constructor.

        Args:
            decay: Share of the old average that remains in each iteration, in (0, 1).

        Raises:
            BaconError: ``decay`` is out of range.
        """
        if not 0 < decay < 1:
            raise BaconError(f"the decay of averaged images must be between 0 and 1, got {decay}.")
        self._decay = decay

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the average towards the current canvases; call this after each iteration."""
        assert self.average is not None
        self.average.lerp_(self.canvases, 1 - self._decay)

    def initialize(self, store: LabeledImages, meta: DatasetMeta, seed: int) -> None:
        """Create the initial images.

        Args:
            store: The real training images.
            meta: Description of the dataset.
            seed: Seed of the run.

        Raises:
            BaconError: A class has too few images, the factor does not divide their size, or the set to start from does
                not match.
        """
        check_factor(meta.size, self.factor, "--model.factor")
        self.images = nn.Parameter(start_images(store, meta, self.ipc, self.factor, self.start, seed, self.upscaling))
        self.meta = meta
        if self._soft:
            hard = expand_labels(self.labels, self.factor)
            one_hot = torch.zeros(len(hard), meta.num_classes, device=hard.device).scatter_(1, hard[:, None], 1.0)
            self.soft_labels = nn.Parameter(one_hot.to(self.images.dtype))
        if self._decay:
            self.average = self.images.detach().clone()

    @property
    def labels(self) -> Tensor:
        """Labels of the canvases, (C·ipc,), int64, on the images' device."""
        images = self.canvases
        return torch.arange(len(images) // self.ipc, device=images.device).repeat_interleave(self.ipc)

    @property
    def canvases(self) -> nn.Parameter:
        """The images, which must have been initialized."""
        if self.images is None:
            raise BaconError("there are no synthetic images yet: fit the module first, or load a checkpoint.")
        return self.images

    def by_class(self) -> Tensor:
        """Return the canvases as a view (C, ipc, ch, H, W) of the parameter, without gradient."""
        return self.canvases.detach().unflatten(0, (-1, self.ipc))

    def expand(self, canvases: Tensor) -> Tensor:
        """Cut tiles out of canvases and scale them up; this is differentiable.

        Args:
            canvases: (..., n, ch, H, W).

        Returns:
            (..., factor²·n, ch, H, W), tile-major.
        """
        return expand(canvases, self.factor, self.upscaling)

    def expanded(self) -> tuple[Tensor, Tensor]:
        """Return the images for training networks, with tiles cut out and scaled up; this is differentiable.

        Returns:
            Images (factor²·C·ipc, ch, H, W) and labels (factor²·C·ipc,), int64.
        """
        return self.expand(self.canvases), expand_labels(self.labels, self.factor)

    def distilled(self, method: str, config: Mapping[str, Any], seed: int) -> DistilledSet:
        """Return the current images as a distilled set with its provenance.

        Args:
            method: Name of the method.
            config: Resolved settings of the run.
            seed: Seed of the run.

        Returns:
            The set.
        """
        images = self.canvases.detach() if self.average is None else self.average
        assert self.meta is not None
        soft = None if self.soft_labels is None else self.soft_labels.detach().half().cpu()
        if soft is not None and self.factor > 1:
            soft = soft.unflatten(0, (self.factor**2, -1)).movedim(0, 1)
        return DistilledSet(
            images=images.float().cpu(),
            labels=self.labels,
            soft_labels=soft,
            label_kind=None if soft is None else "logits",
            meta=self.meta,
            factor=self.factor,
            upscaling=self.upscaling,
            method=method,
            config=config,
            seed=seed,
            commit=git_commit(),
            step_size=None if self.step_size is None else float(self.step_size.detach()),
        )

    # A state dict contains the description of the dataset, and creates the images of a set that has none yet.

    def get_extra_state(self) -> dict[str, Any]:
        """Return the description of the dataset as plain values."""
        if self.meta is None:
            return {}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self.meta).items()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore the description of the dataset.

        Raises:
            BaconError: This set holds images of another dataset.
        """
        if not state:
            return
        found: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in state.items()}
        if isinstance(whitening := found.get("whitening"), dict):
            found["whitening"] = Whitening.from_json(whitening)
        meta = DatasetMeta(**found)
        if self.meta is not None and meta != self.meta:
            raise BaconError(
                f"the checkpoint's images are of other data ({meta.name}, {meta.num_classes} classes of "
                f"{meta.size[0]}×{meta.size[1]} pixels) than these: give the data that it was made with."
            )
        self.meta = meta

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("images", "step_size", "soft_labels", "average"):
            if getattr(self, name) is None and (found := state_dict.get(prefix + name)) is not None:
                empty = torch.empty_like(found)
                setattr(self, name, empty if name == "average" else nn.Parameter(empty))
        super()._load_from_state_dict(state_dict, prefix, *args)
