"""Soft labels: the losses of the field, where labels come from, and that what is drawn follows from coordinates."""

import re

import numpy as np
import pytest
import torch

from bacon_pl.augment import DSA, CutMix, MixUp, NoAugmentation
from bacon_pl.data import DatasetMeta, LabeledImages
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.learners import Ensemble, Learners, Recipe, SoftLabels, TeacherSettings, TrainingSet, labeler
from bacon_pl.networks import ConvNet

META = DatasetMeta("toy", ("a", "b", "c"), channels=1, size=(8, 8), mean=(0.4,), std=(0.2,))


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=1)


def recipe(**settings):
    given = {"network": small, "num_networks": 2, "epochs": 2, "batch_size": 4, "augment": NoAugmentation(), "lr": 0.1}
    return Recipe(**{**given, **settings})


def store(count=12, seed=0):
    images = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return LabeledImages(images, torch.arange(count) % 3, ("a", "b", "c"))


def distilled(per_tile=False, kind="logits", factor=2):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(6, 1, 8, 8, generator=generator)
    soft = torch.randn(*((6, factor**2, 3) if per_tile else (6, 3)), generator=generator)
    labels = torch.arange(3).repeat_interleave(2)
    soft = soft.softmax(-1) if kind == "probabilities" else soft
    return DistilledSet(images, labels, META, factor=factor, soft_labels=soft, label_kind=kind, step_size=0.03)


class Linear:
    """A teacher with fixed weights that counts what it labels."""

    def __init__(self, seed=0):
        self.weights = torch.randn(64, 3, generator=torch.Generator().manual_seed(seed))
        self.seen = []

    def prepare(self, device):
        pass

    def logits(self, x):
        self.seen.append(x)
        return x.flatten(1) @ self.weights


def test_losses_are_the_goldens(golden):
    g = golden("kd_loss")
    for i, temperature in enumerate(g["temperature"].tolist()):
        for name, suffix in (("kl_unscaled", ""), ("kl", "_times_t2")):
            soft = SoftLabels(temperature=temperature, loss=name)
            student = g["student"].clone()[None].requires_grad_()
            for loss in (
                soft.losses(student, g["teacher"][None]),
                soft.losses_of(student, soft.probabilities(g["teacher"])[None]),
            ):
                (gradient,) = torch.autograd.grad(loss.sum(), student)
                torch.testing.assert_close(loss[0], g[f"loss{suffix}"][i], rtol=1e-12, atol=1e-13)
                torch.testing.assert_close(gradient[0], g[f"grad{suffix}"][i], rtol=1e-11, atol=1e-14)
        half = soft.probabilities(g["teacher"].half().double())
        soft = SoftLabels(temperature=temperature, loss="kl_unscaled")
        torch.testing.assert_close(
            soft.losses_of(g["student"][None], half[None])[0], g["loss_half_labels"][i], rtol=1e-12, atol=1e-13
        )


def test_cross_entropy_of_stored_labels_is_datms():
    generator = torch.Generator().manual_seed(0)
    out, labels = torch.randn(1, 5, 3, generator=generator), torch.randn(1, 5, 3, generator=generator)
    soft = SoftLabels(loss="cross_entropy", temperature=1)
    expected = -(labels.softmax(2) * out.log_softmax(2)).sum(2).mean(1)
    torch.testing.assert_close(soft.losses_of(out, soft.probabilities(labels)), expected)


@pytest.mark.parametrize("loss", ["kl", "kl_unscaled", "cross_entropy"])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_probabilities_may_be_zero(loss, temperature):
    soft = SoftLabels(loss=loss, temperature=temperature)
    own = torch.tensor([[[2.0, 1.0, 0.0]]]).requires_grad_()
    target = soft.probabilities(torch.tensor([[[0.5, 0.5, 0.0]]]), "probabilities")
    assert target.tolist() == [[[0.5, 0.5, 0.0]]]
    value = soft.losses_of(own, target)
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(own.grad).all()


