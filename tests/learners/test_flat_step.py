"""What experts' training adds to that of other networks: flat steps, short epochs, and files of half the size."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from bacon_pl.augment import NoAugmentation
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError
from bacon_pl.evaluation.lines import recipe_line
from bacon_pl.learners import FlatStep, Learners, Recipe, TrainingSet, trained_networks
from bacon_pl.networks import ConvNet

RECIPE = Recipe(
    network=partial(ConvNet, width=4, depth=2), num_networks=2, epochs=2, batch_size=256, lr=0.05, epoch_steps=2,
    augment=NoAugmentation(), lr_drop=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def norm(tensors):
    return torch.cat([t.flatten() for t in tensors]).norm()


def test_a_flat_step_is_the_published_one():
    torch.manual_seed(0)
    weights, g, u = ([torch.randn(shape, dtype=torch.double) for shape in ((3, 2), (4,))] for _ in range(3))
    flat = FlatStep(rho=0.1, alpha=0.3)
    moves = flat.uphill(weights, g)
    # Its length is rho where every weight has its own measure, the inverse of its size.
    torch.testing.assert_close(
        norm([m / w.abs() for m, w in zip(moves, weights, strict=True)]), torch.tensor(0.1).double()
    )
    found = flat.combined(g, u)
    v = [(step - b) / -0.3 for step, b in zip(found, u, strict=True)]
    dot = sum((a * b).sum() for a, b in zip(v, u, strict=True))
    assert abs(float(dot)) < 1e-12  # orthogonal to the second gradient
    along = [a - b for a, b in zip(g, v, strict=True)]
    ratios = torch.cat([(a / b).flatten() for a, b in zip(along, u, strict=True)])
    torch.testing.assert_close(ratios, ratios[:1].expand_as(ratios))
    assert all(torch.equal(a, b) for a, b in zip(FlatStep(alpha=0.0).combined(g, u), u, strict=True))
    for settings in ({"rho": 0.0}, {"alpha": -1.0}, {"rho": float("nan")}):
        with pytest.raises(BaconError, match="a flat step's .* must be"):
            FlatStep(**settings)


def test_learners_take_flat_steps_each_by_itself_and_keep_their_weights_in_between(data):
    learners = Learners(TrainingSet.whole(data.train), replace(RECIPE, flat=FlatStep()), data.meta)
    before = [p.detach().clone() for p in learners.parameters()]
    losses = learners.losses(0)
    learners.descend(0)
    assert all(torch.equal(a, b) for a, b in zip(before, learners.parameters(), strict=True))
    plain = torch.autograd.grad(losses.sum(), list(learners.networks.parameters()))
    assert not all(torch.equal(p.grad, g) for p, g in zip(learners.networks.parameters(), plain, strict=True))
    alone = Learners(TrainingSet.whole(data.train), replace(RECIPE, flat=FlatStep()), data.meta, numbers=[1])
    alone.descend(0)
    pairs = zip(alone.networks[0].parameters(), learners.networks[1].parameters(), strict=True)
    assert all(torch.equal(a.grad, b.grad) for a, b in pairs)


def test_short_epochs_begin_passes_of_their_own(data):
    learners = Learners(TrainingSet.whole(data.train), RECIPE, data.meta)
    assert (learners.steps_per_epoch, learners.total_steps) == (2, 4)
    whole = Learners(TrainingSet.whole(data.train), replace(RECIPE, epoch_steps=None), data.meta)
    passed = whole.steps_per_epoch
    assert passed > 2
    for epoch, step in ((0, 0), (0, 1), (1, 0), (1, 1)):
        a, b = learners.batch(0, 2 * epoch + step), whole.batch(0, passed * epoch + step)
        assert torch.equal(a[0], b[0])
    assert Learners(TrainingSet.whole(data.train), replace(RECIPE, epoch_steps=99), data.meta).steps_per_epoch == passed
    told = recipe_line(replace(RECIPE, flat=FlatStep()).described(), 0)
    assert "2 epochs of at most 2 steps" in told and "sgd in flat steps" in told


def test_files_of_half_the_size_are_networks_of_their_own(data, tmp_path):
    make = partial(trained_networks, data.train, data.meta, RECIPE, folder=tmp_path, snapshots=(0, 1))
    full, half = make(), make(storage="bfloat16")
    assert full.folder != half.folder and full.snapshots == (0, 1)
    for epochs in (0, 1):
        wanted, found = full.state(0, epochs), half.state(0, epochs)
        assert all(torch.equal(found[name], t.bfloat16()) for name, t in wanted.items())
    assert make(storage="bfloat16").missing() == {}
    wild = replace(RECIPE, lr=1e8, epochs=1)
    with pytest.raises(BaconError, match=r"'\S+' is not finite in float16"):
        trained_networks(data.train, data.meta, wild, folder=tmp_path, storage="float16")
