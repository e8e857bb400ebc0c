"""Coordinates of draws: every draw of a run has the run's seed and all that it should depend on."""

from itertools import product

import pytest
import torch

from bacon_pl import rng
from bacon_pl.augment import DSA, CutMix
from bacon_pl.distillers import GradientMatching, NetworkSettings, PoolSettings, Reference
from bacon_pl.learners import Learners, Recipe, TrainingSet
from bacon_pl.networks import Network
from bacon_pl.objectives import IID, NCFM, Combined, Sampler
from tests.distillers import trajectories
from tests.distillers.running import digits, distill, small
from tests.distillers.test_pairs import NCFM_FRAME
from tests.distillers.test_recovery import recover

SEED = 7


class Dropping(Network):
    """Draws in every pass."""

    def __init__(self, channels, size, num_classes):
        super().__init__()
        self.drop = torch.nn.Dropout(0.5)
        self.classifier = torch.nn.Linear(channels * size[0] * size[1], num_classes)

    def embed(self, x):
        return self.drop(x).flatten(1)


class Draws:
    """Coordinates of all draws by purpose, which comes after the seed. Tensors, such as rows, are left out."""

    def __init__(self):
        self.found = {}

    def recording(self, original):
        def call(*keys):
            if len(keys) > 1 and isinstance(keys[1], str):
                self.found.setdefault(keys[1], set()).add(tuple(k for k in keys if not isinstance(k, torch.Tensor)))
            return original(*keys)

        return call

    def of(self, purpose, first=None, last=None):
        """What follows seed and purpose, or some of it."""
        assert {keys[0] for keys in self.found[purpose]} == {SEED}
        return {keys[2:][first:last] for keys in self.found[purpose]}


@pytest.fixture
def draws(monkeypatch):
    made = Draws()
    for name in ("bits", "derive"):
        monkeypatch.setattr(rng, name, made.recording(getattr(rng, name)))
    return made


def every(*parts):
    """All combinations of coordinates; a number stands for those below it."""
    return set(product(*(range(part) if isinstance(part, int) else part for part in parts)))


def test_distribution_matching(tmp_path, draws):
    both = Combined([NCFM(frequencies=32, sampler=Sampler()), NCFM(frequencies=32, sampler=Sampler())])
    pool = PoolSettings(initial=2, push_every=2, capacity=4, train_networks=2, train_steps=2)
    distill(tmp_path, 3, seed=SEED, pool=pool, network=Dropping, objective=both)
    assert draws.of("initial images") == {()}
    assert draws.of("network") == every(4)
    for purpose in ("matching", "matched network", "trained networks"):
        assert draws.of(purpose) == every(3), purpose
    assert draws.of("augment", 0, 1) == every(3)
    assert draws.of("objective", 0, 3) == every(3, 2, ["frequencies", "sampler noise"])  # of each objective
    assert draws.of("plain", 0, 1) == every(3)
    # The number of the network comes first.
    assert draws.of("training", 1) == every(3, 2)
    assert draws.of("forward", 1) == every(["real", "synthetic"], 3)


def test_networks_that_were_trained_before(tmp_path, draws):
    distill(tmp_path / "a", 3, seed=SEED, **NCFM_FRAME)
    for purpose in ("pair", "share of the initial weights"):
        assert draws.of(purpose) == every(3), purpose
    assert draws.of("calibration augment", 0, 1) == every(3)
    distill(tmp_path / "b", 3, seed=SEED, objective=IID(), reference=Reference(count=2, epochs=1))
    assert draws.of("reference network") == every(3)


def test_gradient_matching(tmp_path, draws):
    networks = NetworkSettings(renew_every=2, synthetic_epochs=2, batch_size=16, augment=DSA(), mixing=CutMix())
    module = GradientMatching(ipc=2, factor=2, network=small, networks=networks, synthetic_batch=3, seed=SEED)
    distill(tmp_path, 4, module=module)
    assert draws.of("network") == every(2)
    assert draws.of("matching") == draws.of("synthetic images") == draws.of("augment", 0, 1) == every(4)
    # Networks are trained after the first of their two iterations, in two epochs of five steps.
    assert draws.of("synthetic order") == every([0, 2], 2)
    for purpose in ("training augmentation", "training mixing"):
        assert draws.of(purpose, 0, 3) == every(["synthetic"], [0, 2], 10), purpose


def test_trajectory_matching(tmp_path, draws):
    trajectories.run(tmp_path, 2, seed=SEED, experts_together=2, inner_batch=5)
    assert draws.of("order of experts") == every(2)
    assert draws.of("start epoch") == every(2, 2)  # iteration and place
    assert draws.of("student") == every(2, 2, [0, 2])  # and the first step of each pass
    assert draws.of("student augment", 0, 3) == every(2, 2, 3)


def test_recovery(tmp_path, draws):
    recover(tmp_path, 3, seed=SEED, ipc=3, batch_size=10)
    assert draws.of("initial noise") == {()}
    assert draws.of("view", 0, 2) == every(3, 3)  # batch and iteration
    crops = every(["crop"], ["area", "ratio", "top", "left"])
    assert draws.of("view", 2) == crops | every(["roll"], 2) | {("flip",)}


def test_evaluation(draws):
    data = digits()
    data.setup()
    recipe = Recipe(network=small, num_networks=2, epochs=2, batch_size=10, mixing=CutMix(probability=0.5))
    Learners(TrainingSet.random(data.train, 2, 2, SEED), recipe, data.meta, SEED).fit()
    assert draws.of("evaluation network") == every(2)
    assert draws.of("evaluation order") == every(2, 2)  # network and epoch
    assert draws.of("evaluation augment", 0, 2) == every(2, 4)  # network and step
    assert draws.of("evaluation mixing") >= every(2, 4, ["mixed"])
