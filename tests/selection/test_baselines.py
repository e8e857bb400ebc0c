"""Real sets at the distilled set's budget: what herding and k-center choose, and that every network has its own."""

import pytest
import torch

from bacon_pl.augment import NoAugmentation
from bacon_pl.data import DataModule, LabeledImages
from bacon_pl.data.draw import draw_real
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Comparison, Run
from bacon_pl.learners import Recipe, TrainingSet, feature_spaces
from bacon_pl.networks import ConvNet
from bacon_pl.selection import choose, herding, k_center


def flat(images):
    return images.flatten(1).float()


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=8, depth=2)


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


@pytest.fixture(scope="module")
def unequal(data):
    """Classes of 3 to 30 images, in mixed order."""
    keep = torch.cat([(data.train.labels == c).nonzero()[: 3 * (c + 1), 0] for c in range(10)])
    return data.train.subset(keep[torch.randperm(len(keep), generator=torch.Generator().manual_seed(0))])


def literal_herding(z, n):
    """As the literature's code chooses: the next image brings the sum nearest to (i + 1) times the mean."""
    chosen = []
    for i in range(n):
        target = z.mean(0) * (i + 1) - z[chosen].sum(0)
        distance = (z - target).norm(dim=1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
    return chosen


def literal_k_center(z, n):
    chosen = [int((z - z.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < n:
        chosen.append(int(torch.cdist(z, z[chosen]).min(1).values.argmax()))
    return chosen


@pytest.mark.parametrize(("select", "literal"), [(herding, literal_herding), (k_center, literal_k_center)])
@pytest.mark.parametrize("block_bytes", [1, 1 << 30])
def test_all_classes_at_once_choose_as_one_by_one(unequal, select, literal, block_bytes, monkeypatch):
    monkeypatch.setattr("bacon_pl.selection.coreset.BLOCK_BYTES", block_bytes)
    chosen = choose(unequal, 3, select, flat)
    for c in range(10):
        members = (unequal.labels == c).nonzero()[:, 0]
        expected = members[literal(flat(unequal.images[members]).double(), 3)]
        assert chosen[c].tolist() == expected.tolist()


def test_equal_images_are_not_chosen_twice():
    z = torch.zeros(1, 4, 2)
    valid = torch.tensor([[True, True, True, False]])
    for select in (herding, k_center):
        assert sorted(select(z, valid, 3)[0].tolist()) == [0, 1, 2]


def test_herding_keeps_the_mean_and_k_center_covers(data):
    def chosen(method):
        return TrainingSet.coreset(method, data.train, 10, [flat]).index[0].view(10, 10)

    def centered(index):  # distance of a choice's mean from its class's
        means = torch.stack([flat(data.train.images[data.train.labels == c]).mean(0) for c in range(10)])
        return (flat(data.train.images[index.flatten()]).unflatten(0, (10, 10)).mean(1) - means).norm(dim=1).mean()

    def radius(index):
        far = [
            torch.cdist(flat(data.train.images[data.train.labels == c]), flat(data.train.images[index[c]]))
            .min(1)
            .values
            for c in range(10)
        ]
        return torch.stack([f.max() for f in far]).mean()

    random = TrainingSet.random(data.train, 10, 1, 0).index[0].view(10, 10)
    assert centered(chosen("herding")) < 0.5 * centered(random)
    assert radius(chosen("k_center")) < 0.9 * radius(random)


def test_random_images_of_classes_of_one_size_are_drawn_by_themselves():
    store = LabeledImages(torch.zeros(60, 1, 4, 4, dtype=torch.uint8), torch.arange(60) % 3, ("a", "b", "c"))
    places = draw_real(store, 5, 1, 0, "test") // 3  # within their classes
    assert len({tuple(row) for row in places.tolist()}) == 3


def test_too_small_a_class_is_named(unequal):
    with pytest.raises(BaconError, match=r"ipc 4 asks for more images .* class '0' has \(3\)"):
        TrainingSet.coreset("herding", unequal, 4, [flat])


def comparison(data, seed=0, networks=None, **settings):
    distilled = DistilledSet(torch.zeros(20, 1, 8, 8), torch.arange(10).repeat_interleave(2), data.meta, factor=2)
    recipe = Recipe(**{"network": small, "num_networks": 3, "epochs": 1, "augment": NoAugmentation(),
                       "coreset_steps": 6, **settings.pop("recipe", {})})  # fmt: skip
    return Comparison(distilled, data.train, data.meta, recipe, networks or {"small": small}, seed=seed, **settings)


def test_every_network_has_its_own_draw_of_the_distilled_sets_size(data):
    compared = comparison(data, baselines=["random", "herding", "k_center", "whole"])
    modules = {run.training_set: compared.module(run).learners for run in compared.runs}
    assert list(modules) == ["distilled", "random", "herding", "k_center", "whole"]
    for name in ("random", "herding", "k_center"):
        index = modules[name].index
        assert index.shape == (3, 20)
        for row in index:
            assert torch.bincount(data.train.labels[row], minlength=10).tolist() == [2] * 10
            assert len(row.unique()) == 20
        assert len({tuple(sorted(row.tolist())) for row in index}) == 3
        assert modules[name].storage_bytes == modules["distilled"].storage_bytes == 20 * 64
    assert modules["whole"].index.shape == (1, len(data.train))
    again = comparison(data).module(Run("small", "herding")).learners
    assert torch.equal(again.index, modules["herding"].index)
    other = comparison(data, seed=1).module(Run("small", "herding")).learners
    assert not torch.equal(other.index, modules["herding"].index)


def test_feature_spaces_are_those_of_networks_that_have_learnt(data):
    recipe = Recipe(network=small, num_networks=2, augment=NoAugmentation(), lr=0.05, coreset_steps=60)
    images, labels = data.train.images[:300], data.train.labels[:300]

    def apart(embed):  # variance between classes as a share of that within them
        z = embed(images)
        means = torch.stack([z[labels == c].mean(0) for c in range(10)])
        return ((means - z.mean(0)).square().mean() / (z - means[labels]).square().mean()).item()

    learned = feature_spaces(recipe, data.train, data.meta, 0)
    assert len(learned) == 2
    z = [embed(images) for embed in learned]
    assert z[0].shape == z[1].shape == (300, 72)
    assert not torch.allclose(z[0], z[1])
    torch.manual_seed(0)
    fresh = small(1, (8, 8), 10)
    with torch.no_grad():
        untrained = apart(lambda x: fresh.embed(data.normalize(x)))
    assert all(apart(embed) > 1.3 * untrained for embed in learned)


def test_architectures_share_the_real_sets(data):
    other = {"small": small, "wider": lambda c, s, n: ConvNet(c, s, n, width=12, depth=2)}
    compared = comparison(data, networks=other, baselines=["herding"])
    assert compared.runs == [Run(n, s) for n in other for s in ("distilled", "herding")]
    first, second = (compared.module(Run(name, "herding")).learners for name in other)
    assert torch.equal(first.index, second.index)
    assert first.networks[0].classifier.in_features != second.networks[0].classifier.in_features
