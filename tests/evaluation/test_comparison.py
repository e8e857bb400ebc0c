"""Impossible comparisons are reported before any training."""

import pytest
import torch

from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Comparison
from bacon_pl.learners import Recipe
from bacon_pl.networks import by_name


def test_an_architecture_that_does_not_take_the_images_is_told_at_once():
    data = DataModule(name="digits")
    data.setup()
    distilled = DistilledSet(torch.zeros(10, 1, 8, 8), torch.arange(10), data.meta)
    state = torch.random.get_rng_state()
    with pytest.raises(BaconError, match="8×8 pixels are too small for LeNet"):
        Comparison(
            distilled, data.train, data.meta, Recipe(), {name: by_name(name) for name in ("mlp", "lenet")}, ["random"]
        )
    assert torch.equal(torch.random.get_rng_state(), state)
