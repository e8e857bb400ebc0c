"""Several processes divide the networks of an evaluation and get the result of a single process, bit for bit."""

import multiprocessing
import os
import socket

import lightning.pytorch as pl
import torch

from bacon_pl.augment import DSA, CutMix
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.evaluation import Comparison, LearningCurve, Run
from bacon_pl.learners import Recipe, SoftLabels
from bacon_pl.networks import ConvNet
from tests.patience import PATIENCE


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


RECIPES = {
    # Two processes get two networks and one; teacher and feature spaces are shared out, too.
    "three networks": ({"num_networks": 3, "soft_labels": SoftLabels(steps=4), "mixing": CutMix()},
                       ["distilled", "random", "herding"]),
    # The teacher's labels of an epoch are the same for all networks, whoever trains them.
    "an epoch's labels": ({"num_networks": 3, "soft_labels": SoftLabels(steps=4, relabel="epoch"), "augment": DSA()},
                          ["distilled", "random"]),
    "labels made once": ({"num_networks": 2, "soft_labels": SoftLabels(steps=4, relabel="never"), "mixing": CutMix()},
                         ["random"]),
    # One of two processes gets nothing to train.
    "one network": ({"num_networks": 1, "optimizer": "adamw"}, ["random"]),
}  # fmt: skip


def evaluate(folder, devices=1):
    """Everything an evaluation leaves behind, by recipe and training set."""
    data = DataModule(name="digits")
    data.setup()
    images = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    distilled = DistilledSet(images, torch.arange(10).repeat_interleave(2), data.meta)
    left = {}
    for name, (settings, sets) in RECIPES.items():
        recipe = Recipe(**{"network": small, "epochs": 4, "batch_size": 12, "coreset_steps": 6, **settings})
        comparison = Comparison(distilled, data.train, data.meta, recipe, {"small": small}, seed=5)
        for training_set in sets:
            trainer = pl.Trainer(
                accelerator="cpu", devices=devices, strategy="ddp" if devices > 1 else "auto", max_epochs=1,
                logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                callbacks=[LearningCurve(data.test, points=2)], default_root_dir=folder,
            )  # fmt: skip
            module = comparison.module(Run("small", training_set))
            trainer.fit(module)
            assert trainer.global_step == module.learners.total_steps
            (logged,) = trainer.test(module, datamodule=data, verbose=False)
            run_result = module.run_result("small")
            left[f"{name}, {training_set}"] = {
                "confusion": run_result.confusion, "loss": run_result.loss, "curve": run_result.curve,
                    "index": module.learners.index,
                "epochs": torch.tensor(run_result.curve_epochs), "logged": torch.tensor(list(logged.values())),
                "weights": torch.cat([p.detach().flatten() for p in module.learners.networks.parameters()]),
            }  # fmt: skip
    return left


def process(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank),
                   "WORLD_SIZE": "2"}  # fmt: skip
    torch.set_num_threads(1)
    torch.save(evaluate(folder, devices=2), folder / f"{rank}.pt")


def test_two_processes_do_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")  # quick: nothing is imported
    processes = [fork.Process(target=process, args=(rank, port, tmp_path)) for rank in range(2)]
    for p in processes:
        p.start()
    try:
        alone = evaluate(tmp_path)
    finally:
        for p in processes:
            p.join(PATIENCE)
            p.kill()
    assert [p.exitcode for p in processes] == [0, 0]
    assert len(alone) == 7
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt")
        for name, values in alone.items():
            for key, value in values.items():
                assert torch.equal(together[name][key], value), (rank, name, key)
    # Networks differ from each other and have learned, so that equality says something.
    first = alone["three networks, distilled"]
    assert len({row.numpy().tobytes() for row in first["loss"]}) == 3
    assert first["curve"].shape == (3, 2) and first["curve"].any()
