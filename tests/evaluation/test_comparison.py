"""Comparisons: what each run is trained by, and that impossible ones are reported before any training."""

from functools import partial

import pytest
import torch

from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Comparison, Run
from bacon_pl.evaluation.storage import storage
from bacon_pl.learners import Recipe, SoftLabels, TrainingSet
from bacon_pl.networks import ConvNet, by_name

SMALL = partial(ConvNet, width=4, depth=2)


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def compared(data, baselines, factor=1, seed=0, **settings):
    distilled = DistilledSet(torch.zeros(10, 1, 8, 8), torch.arange(10), data.meta, factor=factor)
    recipe = Recipe(network=SMALL, num_networks=2, epochs=3, **settings)
    return Comparison(distilled, data.train, data.meta, recipe, {"small": SMALL}, baselines, seed=seed)


def test_epochs_for_all_real_images_are_theirs_alone(data):
    one = compared(data, ["random", "whole"], whole_epochs=1)
    epochs = {run.training_set: one.recipe_of(run).epochs for run in one.runs}
    assert epochs == {"distilled": 3, "random": 3, "whole": 1}


def test_draws_are_those_of_its_seed(data):
    learners = compared(data, ["random"], seed=6).module(Run("small", "random")).learners
    assert learners.seed == 6
    assert torch.equal(learners.index, TrainingSet.random(data.train, 1, 2, 6).index)
    (teacher,) = compared(data, ["random"], seed=6, soft_labels=SoftLabels(steps=1)).teachers.teachers
    assert teacher.origin["seed"] == 6


def test_fixed_labels_of_tiles_are_counted_for_each_tile(data):
    one = compared(data, ["tiles"], factor=2, soft_labels=SoftLabels(steps=1, relabel="never"))
    learners = one.module(Run("small", "tiles")).learners
    # A byte for the class of each canvas, and ten half-precision numbers for each of its four tiles.
    assert storage(learners, one.distilled, one.teachers, False)["labels"] == 10 + 2 * 10 * 40


def test_an_architecture_that_does_not_take_the_images_is_told_at_once(data):
    distilled = DistilledSet(torch.zeros(10, 1, 8, 8), torch.arange(10), data.meta)
    state = torch.random.get_rng_state()
    with pytest.raises(BaconError, match="8×8 pixels are too small for LeNet"):
        Comparison(
            distilled, data.train, data.meta, Recipe(), {name: by_name(name) for name in ("mlp", "lenet")}, ["random"]
        )
    assert torch.equal(torch.random.get_rng_state(), state)
