"""Training recipes: what each does to images, labels and learning rate, and that all draws follow from coordinates."""

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2

from bacon_pl.augment import DSA, AutoAugment, CutMix, MixUp, NoAugmentation, RandAugment
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError
from bacon_pl.learners import Learners, Recipe, SoftLabels, Teacher, TrainingSet
from bacon_pl.networks import ConvNet


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=8, depth=2)


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


@pytest.fixture(scope="module")
def real(data):
    return TrainingSet.random(data.train, ipc=2, draws=1, seed=0)


def recipe(**settings):
    return Recipe(
        **{"network": small, "num_networks": 2, "epochs": 2, "batch_size": 16, "augment": NoAugmentation(), **settings}
    )


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.networks.parameters()])


@pytest.mark.parametrize(
    "settings",
    [
        {"augment": AutoAugment()},
        {"augment": RandAugment()},
        {"mixing": CutMix()},
        {"mixing": MixUp()},
        {"optimizer": "adamw", "lr": 0.001},
        {"schedule": "cosine"},
    ],
    ids=["AutoAugment", "RandAugment", "CutMix", "MixUp", "AdamW", "cosine"],
)
def test_a_recipe_changes_the_training_and_repeats_exactly(data, real, settings):
    def trained(seed, **chosen):
        torch.manual_seed(torch.randint(10**6, ()).item())  # no draw may come from here
        state = torch.random.get_rng_state()
        module = Learners(real, recipe(**chosen), data.meta, seed).fit()
        assert torch.equal(torch.random.get_rng_state(), state)
        return weights(module)

    once = trained(0, **settings)
    assert torch.isfinite(once).all()
    assert torch.equal(trained(0, **settings), once)
    assert not torch.allclose(trained(0), once)


@pytest.mark.parametrize("augment", [AutoAugment("svhn"), RandAugment(magnitude=15)], ids=["auto", "rand"])
@pytest.mark.parametrize("channels", [1, 3])
def test_searched_policies_draw_for_every_image_by_itself(augment, channels):
    image = torch.rand(channels, 16, 16, generator=torch.Generator().manual_seed(0))
    x = image.expand(12, -1, -1, -1)
    out = augment.per_image(x, 0, "augment", 3)
    assert out.shape == x.shape
    assert out.min() >= 0 and out.max() <= 1
    assert len({o.numpy().tobytes() for o in out}) > 4
    assert torch.equal(augment.per_image(x, 0, "augment", 3), out)
    assert not torch.equal(augment.per_image(x, 0, "augment", 4), out)


def test_searched_policies_get_pixels_and_give_normalized_images(data, real):
    class Inverted(AutoAugment):
        def __init__(self):
            self.transform = v2.RandomInvert(p=1)

    plain = Learners(real, recipe(), data.meta).batch(0, 0)[0]
    x, _ = Learners(real, recipe(augment=Inverted()), data.meta).augmented_batch(0, 0)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (data.meta.mean, data.meta.std))
    torch.testing.assert_close(x * std + mean, 1 - (plain * std + mean), atol=1e-5, rtol=0)


def test_searched_policies_are_no_siamese_augmentation():
    with pytest.raises(BaconError, match=r"AutoAugment lets no gradient through.*--evaluation\.augment"):
        AutoAugment().siamese(torch.rand(1, 1, 1, 8, 8), torch.arange(1), 0)


def test_mixup_averages_images_and_labels_alike():
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 4, 4])
    mixed, y = MixUp().mix(x, labels, 5, 7, "mix", 0)
    share = y[0, 0]
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * x + (1 - share) * x.roll(1, 0))
    torch.testing.assert_close(y, share * F.one_hot(labels, 5) + (1 - share) * F.one_hot(labels.roll(1), 5))


def test_a_larger_alpha_mixes_more_evenly():
    x, labels = torch.zeros(2, 1, 32, 32), torch.tensor([0, 1])
    for mixing in (MixUp, CutMix):
        spread = [
            torch.stack([mixing(alpha).mix(x, labels, 2, 7, "mix", step)[1][0, 0] for step in range(50)]).std()
            for alpha in (0.1, 1.0, 10.0)
        ]
        assert spread[0] > 1.3 * spread[1] > 1.6 * spread[2]