@pytest.mark.parametrize("per_tile", [False, True])
@pytest.mark.parametrize("kind", ["logits", "probabilities"])
def test_stored_labels_belong_to_the_images_that_bring_them(per_tile, kind):
    made = distilled(per_tile, kind)
    images, _ = made.expanded()
    soft = SoftLabels(source="stored", temperature=1.0, loss="cross_entropy")
    module = Learners(TrainingSet.distilled(made), recipe(soft_labels=soft), META)
    own = made.expanded_soft_labels().float()
    expected = own.softmax(1) if kind == "logits" else own / own.sum(1, keepdim=True)
    for step in range(3):
        x, y = module.batch(1, step)
        place = [int((images == one).flatten(1).all(1).nonzero()[0]) for one in x]
        torch.testing.assert_close(y, expected[place])


def test_mixing_mixes_stored_labels_with_the_images():
    soft = SoftLabels(source="stored", temperature=1.0, loss="cross_entropy")
    given = TrainingSet.distilled(distilled())
    plain = Learners(given, recipe(soft_labels=soft), META)
    mixed = Learners(given, recipe(soft_labels=soft, mixing=MixUp()), META)
    x, y = plain.augmented_batch(0, 0)
    mixed_x, mixed_y = mixed.augmented_batch(0, 0)
    share = ((mixed_x - x.roll(1, 0)) / (x - x.roll(1, 0))).median()
    assert 0 < share < 1
    torch.testing.assert_close(mixed_y, share * y + (1 - share) * y.roll(1, 0), atol=1e-4, rtol=0)
    some = CutMix(probability=1e-9).mix(x, y, 3, 0, "mix", 0)
    assert torch.equal(some[0], x) and torch.equal(some[1], y)


