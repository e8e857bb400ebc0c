"""No step of an evaluation's training makes a GPU wait: the lines at which one would are named, on a CPU."""

from functools import partial

import pytest
import torch

from bacon_pl.augment import (
    DSA,
    AutoAugment,
    Chain,
    CropScaleRotate,
    CutMix,
    MixUp,
    NoAugmentation,
    RandAugment,
    ResizedCrop,
    Tiles,
)
from bacon_pl.data import DataModule
from bacon_pl.evaluation import EvalModule
from bacon_pl.learners import FlatStep, Learners, Recipe, SoftLabels, TeacherSettings, TrainingSet, labeler
from bacon_pl.networks import ConvNet
from bacon_pl.pretend import PretendGPU

TEACHER = TeacherSettings(epochs=1, batch_size=256)
RECIPES = {
    "dsa": {},
    "adamw": {"augment": NoAugmentation(), "optimizer": "adamw", "schedule": "cosine", "warmup": 0.2},
    "cutmix": {"augment": Chain(["color", "crop"]), "mixing": CutMix()},
    "mixup": {"mixing": MixUp(), "schedule": "milestones", "milestones": (0.5,)},
    "resized": {"augment": ResizedCrop()},
    "crop, scale or rotate": {"augment": CropScaleRotate()},
    "tiles": {"augment": Tiles(2)},
    "flat": {"flat": FlatStep()},
    "batch-norm": {"network": partial(ConvNet, width=4, depth=2, norm="batch")},
    "soft": {"soft_labels": SoftLabels(teacher=TEACHER, loss="cross_entropy"), "mixing": CutMix()},
    "soft-epoch": {"soft_labels": SoftLabels(teacher=TEACHER, relabel="epoch", half=True)},
    "soft-never": {"soft_labels": SoftLabels(teacher=TEACHER, relabel="never"), "mixing": MixUp()},
}


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def train(data, root, training_set=None, **settings):
    """Train two networks there; returns what was noted."""
    small = partial(ConvNet, width=4, depth=2)
    recipe = Recipe(**{"network": small, "num_networks": 2, "epochs": 3, "batch_size": 8, "augment": DSA(), **settings})
    with PretendGPU() as gpu:
        teachers = None if recipe.soft_labels is None else labeler(recipe, data.train, data.meta, 0)
        real = training_set or TrainingSet.random(data.train, ipc=1, draws=1, seed=0)
        module = EvalModule(Learners(real, recipe, data.meta, teacher=teachers))
        gpu.trainer(max_steps=6, default_root_dir=root).fit(module)
        assert not torch.equal(module.learners.epoch_loss.cpu(), torch.zeros(2, 3))
    assert gpu.copies == []
    return gpu


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
def test_no_step_waits(data, tmp_path, settings):
    train(data, tmp_path, **settings).raise_if_any()


def test_no_step_on_tiles_waits(data, tmp_path):
    tiles = TrainingSet.tiles(data.train, data.meta, 1, 2, "bilinear", 1, 0)
    train(data, tmp_path, tiles).raise_if_any()


@pytest.mark.parametrize("augment", [AutoAugment(), RandAugment()])
def test_only_torchvision_waits(data, tmp_path, augment):
    places = {wait.where.partition(":")[0] for wait in train(data, tmp_path, augment=augment).waits}
    assert places == {"bacon_pl/augment/searched.py"}
