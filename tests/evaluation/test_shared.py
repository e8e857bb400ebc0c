"""Accuracies that evaluations share: what they depend on has a part in their names, and nothing else has."""

import json
import multiprocessing
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Comparison, Run, SharedAccuracies
from bacon_pl.learners import Recipe, SoftLabels, TeacherSettings
from bacon_pl.networks import ConvNet
from tests.patience import PATIENCE


def small(channels, size, num_classes, width=4):
    return ConvNet(channels, size, num_classes, width=width, depth=2)


RECIPE = Recipe(network=small, num_networks=2, epochs=3)


@pytest.fixture(scope="module")
def data():
    found = DataModule(name="digits")
    found.setup()
    return found


def comparison(data, recipe=RECIPE, ipc=1, fill=0.0, seed=0, labels=()):
    images = torch.full((10 * ipc, 1, 8, 8), fill)
    distilled = DistilledSet(images, torch.arange(10).repeat_interleave(ipc), data.meta)
    return Comparison(distilled, data.train, data.meta, recipe, {"small": small}, (), True, seed, labels)


def names(folder, data, trainer=None, **changes):
    """The files of the trainings that the scores of a set need, by training set and variant."""
    shared = SharedAccuracies(folder, data.test, trainer or {"precision": "32-true"})
    one = comparison(data, **changes)
    found = {}
    for run in one.shareable:
        with shared.turn(one, run) as (path, there):
            assert there is None
        found[run.training_set, run.variant] = path.name
    return found


def test_a_name_follows_what_the_accuracies_depend_on(data, tmp_path):
    soft = replace(RECIPE, soft_labels=SoftLabels())
    first = names(tmp_path, data, recipe=soft)
    whole, given, plain = ("whole", "hard"), ("random", "given"), ("random", "plain")
    assert first.keys() == {whole, given, plain}
    assert len(set(first.values())) == 3

    def changed(**changes):
        found = names(tmp_path, data, **{"recipe": soft, **changes})
        return {key for key in found.keys() & first.keys() if found[key] != first[key]}

    assert changed() == set()
    assert changed(fill=1.0) == set()
    assert changed(ipc=2) == {given, plain}
    assert changed(recipe=replace(soft, whole_epochs=1)) == {whole}
    assert changed(recipe=replace(soft, soft_labels=SoftLabels(temperature=2.0))) == {given, plain}
    assert changed(recipe=replace(soft, soft_labels=SoftLabels(teacher=TeacherSettings(epochs=1)))) == {given, plain}
    # Its network is that of the teachers, and not of what they teach.
    assert changed(recipe=replace(soft, network=partial(small, width=8))) == {given, plain}
    for changes in ({"seed": 1}, {"recipe": replace(soft, num_networks=3)}, {"trainer": {"precision": "bf16-mixed"}}):
        assert changed(**changes) == first.keys()


def test_hard_labels_are_the_same_training_whatever_asks_for_them(data, tmp_path):
    hard = names(tmp_path, data)
    soft = names(tmp_path, data, recipe=replace(RECIPE, soft_labels=SoftLabels()), labels=("hard", "soft"))
    assert hard["whole", "given"] == soft["whole", "hard"]


def test_accuracies_of_other_test_images_are_not_shared(data, tmp_path):
    found = []
    for test in (data.test, data.test.subset(torch.arange(100))):
        with SharedAccuracies(tmp_path, test, {}).turn(comparison(data), Run("small", "whole")) as (path, _):
            found.append(path)
    assert found[0] != found[1]


def test_what_is_kept_is_read(data, tmp_path):
    shared, one = SharedAccuracies(tmp_path / "new", data.test, {}), comparison(data)
    run = Run("small", "whole")
    with shared.turn(one, run) as (path, there):
        assert there is None
        shared.keep(path, one, run, torch.tensor([12.5, 100.0]))
    with shared.turn(one, run) as (again, there):
        assert again == path and there.tolist() == [12.5, 100.0]
    told = json.loads(path.read_text())
    assert told["training"]["training_set"] == "whole" and told["version"]


@pytest.mark.parametrize("text", ["", "[]", "{}", "[" * 10_000, '{"accuracies": [1]}', '{"accuracies": "12"}',
                                  '{"accuracies": [1, NaN]}', '{"accuracies": [1, null]}'])  # fmt: skip
def test_a_damaged_file_is_one_sentence(text, data, tmp_path):
    shared, one = SharedAccuracies(tmp_path, data.test, {}), comparison(data)
    with shared.turn(one, Run("small", "whole")) as (path, _):
        path.write_text(text)
    said = r"cannot read '.*whole-.*\.json' \(.*\): remove it, and it is made again\."
    with pytest.raises(BaconError, match=said), shared.turn(one, Run("small", "whole")):
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(data, tmp_path):
    (tmp_path / "file").write_text("")
    shared, one = SharedAccuracies(tmp_path / "file/folder", data.test, {}), comparison(data)
    with pytest.raises(BaconError, match=r"cannot be kept in '.*file/folder' .*: give another --shared"):  # noqa: SIM117
        with shared.turn(one, Run("small", "whole")):
            pass


def hold(shared, one, run, begun):
    with shared.turn(one, run) as (path, _):
        begun.set()
        time.sleep(1)  # the other one finds the training under way
        shared.keep(path, one, run, torch.tensor([1.0, 2.0]))


def test_one_that_needs_what_another_makes_waits_for_it(data, tmp_path):
    fork = multiprocessing.get_context("fork")
    begun = fork.Event()
    shared, one, run = SharedAccuracies(tmp_path, data.test, {}), comparison(data), Run("small", "whole")
    other = fork.Process(target=hold, args=(shared, one, run, begun))
    other.start()
    assert begun.wait(PATIENCE)
    with shared.turn(one, run) as (_, there):
        assert there.tolist() == [1.0, 2.0]
    other.join()
