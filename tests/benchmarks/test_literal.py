"""The benchmark's opponent does the same mathematics as the library."""

from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from bacon_pl.augment import DSA
from bacon_pl.data import DataModule
from bacon_pl.distillers import DistributionMatching, PoolSettings
from bacon_pl.learners import Learners, Recipe, TrainingSet
from bacon_pl.networks import ConvNet
from benchmarks.literal import LiteralDistillation
from benchmarks.literal_evaluation import LiteralEvaluation

ITERATIONS = 4
SMALL = partial(ConvNet, width=8)


class Recorder(pl.Callback):
    """Keeps what an iteration leaves behind."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.buffers: list[Tensor] = []

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.initial = module.images.detach().clone()

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        self.images.append(module.images.detach().clone())
        self.buffers.append(trainer.optimizers[0].state[module.images]["momentum_buffer"].clone())


class Recorded(DistributionMatching):
    """Keeps every class's loss and the matched network's accuracy."""

    def report(self, terms: dict[str, Tensor], accuracy: Tensor) -> None:
        self.losses = [*getattr(self, "losses", []), torch.stack(list(terms.values())).sum(0).detach()]
        self.accuracies = [*getattr(self, "accuracies", []), float(accuracy)]
        super().report(terms, accuracy)


@pytest.fixture
def double() -> Any:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def test_literal_distillation_and_ours_agree(tmp_path: Path, double: None) -> None:
    pool = PoolSettings(initial=2, push_every=1, capacity=4, train_steps=3)  # full in the third iteration
    data = DataModule(name="digits", batch_real=12, pool_batch=32)
    module = Recorded(ipc=2, network=SMALL, pool=pool, accuracy_window=3, acceleration="off", seed=5)
    recorder = Recorder()
    trainer = pl.Trainer(
        max_steps=ITERATIONS,
        accelerator="cpu",
        precision="64-true",
        logger=False,
        callbacks=[recorder],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, datamodule=data)
    assert any(module.accuracies)  # so cross-entropy was in some loss

    torch.set_default_dtype(torch.float64)  # the Trainer has set it back
    literal = LiteralDistillation(
        recorder.initial, data.meta, 2, SMALL, pool, DSA(), accuracy_window=module.accuracy_window, seed=5
    )
    classes, lr, m = data.meta.num_classes, module.lr, module.momentum
    # Method.md §5, with the position before our step written as the one after it plus the step.
    c = torch.arange(classes).repeat_interleave(2).view(-1, 1, 1, 1)
    ahead = lr * (m ** (classes - c) - m**classes) / (1 - m)
    for t in range(ITERATIONS):
        losses = literal.iteration(data.iteration_batch(t, 5))
        torch.testing.assert_close(torch.tensor(losses), module.losses[t], rtol=1e-6, atol=1e-6)
        published = recorder.images[t] + ahead * recorder.buffers[t]
        torch.testing.assert_close(literal.images.detach(), published, rtol=0, atol=1e-6)
        assert (literal.images.detach() - recorder.images[t]).abs().max() > 1e-3  # the mapping is needed
    assert [member.network_id for member in literal.pool] == list(module.pool.active(ITERATIONS - 1))
    for member in literal.pool:
        slot = module.pool.slot(member.network_id)
        torch.testing.assert_close(
            member.accuracy, float(module.pool.accuracy(member.network_id)), rtol=1e-6, atol=1e-6
        )
        for name, weight in member.network.named_parameters():
            torch.testing.assert_close(weight.detach(), module.pool.weights[name][slot], rtol=0, atol=1e-9)


def test_literal_evaluation_and_ours_agree(double: None) -> None:
    data = DataModule(name="digits")
    data.setup()
    distilled = DistributionMatching(ipc=2)
    distilled.synthetic.initialize(data.train, data.meta, 0)
    training_set = TrainingSet.distilled(distilled.distilled())
    training_set = TrainingSet("", training_set.images.double(), training_set.labels, training_set.index, 0)
    recipe = Recipe(network=SMALL, num_networks=2, epochs=2, batch_size=48, acceleration="off")
    ours = Learners(training_set, recipe, data.meta, 3)
    literal = LiteralEvaluation(training_set, recipe, data.meta, 3)

    optimizer = ours.optimizer()
    losses = []
    for step in range(ours.total_steps):
        ours.schedule(optimizer, step)
        optimizer.zero_grad()
        losses.append(ours.losses(step))
        losses[-1].sum().backward()
        optimizer.step()
    published = [[loss for epoch in range(2) for loss in literal.epoch(k, epoch)] for k in range(2)]
    torch.testing.assert_close(torch.tensor(published).T, torch.stack(losses).detach(), rtol=1e-9, atol=1e-9)