def test_cutmix_mixes_labels_by_area():
    x = torch.arange(6.0).view(-1, 1, 1, 1).expand(-1, 3, 8, 8)
    labels = torch.arange(6)
    seen = set()
    for step in range(20):
        mixed, y = CutMix().mix(x, labels, 6, 7, "mix", step)
        own = (mixed == x).float().mean((1, 2, 3))
        torch.testing.assert_close(y, own[:, None] * torch.eye(6) + (1 - own)[:, None] * torch.eye(6).roll(1, 0))
        seen.add(round(own[0].item(), 4))
    assert len(seen) > 10


def test_mixed_labels_are_what_is_learnt(data, real):
    module = Learners(real, recipe(mixing=MixUp()), data.meta)
    x, y = module.augmented_batch(1, 0)
    assert y.shape == (16, 10)
    expected = -(y * F.log_softmax(module.networks[1](x)[1], 1)).sum(1).mean()
    torch.testing.assert_close(module.losses(0)[1], expected)


def test_adamw_is_torchs_and_networks_stay_apart(data, real):
    settings = recipe(optimizer="adamw", lr=0.002, weight_decay=0.1, epochs=2)
    module = Learners(real, settings, data.meta)
    reference = small(1, (8, 8), 10)
    reference.load_state_dict(module.networks[1].state_dict())
    for lr, steps in ((0.002, (0, 1)), (0.0002, (2, 3))):
        optimizer = torch.optim.AdamW(reference.parameters(), lr=lr, weight_decay=0.1)
        for step in steps:
            x, y = module.batch(1, step)
            optimizer.zero_grad()
            F.cross_entropy(reference(x)[1], y).backward()
            optimizer.step()
    module.fit()
    # By their outputs: the gradient of a bias before a norm is rounding alone, which AdamW takes at full length.
    x = data.normalize(data.test.images[:50])
    before = small(1, (8, 8), 10)
    torch.testing.assert_close(module.networks[1](x)[1], reference(x)[1], atol=1e-4, rtol=0)
    assert (before(x)[1] - reference(x)[1]).abs().max() > 0.1


def test_cosine_falls_from_lr_to_zero(data, real):
    module = Learners(real, recipe(schedule="cosine", epochs=4, lr=0.5), data.meta)
    optimizer = module.optimizer()
    rates = []
    for step in range(module.total_steps):
        module.schedule(optimizer, step)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert rates[0] == 0.5 and rates[4] == pytest.approx(0.25) and rates[-1] < 0.02


def test_milestones_drop_at_whole_epochs_and_keep_the_momentum(data, real):
    settings = recipe(schedule="milestones", milestones=(2 / 3, 5 / 6), lr_drop=0.2, epochs=6, lr=0.5)
    module = Learners(real, settings, data.meta)
    optimizer = module.optimizer()
    rates, kept = [], []
    for step in range(module.total_steps):
        module.schedule(optimizer, step)
        rates.append(optimizer.param_groups[0]["lr"])
        module.descend(step)
        optimizer.step()
        kept.append(len(optimizer.state))
    assert rates == pytest.approx([0.5] * 8 + [0.1] * 2 + [0.02] * 2)
    assert min(kept) == len(list(module.networks.parameters()))
    described = settings.described()
    assert (described["milestones"], described["lr_drop"]) == ([2 / 3, 5 / 6], 0.2)


@pytest.mark.parametrize("mixing", [CutMix, MixUp])
def test_mixing_with_a_probability_mixes_some_batches_as_it_would_all(data, real, mixing):
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(6)
    plain = 0
    for step in range(200):
        whole = mixing().mix(x, labels, 6, 7, "mix", step)
        mixed, y = mixing(probability=0.3).mix(x, labels, 6, 7, "mix", step)
        if torch.equal(y, torch.eye(6)) and torch.equal(mixed, x):
            plain += 1
        else:
            assert torch.equal(mixed, whole[0]) and torch.equal(y, whole[1])
    assert 115 < plain < 165
    assert recipe(mixing=mixing(probability=0.3)).described()["mixing"] == f"{mixing.__name__} with probability 0.3"
    Learners(real, recipe(mixing=mixing(probability=0.5), epochs=1), data.meta).fit()  # networks mix apart