def test_a_set_that_brings_labels_needs_no_teacher_and_learns_from_them():
    soft = SoftLabels(source="stored", temperature=1.0, loss="cross_entropy")
    given = TrainingSet.distilled(distilled())
    module = Learners(given, recipe(soft_labels=soft), META)
    module.labels = torch.zeros_like(module.labels)  # classes play no part
    first = Learners(given, recipe(soft_labels=soft), META)
    torch.testing.assert_close(module.losses(0), first.losses(0), rtol=0, atol=0)
    x, y = module.batch(0, 0)
    expected = -(y * module.networks[0](x)[1].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(module.losses(0)[0], expected)
    with pytest.raises(BaconError, match="a teacher is needed where, and only where"):
        Learners(given, recipe(soft_labels=soft), META, teacher=Linear())
    with pytest.raises(BaconError, match="a teacher is needed where, and only where"):
        Learners(TrainingSet.whole(store()), recipe(soft_labels=soft), META)


@pytest.mark.parametrize("soft", [SoftLabels(relabel="never"), SoftLabels(source="stored")])
def test_labels_that_are_made_once_are_those_of_the_images_as_they_are(soft):
    teacher = Linear()
    real = TrainingSet.random(store(), ipc=2, draws=2, seed=0)
    module = Learners(real, recipe(soft_labels=soft, augment=DSA()), META, teacher=teacher)
    module.prepare()
    for k in range(2):
        for step in range(2):
            x, y = module.batch(k, step)
            torch.testing.assert_close(y, soft.probabilities(teacher.logits(x).half().float()))
    before = len(teacher.seen)
    module.prepare()
    module.losses(0)
    assert len(teacher.seen) == before  # never again


def test_labels_of_an_epoch_are_made_once_for_all_networks():
    teacher, given = Linear(), TrainingSet.distilled(distilled())
    settings = recipe(soft_labels=SoftLabels(relabel="epoch"), augment=DSA(), mixing=CutMix(), num_networks=3)
    module = Learners(given, settings, META, 7, teacher)
    batches = [module.augmented_batch(k, 3) for k in range(3)]
    for x, y in batches[1:]:
        assert torch.equal(x, batches[0][0]) and torch.equal(y, batches[0][1])
    alone = Learners(given, settings, META, 7, Linear(), numbers=(2,))
    assert torch.equal(alone.augmented_batch(2, 3)[0], batches[0][0])
    assert not torch.equal(module.augmented_batch(0, 4)[0], batches[0][0])
    losses = module.losses(3)
    assert [len(x) for x in teacher.seen] == [4]
    torch.testing.assert_close(alone.losses(3)[0], losses[2])
    other = Learners(given, settings, META, 8, Linear())
    assert not torch.equal(other.augmented_batch(0, 3)[0], batches[0][0])
    apart = Learners(given, recipe(soft_labels=SoftLabels(), augment=DSA()), META, 7, Linear())
    assert not torch.equal(apart.augmented_batch(0, 3)[0], apart.augmented_batch(1, 3)[0])


def test_random_images_of_each_network_have_their_own_labels_in_an_epoch():
    settings = recipe(soft_labels=SoftLabels(relabel="epoch", half=True, loss="cross_entropy", temperature=1))
    teacher = Linear()
    teacher.weights /= 10  # so that labels are not almost one-hot, and rounding shows
    module = Learners(TrainingSet.random(store(), ipc=2, draws=2, seed=0), settings, META, 0, teacher)
    losses = module.losses(1)
    for k in range(2):
        x, _ = module.augmented_batch(k, 1)
        labels = teacher.logits(x).half().float().softmax(1)
        torch.testing.assert_close(losses[k], -(labels * module.networks[k](x)[1].log_softmax(1)).sum(1).mean())


def test_several_teachers_are_averaged():
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    teachers = [Linear(seed) for seed in range(3)]
    each = torch.stack([teacher.logits(x) for teacher in teachers])
    of_three = TeacherSettings(count=3)
    mean = Ensemble(teachers, SoftLabels(teacher=of_three)).logits(x)
    torch.testing.assert_close(mean, each.mean(0))
    soft = SoftLabels(teacher=of_three, average="probabilities", temperature=3)
    shares = soft.probabilities(Ensemble(teachers, soft).logits(x))
    torch.testing.assert_close(shares, (each / 3).softmax(2).mean(0))


def test_teachers_of_a_recipe_are_as_many_as_it_says_and_differ():
    settings = recipe(soft_labels=SoftLabels(teacher=TeacherSettings(count=2, epochs=1, batch_size=6)))
    found = labeler(settings, store(), META, 0)
    found.prepare(torch.device("cpu"))
    one, other = found.tested(store(9, seed=1))
    assert one["epochs"] == 1 and 0 <= one["test_accuracy"] <= 100
    assert (
        found.bytes == one["bytes"] + other["bytes"] == 2 * 4 * sum(p.numel() for p in small(1, (8, 8), 3).parameters())
    )
    x = torch.randn(2, 1, 8, 8)
    first, second = (teacher.logits(x) for teacher in found.teachers)
    assert not torch.equal(first, second)
    torch.testing.assert_close(found.logits(x), (first + second) / 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SoftLabels(source="sets"), "unknown source of soft labels 'sets'"),
        (lambda: SoftLabels(relabel="daily"), "unknown relabel 'daily'"),
        (lambda: SoftLabels(source="stored", relabel="epoch"), "relabel acts on a teacher's labels"),
        (lambda: SoftLabels(relabel="never", half=True), "half acts on labels made during the training"),
        (lambda: SoftLabels(average="probabilities"), r"needs several teachers: give \S+teacher.count"),
        (
            lambda: SoftLabels(teacher=TeacherSettings(), steps=3),
            "steps is for teachers trained by the students' recipe",
        ),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(BaconError) as error:
        make()
    assert re.search(message, str(error.value))


def test_whole_canvases_have_the_labels_of_canvases():
    whole = TrainingSet.distilled(distilled(), cut_tiles=False)
    assert whole.index.shape == (1, 6) and whole.soft_labels.shape == (6, 3)
    np.testing.assert_array_equal(whole.images, distilled().images)
    with pytest.raises(BaconError, match="soft labels are those of tiles"):
        TrainingSet.distilled(distilled(per_tile=True), cut_tiles=False)
