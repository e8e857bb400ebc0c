"""No step of an evaluation's training makes a GPU wait: the lines at which one would are named, on a CPU."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F

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
from bacon_pl.distilled_set import BatchLabels, StoredLabels
from bacon_pl.distilled_set.stored_labels import Orders
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
        taught = recipe.soft_labels is not None and recipe.soft_labels.source != "folder"
        teachers = None if not taught else labeler(recipe, data.train, data.meta, 0)
        real = training_set or TrainingSet.random(data.train, ipc=1, draws=1, seed=0)
        module = EvalModule(Learners(real, recipe, data.meta, teacher=teachers))
        gpu.trainer(max_steps=6, default_root_dir=root).fit(module)
        assert not torch.equal(module.learners.epoch_loss.cpu(), torch.zeros(2, 3))
    stored = recipe.soft_labels is not None and not taught
    assert bool(gpu.copies) == stored  # for copies from pinned memory nobody waits
    return gpu


@pytest.mark.parametrize("settings", RECIPES.values(), ids=RECIPES)
def test_no_step_waits(data, tmp_path, settings):
    train(data, tmp_path, **settings).raise_if_any()


def test_no_step_on_tiles_waits(data, tmp_path):
    tiles = TrainingSet.tiles(data.train, data.meta, 1, 2, "bilinear", 1, 0)
    train(data, tmp_path, tiles).raise_if_any()


@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
def test_labels_stored_for_every_batch_do_not_let_it_wait(data, tmp_path, mixing):
    ten = TrainingSet.random(data.train, ipc=1, draws=1, seed=0)

    def read(epoch, number):
        chosen = Orders(10)[epoch][5 * number :][:5]
        crops, flipped = torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 5), torch.tensor([True, False, True, True, False])
        mixed = {"none": (None, None, None), "mixup": (1, 0.5, None), "cutmix": (1, 0.5, (1, 1, 4, 4))}[mixing]
        partner = None if mixed[0] is None else torch.arange(5).roll(1)
        return BatchLabels(chosen, crops, flipped, partner, *mixed[1:], 9 * F.one_hot(chosen, 10).half())

    images, labels = data.meta.normalize(ten.images[ten.index[0]], torch.float32), torch.arange(10)
    stored = StoredLabels(10, 10, 3, 5, read)
    given = TrainingSet("distilled", images, labels, torch.arange(10)[None], 640, batch_labels=stored)
    soft = SoftLabels(source="folder", folder="x")
    train(data, tmp_path, given, soft_labels=soft, augment=NoAugmentation(), batch_size=5).raise_if_any()


@pytest.mark.parametrize("augment", [AutoAugment(), RandAugment()])
def test_only_torchvision_waits(data, tmp_path, augment):
    places = {wait.where.partition(":")[0] for wait in train(data, tmp_path, augment=augment).waits}
    assert places == {"bacon_pl/augment/searched.py"}
