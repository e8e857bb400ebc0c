"""What the recipes of the papers need: schedules, decay of matrices alone, resets, a set's own step size."""

import itertools
import re

import pytest
import torch

from bacon_pl.augment import NoAugmentation
from bacon_pl.errors import BaconError
from bacon_pl.learners import Recipe
from bacon_pl.learners.fingerprint import described
from bacon_pl.learners.optimizers import make_optimizer
from bacon_pl.networks import ConvNet
from tests.learners.test_soft_labels import META, recipe, small, store


@pytest.mark.parametrize(("name", "stretch"), [("lr_factor_rded", 2.0), ("lr_factor_sre2l", 1.0)])
def test_cosines_by_epoch_are_the_goldens(golden, name, stretch):
    expected = golden("kd_loss")[name]
    epochs = len(expected) - 1
    half = recipe(schedule="cosine", lr_by_epoch=True, cosine_stretch=stretch, epochs=epochs, lr=0.3)
    for per_epoch in (1, 7):
        found = torch.tensor([half.lr_at(step, per_epoch) for step in range(epochs * per_epoch)], dtype=torch.float64)
        torch.testing.assert_close(
            found, 0.3 * expected[:-1].repeat_interleave(per_epoch), rtol=1e-12, atol=1e-14
        )  # the last, after all epochs, is never used


def test_a_warm_up_by_epoch_goes_over_into_the_cosine():
    warm = recipe(schedule="cosine", lr_by_epoch=True, warmup=0.1, epochs=20, lr=1.0)
    rates = [warm.lr_at(step, 4) for step in range(80)]
    assert rates[0] == 0.01 and rates[:8] == sorted(rates[:8]) and rates[8] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[8:])) and rates[8:12] == [1.0] * 4


def test_decay_may_leave_out_what_is_no_matrix():
    network = small(1, (8, 8), 3)
    whole, matrices = (
        make_optimizer(recipe(optimizer="adamw", decay_norms_and_biases=all_, weight_decay=0.5, betas=(0.8, 0.9)),
                       network.parameters())
        for all_ in (True, False)
    )  # fmt: skip
    assert len(whole.param_groups) == 1 and whole.defaults["betas"] == (0.8, 0.9)
    decayed, rest = matrices.param_groups
    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)
    assert {p.ndim for p in decayed["params"]} == {2, 4} and {p.ndim for p in rest["params"]} == {1}
    assert len(decayed["params"]) + len(rest["params"]) == len(list(network.parameters()))


def test_milestones_reset_the_optimizer_where_that_is_asked_for():
    published = recipe(schedule="milestones", milestones=(0.5015,), reset_at_milestones=True, epochs=1001)
    changed = [step for step in range(2 * 1001) if published.lr_at(step, 2) != published.lr]
    assert changed[0] == 2 * 502
    assert [step for step in range(2 * 1001) if published.resets_at(step, 2)] == [2 * 502]
    assert not any(recipe(schedule="milestones", milestones=(0.5,)).resets_at(step, 2) for step in range(4))
    assert [step for step in range(10) if recipe(epochs=5).resets_at(step, 2)] == [5]
    assert not any(recipe(epochs=5, lr_drop=1.0).resets_at(step, 2) for step in range(10))


def test_ends_of_the_warm_up_and_milestones_are_rounded():
    drops = recipe(epochs=10, schedule="milestones", milestones=(0.37,), lr=1.0)  # after 3.7 epochs
    assert [drops.lr_at(step, 1) for step in (3, 4)] == pytest.approx([1.0, 0.1])
    warm = recipe(epochs=10, warmup=0.37, lr_drop=1.0, lr=1.0)  # 3.7 steps
    assert [warm.lr_at(step, 1) for step in (3, 4)] == pytest.approx([0.01 + 0.99 * 3 / 4, 1.0])


def test_a_stored_rate_is_a_number_before_anything_is_trained():
    own = recipe(lr="stored", fixed_lr=0.2)
    assert (own.with_rate_of(0.5).lr, own.with_rate_of(None).lr) == (0.5, 0.2)
    assert recipe(lr=0.3).with_rate_of(0.5).lr == 0.3
    with pytest.raises(BaconError, match="lr stored is the step size that was learned with a set"):
        own.lr_at(0, 1)


def test_networks_that_were_trained_before_these_options_stay_in_use():
    before = described(store(), META, recipe(), 0)["recipe"]
    assert not before.keys() & {
        "reset_at_milestones", "lr_by_epoch", "cosine_stretch", "decay_norms_and_biases", "betas", "fixed_lr",
        "cut_tiles", "warmup", "soft_labels",
    }  # fmt: skip
    other = recipe(optimizer="adamw", decay_norms_and_biases=False, betas=(0.5, 0.6))
    told = described(store(), META, other, 0)["recipe"]
    assert (told["decay_norms_and_biases"], told["betas"]) == (False, [0.5, 0.6])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": "learned"}, "lr must be a number or 'stored', got 'learned'"),
        ({"fixed_lr": 0.5}, "fixed_lr acts only with --evaluation.lr stored"),
        ({"cosine_stretch": 2.0}, "cosine_stretch acts only with --evaluation.schedule cosine"),
        ({"lr_by_epoch": True}, "lr_by_epoch acts only with --evaluation.schedule cosine"),
        ({"cosine_stretch": 0.5, "schedule": "cosine"}, "cosine_stretch must be at least 1"),
        ({"reset_at_milestones": True}, "acts only with --evaluation.schedule milestones"),
        ({"betas": (0.5, 0.9)}, "betas acts only with --evaluation.optimizer adamw"),
        ({"betas": (0.5, 1.0), "optimizer": "adamw"}, r"betas must be two numbers in \[0, 1\)"),
        ({"momentum": -0.5}, r"--evaluation.momentum must be in \[0, 1\), got -0.5"),
        ({"momentum": float("nan")}, r"--evaluation.momentum must be in \[0, 1\)"),
        ({"warmup": 1.0}, r"--evaluation.warmup must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "--evaluation.weight_decay must be zero or positive and finite, got -1.0"),
        ({"weight_decay": float("nan")}, "--evaluation.weight_decay must be zero or positive and finite"),
    ],
)
def test_options_act_or_are_refused(settings, message):
    with pytest.raises(BaconError) as error:
        Recipe(network=ConvNet, augment=NoAugmentation(), **settings)
    assert re.search(message, str(error.value))
