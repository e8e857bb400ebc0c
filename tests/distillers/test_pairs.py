"""Pairs of initial and trained networks in place of a pool."""

import pytest
import torch

from bacon_pl.augment import Chain, CutMix
from bacon_pl.checkpoints import Checkpoints, in_folder
from bacon_pl.distillers import DistributionMatching, PairSettings
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import NCFM, CrossEntropy
from tests.distillers.running import distill, small

PAIRS = PairSettings(count=3, epochs=3, augment=Chain(["color", "crop"]), mixing=CutMix(probability=0.5))
NCFM_FRAME = {"objective": NCFM(frequencies=32), "cross_entropy": None, "pairs": PAIRS}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("network", [small, lambda *image: ConvNet(*image, width=4, depth=2, norm="batch")])
def test_the_matched_network_is_between_initial_and_trained(tmp_path, network):
    module = distill(tmp_path, 2, network=network, **NCFM_FRAME)
    pool, networks = module.pool, module.pool.networks
    assert {pool.matched(t) for t in range(30)} == {0, 1, 2}
    shares = [pool.share(t) for t in range(200)]
    assert 0 <= min(shares) < 0.05 and 0.95 < max(shares) < 1 and abs(sum(shares) / 200 - 0.5) < 0.1
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for t in (0, 5):
        pool.advance(t)
        k, share = pool.matched(t), shares[t]
        first, last = networks.state(k, 0), networks.state(k, 3)
        by_hand = network(1, (8, 8), 10)
        mixed = {
            name: share * first[name] + (1 - share) * last[name] for name in first if last[name].is_floating_point()
        }
        by_hand.load_state_dict({**last, **mixed})
        z, logits = pool.forward(k, x)
        torch.testing.assert_close((z, logits), by_hand(x), atol=1e-5, rtol=1e-5)
        again = pool.forward(k, x)  # running statistics have not moved
        assert torch.equal(again[1], logits)
        assert any(not torch.equal(first[name], last[name]) for name in first)


def test_how_they_are_trained():
    recipe = PairSettings(mixing=CutMix(probability=0.5)).recipe(small, "off")
    assert (recipe.epochs, recipe.batch_size, recipe.schedule, recipe.lr_drop) == (60, 128, "milestones", 0.2)
    assert [recipe.lr_at(epoch * 10, 10) for epoch in (39, 40, 50)] == pytest.approx([0.01, 0.002, 0.0004])
    constant = PairSettings(milestones=()).recipe(small, "off")
    assert constant.lr_at(599, 10) == 0.01


def test_runs_repeat_resume_and_share_the_networks(tmp_path):
    whole = distill(tmp_path / "a", 6, flags={"callbacks": [Checkpoints(2)]}, **NCFM_FRAME)
    path = in_folder(tmp_path / "a")[1]
    assert torch.equal(whole.images, distill(tmp_path / "b", 6, ckpt_path=path, **NCFM_FRAME).images)
    distill(tmp_path / "c", 1, seed=3, **NCFM_FRAME)
    assert len(list((tmp_path / "cache" / "networks").iterdir())) == 1
    few = {**NCFM_FRAME, "pairs": None}
    with pytest.raises(BaconError, match="checkpoint is of another run: --model.pairs was"):
        distill(tmp_path / "d", 6, ckpt_path=path, **few)


@pytest.mark.timeout(300)
def test_two_processes_end_in_the_same_bits(tmp_path):
    shared = distill(tmp_path / "a", 3, flags={"devices": 2, "strategy": "ddp_fork"}, **NCFM_FRAME)
    assert torch.equal(shared.images, distill(tmp_path / "b", 3, **NCFM_FRAME).images)


def test_a_cross_entropy_is_of_the_mixed_network(tmp_path):
    plain = distill(tmp_path / "a", 2, **NCFM_FRAME)
    with_ce = distill(tmp_path / "b", 2, **{**NCFM_FRAME, "cross_entropy": CrossEntropy(10.0, "none")})
    assert not torch.allclose(plain.images, with_ce.images)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pairs": PAIRS}, "--model.pairs has no running accuracies for the cross-entropy"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings, sentence):
    with pytest.raises(BaconError, match=sentence):
        DistributionMatching(**settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"count": 0}, "--model.pairs.count must be at least 1"),
        ({"milestones": (0.8, 0.5)}, "--model.pairs.milestones must ascend"),
        ({"lr_drop": 0.0}, "--model.pairs.lr_drop must be positive"),
    ],
)
def test_bad_settings_are_named(settings, sentence):
    with pytest.raises(BaconError, match=sentence):
        PairSettings(**settings)
