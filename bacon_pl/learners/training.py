"""The training of networks that are kept as files: a few at a time, and where it was cut short it goes on."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor

from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.distributed import first_then_others, gather_objects, process_rank, together, world_size
from bacon_pl.errors import BaconError
from bacon_pl.learners import network_files as files
from bacon_pl.learners.learners import Learners
from bacon_pl.learners.recipe import Recipe
from bacon_pl.learners.training_set import TrainingSet
from bacon_pl.networks import Network
from bacon_pl.networks.base import state_of
from bacon_pl.pace import Pace, duration

if TYPE_CHECKING:  # which is made by what stands here
    from bacon_pl.learners.trained import TrainedNetworks

SIDE_BY_SIDE = 5
"""Networks that a GPU trains at once; a CPU gains nothing by more than one."""

SAVE_EVERY = 30.0
"""Seconds of training after which the state of networks that are not finished is saved, at the end of an epoch."""


class Training:
    """Trains the networks that are missing, a few at a time."""

    def __init__(
        self,
        networks: TrainedNetworks,
        store: LabeledImages,
        meta: DatasetMeta,
        recipe: Recipe,
        seed: int,
        device: torch.device,
        template: Network,
    ) -> None:
        self.networks = networks
        self.real = TrainingSet.whole(store)
        self.recipe = recipe
        self.device = device
        self.meta = meta
        self.seed = seed
        together = device.type == "cuda" and template.batchable and not template.draws_at_random
        self.at_once = world_size() * (SIDE_BY_SIDE if together else 1)
        self.saved = time.monotonic()
        self.pace = Pace(first=10.0)

    def run(self) -> None:
        """Train all that is missing."""
        missing = self.networks.missing(warn=process_rank() == 0)  # anew: another run may have been at it
        done_before = self._done_before(missing)
        todo = sorted(missing, key=lambda number: (done_before[number], number))
        while todo:
            # Networks that are trained together take the same steps.
            same = [number for number in todo if done_before[number] == done_before[todo[0]]]
            group = sorted(same[: self.at_once])
            todo = [number for number in todo if number not in group]
            self._train(group, done_before[group[0]], {number: missing[number] for number in group})

    def _train(self, group: list[int], start: int, missing: dict[int, set[int]]) -> None:
        """Train some networks from the end of an epoch on, and write what is missing of them."""
        began = self.saved = time.monotonic()
        learners = Learners(self.real, self.recipe, self.meta, self.seed, numbers=group).to(self.device)
        learners.prepare()
        optimizer = learners.optimizer()
        if start:
            self._take_up(learners, optimizer, start)
        last = max(epochs for lacking in missing.values() for epochs in lacking)
        names = ", ".join(str(number + 1) for number in group)
        if last > start:
            rank_zero_info(
                f"Training network {names} of {self.networks.count} on the {len(self.real.images)} real images, "
                f"{last - start} epochs{f' after {start}' if start else ''}."
            )
        for epoch in range(start, last + 1):
            if any(epoch in lacking for lacking in missing.values()):
                self._keep(learners, epoch, missing)
            if epoch == last:
                break
            if epoch == start:
                self.pace.begin(start * learners.steps_per_epoch, last * learners.steps_per_epoch)
            self._epoch(learners, optimizer, epoch, f"network {names} of {self.networks.count}")
            if epoch + 1 < last and any(gather_objects(time.monotonic() - self.saved >= SAVE_EVERY)):
                together(partial(self._save, learners, optimizer, epoch + 1))
        for number in group:
            self.networks.unfinished(number).unlink(missing_ok=True)
        if last > start:
            rank_zero_info(f"Network {names} of {self.networks.count} took {time.monotonic() - began:.0f} s.")

    @torch.enable_grad()
    def _epoch(self, learners: Learners, optimizer: torch.optim.Optimizer, epoch: int, names: str) -> None:
        for step in range(epoch * learners.steps_per_epoch, (epoch + 1) * learners.steps_per_epoch):
            learners.schedule(optimizer, step)
            losses = learners.descend(step)
            optimizer.step()
            if self.pace.step(step + 1):
                loss = f", loss {losses.mean():.3g}" if len(losses) else ""  # waits for the device
                self.pace.mark()
                rank_zero_info(f"{names}: {self._where(learners)}{loss}{self._left()}")

    def _where(self, learners: Learners) -> str:
        epochs = self.pace.total // learners.steps_per_epoch
        return f"epoch {self.pace.done / learners.steps_per_epoch:.1f} of {epochs}"

    def _left(self) -> str:
        left = self.pace.seconds_left
        return "" if left is None else f", {duration(left)} left"

    def _keep(self, learners: Learners, epoch: int, missing: dict[int, set[int]]) -> None:
        """Write the networks as they are; first one process, then those that do not see its files."""
        learners.broadcast_networks()
        states = {
            number: self.networks.stored(state_of(network))
            for number, network in zip(learners.numbers, learners.networks, strict=True)
            if epoch in missing[number]
        }
        for number, state in states.items():
            self._check(state, number)

        def write() -> None:
            for number, state in states.items():
                if not self.networks.usable(number, epoch):
                    self.networks.write(number, epoch, state)

        first_then_others(write)  # who does not see the first one's files, writes his own

    @staticmethod
    def _check(state: dict[str, Tensor], number: int) -> None:
        if wrong := [name for name, t in state.items() if t.is_floating_point() and not t.isfinite().all()]:
            raise BaconError(
                f"network {number + 1} trained on the real images went wrong: '{wrong[0]}' is not finite in "
                f"{str(state[wrong[0]].dtype).removeprefix('torch.')}; lower its learning rate."
            )

    # Training that is cut short.

    def _save(self, learners: Learners, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Save the state of this process's networks after so many epochs."""
        for i in learners.share:
            network, number = learners.networks[i], learners.numbers[i]
            held = {f"network.{name}": t for name, t in state_of(network).items()}
            for j, p in enumerate(network.parameters()):
                state: dict[str, Any] = optimizer.state.get(p, {})
                held |= {f"optimizer.{j}.{key}": t for key, t in state.items() if isinstance(t, Tensor)}
            files.write(self.networks.unfinished(number), held, self.networks.facts(number, epochs))
        self.saved = time.monotonic()

    def _take_up(self, learners: Learners, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Bring this process's networks to where they were saved."""
        for i in learners.share:
            network, number = learners.networks[i], learners.numbers[i]
            held = files.read(self.networks.unfinished(number), self.networks.facts(number, epochs))
            with torch.no_grad():
                for name, t in state_of(network).items():
                    t.copy_(held[f"network.{name}"])
            for j, p in enumerate(network.parameters()):
                prefix = f"optimizer.{j}."
                state = {name[len(prefix) :]: t for name, t in held.items() if name.startswith(prefix)}
                if state:  # a count of steps stays on the CPU
                    optimizer.state[p] = {key: t.to(p.device) if t.ndim else t for key, t in state.items()}

    def _done_before(self, missing: dict[int, set[int]]) -> dict[int, int]:
        """After how many epochs the training of each network can be taken up, as every process sees it; 0: anew."""
        own = {}
        for number, lacking in missing.items():
            epochs = files.fact(self.networks.unfinished(number), "epochs")
            own[number] = 0
            if isinstance(epochs, int) and 0 < epochs <= min(lacking):
                with contextlib.suppress(files.DamagedError):
                    files.read(self.networks.unfinished(number), self.networks.facts(number, epochs))
                    own[number] = epochs
        views = gather_objects(own)
        return {number: epochs if all(v[number] == epochs for v in views) else 0 for number, epochs in own.items()}
