"""Networks that are trained on whitened images see whitened images when they are used."""

import torch

from bacon_pl.augment import NoAugmentation
from bacon_pl.data import DataModule
from bacon_pl.learners import Recipe, Teacher, feature_spaces
from bacon_pl.networks import ConvNet


def test_teachers_and_feature_spaces_see_whitened_images():
    data = DataModule("digits", whitening="zca")
    data.setup()
    network = lambda *arguments: ConvNet(*arguments, width=4, depth=1)  # noqa: E731
    recipe = Recipe(network=network, epochs=5, batch_size=32, augment=NoAugmentation(), num_networks=1, coreset_steps=1)
    teacher = Teacher(recipe, data.train, data.meta)
    teacher.prepare("cpu")
    white = data.meta.whitening.whiten(data.test.images / 255)
    right = int((teacher.logits(white).argmax(1) == data.test.labels).sum())
    assert teacher.test(data.test) == 100 * right / len(data.test)
    assert right > 0.3 * len(data.test)  # of a network that has learned on whitened images, too
    (embed,) = feature_spaces(recipe, data.train, data.meta, seed=0)
    assert torch.equal(embed(data.test.images), embed(white))