def test_soft_losses_by_hand():
    generator = torch.Generator().manual_seed(0)
    pupils, teacher = torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, 4, generator=generator)
    p = (teacher / 2).softmax(2)
    kl = 4 * (p * (p.log() - (pupils / 2).log_softmax(2))).sum(2).mean(1)
    torch.testing.assert_close(SoftLabels(temperature=2).losses(pupils, teacher), kl)
    ce = -(p * pupils.log_softmax(2)).sum(2).mean(1)
    torch.testing.assert_close(SoftLabels(temperature=2, loss="cross_entropy").losses(pupils, teacher), ce)
    assert SoftLabels().losses(teacher, teacher).abs().max() < 1e-5


def test_pupils_learn_what_the_teacher_says_of_the_augmented_batch(data, real):
    soft = SoftLabels(steps=300)
    settings = recipe(augment=DSA(), mixing=CutMix(), soft_labels=soft)
    teacher = Teacher(settings, data.train, data.meta, 0)
    teacher.prepare(torch.device("cpu"))
    test = data.normalize(data.test.images)
    assert (teacher.logits(test).argmax(1) == data.test.labels).float().mean() > 0.5
    module = Learners(real, settings, data.meta, 0, teacher)
    x = torch.stack([module.augmented_batch(k, 1)[0] for k in range(2)])
    logits = torch.stack([module.networks[k](x[k])[1] for k in range(2)])
    taught = torch.stack([teacher.logits(images) for images in x])
    torch.testing.assert_close(module.losses(1), soft.losses(logits, taught))
    # Labels of the set itself play no part.
    module.labels = torch.zeros_like(module.labels)
    torch.testing.assert_close(module.losses(1), soft.losses(logits, taught))


def test_a_teacher_is_trained_once_and_repeats(data, real):
    settings = recipe(soft_labels=SoftLabels(steps=5, network=lambda c, s, n: ConvNet(c, s, n, width=4, depth=1)))
    x = data.normalize(data.test.images[:20])
    first, again = (Teacher(settings, data.train, data.meta, 0) for _ in range(2))
    for teacher in (first, first, again):
        teacher.prepare(torch.device("cpu"))
        assert torch.equal(teacher.logits(x), first.logits(x))
    network = first.network
    first.prepare(torch.device("cpu"))
    assert first.network is network
    assert network.classifier.in_features == 4 * 6 * 6
    with pytest.raises(BaconError, match="teacher"):
        Learners(real, settings, data.meta)


def test_description_names_what_a_default_wraps():
    described = Recipe(mixing=CutMix(), soft_labels=SoftLabels()).described()
    assert (described["augment"], described["mixing"], described["labels"]) == ("DSA", "CutMix", "soft")
    assert (described["soft_loss"], described["temperature"]) == ("kl", 4.0)
    assert Recipe().described()["labels"] == "hard"
    assert json.loads(json.dumps(described)) == described


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: recipe(optimizer="sdg"), "unknown optimizer 'sdg'.*Did you mean 'sgd'"),
        (lambda: recipe(schedule="cosin"), "unknown schedule 'cosin'.*cosine"),
        (lambda: recipe(schedule="milestones"), "milestones and --evaluation.schedule milestones need each other"),
        (lambda: recipe(milestones=(0.5,)), r"need each other: .*got \[0.5\] with the schedule step"),
        (lambda: recipe(schedule="milestones", milestones=(0.5, 0.5)), "must ascend, between 0 and 1, got 0.5, 0.5"),
        (lambda: recipe(schedule="milestones", milestones=(0.5, 1.0)), "must ascend, between 0 and 1"),
        (lambda: CutMix(probability=0.0), "CutMix's probability must be above 0 and at most 1"),
        (lambda: recipe(coreset_steps=0), "--evaluation.coreset_steps must be at least 1"),
        (lambda: SoftLabels(temperature=0.0), "temperature must be positive"),
        (lambda: SoftLabels(steps=0), "steps must be at least 1"),
        (lambda: SoftLabels(loss="mse"), "unknown soft-label loss 'mse'"),
        (lambda: MixUp(alpha=-1.0), "MixUp's alpha must be positive"),
        (lambda: RandAugment(num_ops=0), "RandAugment's num_ops"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(BaconError) as error:
        make()
    assert re.search(message, str(error.value))
