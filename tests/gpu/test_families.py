"""On a real device, every family computes what it computes on a CPU, waits nowhere, and resumes."""

from functools import partial

import pytest
import torch

from bacon_pl.augment import DSA
from bacon_pl.checkpoint_files import in_folder, iterations_done
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.evaluation import EvalModule
from bacon_pl.learners import Learners, Recipe, TrainingSet, labeler
from bacon_pl.networks import ConvNet
from tests.distillers import running
from tests.evaluation.test_waits import RECIPES
from tests.gpu.running import FAMILIES, NoWaits, Start, made, moved

pytestmark = pytest.mark.gpu

AGREES = 1e-3
"""Largest distance of the images' movements, relative to them. On a CPU, sums in another order make up to 3e-5."""
RESUMED = ("bacon", "dm", "ncfm", "dc", "dsa", "trajectory-mtt", "recovery")


@pytest.mark.parametrize("name", FAMILIES)
def test_device_and_cpu_agree(name, accelerator, exact, tmp_path):
    on_cpu, _ = moved(name, tmp_path / "cpu", 2)  # trains what both need
    on_device, _ = moved(name, tmp_path / "device", 2, accelerator=accelerator)
    assert on_cpu.norm() > 0
    assert (on_device - on_cpu).norm() < AGREES * on_cpu.norm()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "recovery"])  # which reads at its end
def test_no_iteration_waits(name, accelerator, tmp_path):
    _, module = moved(name, tmp_path, 8, accelerator=accelerator, callbacks=[NoWaits()])
    assert module.iteration == 8


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
def test_no_step_of_an_evaluation_waits(settings, accelerator, tmp_path):
    small = partial(ConvNet, width=4, depth=2)
    recipe = Recipe(**{"network": small, "num_networks": 2, "epochs": 5, "batch_size": 8, "augment": DSA(), **settings})
    data = running.digits()
    data.setup()
    teacher = None if recipe.soft_labels is None else labeler(recipe, data.train, data.meta, 0)
    real = TrainingSet.random(data.train, ipc=1, draws=1, seed=0)
    module = EvalModule(Learners(real, recipe, data.meta, teacher=teacher))
    running.trainer(tmp_path, 8, accelerator=accelerator, devices=1, callbacks=[NoWaits()]).fit(module)
    assert (module.learners.epoch_loss != 0).any()


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_run(name, accelerator, exact, tmp_path):
    """Where a device gives the same bits twice, resuming does; else (DSA's backward pass) it comes near."""
    distance, whole = moved(name, tmp_path / "whole", 4, accelerator=accelerator, callbacks=[Checkpoints(2)])
    _, again = moved(name, tmp_path / "again", 4, accelerator=accelerator)
    resumed, data = made(name)
    half, start = in_folder(tmp_path / "whole")[1], Start()
    trainer = running.trainer(tmp_path / "resumed", 4, accelerator=accelerator, devices=1, callbacks=[start])
    trainer.fit(resumed, datamodule=data, ckpt_path=half)
    assert iterations_done(half) == 2 and resumed.iteration == 4
    assert not torch.equal(start.images, resumed.images.detach().cpu())
    if torch.equal(whole.images, again.images):
        assert torch.equal(resumed.images, whole.images)
    else:
        assert accelerator == "gpu"
        assert (resumed.images - whole.images).norm().cpu() < AGREES * distance.norm()


def test_compiled_iterations_are_near_plain_ones(accelerator, tmp_path):
    """Compiled, and in bfloat16 where the device has it."""
    if accelerator == "cpu":
        pytest.skip("other tests compile for a CPU")
    plain, _ = moved("bacon", tmp_path / "plain", 2, accelerator=accelerator, acceleration="off")
    compiled, module = moved("bacon", tmp_path / "compiled", 2, accelerator=accelerator, acceleration="on")
    assert module.pool.model.plan.compiled and not torch.equal(plain, compiled)
    assert (compiled - plain).norm() < 0.2 * plain.norm()  # bfloat16 has three digits
