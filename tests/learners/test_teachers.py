"""Teachers: kept as files, read from files of others, and told how much they know."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from bacon_pl import rng
from bacon_pl.augment import DSA, NoAugmentation
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError
from bacon_pl.learners import (
    Learners,
    RealTraining,
    Recipe,
    SoftLabels,
    Teacher,
    TeacherSettings,
    TrainingSet,
    feature_spaces,
    teachers,
    trained_networks,
)
from bacon_pl.learners.fingerprint import described
from bacon_pl.networks import ConvNet

SMALL = partial(ConvNet, width=4, depth=2)
CPU = torch.device("cpu")
SETTINGS = TeacherSettings(count=2, epochs=3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def made(data, settings=SETTINGS, network=SMALL):
    return teachers(settings, data.train, data.meta, network, "off")


def untrainable(monkeypatch):
    def descend(self, step):
        raise AssertionError("a network is trained")

    monkeypatch.setattr(Learners, "descend", descend)


def test_they_are_trained_once_and_are_the_networks_of_their_recipe(data, monkeypatch):
    x = data.normalize(data.test.images[:30])
    first, second = made(data)
    for teacher in (first, second):
        teacher.prepare(CPU)
    assert not torch.equal(first.logits(x), second.logits(x))
    kept = trained_networks(data.train, data.meta, SETTINGS.recipe(SMALL, "off"), count=2)
    network = SMALL(1, (8, 8), 10)
    network.load_state_dict(kept.state(1))
    with torch.no_grad():
        assert torch.equal(second.logits(x), network.eval()(x)[1])
    untrainable(monkeypatch)
    again = made(data)[1]
    again.prepare(CPU)
    again.prepare(CPU)
    assert torch.equal(again.logits(x), second.logits(x))
    assert again.described()["fingerprint"] == kept.fingerprint
    assert not again.network.training and not any(p.requires_grad for p in again.network.parameters())


def test_those_of_soft_labels_and_feature_spaces_have_the_draws_that_they_had(data, monkeypatch):
    """Kept networks are those which evaluations trained for themselves before."""
    recipe = Recipe(network=SMALL, num_networks=2, augment=DSA(), coreset_steps=8, batch_size=256, acceleration="off")
    x = data.train.images[:40]
    learners = Learners(
        TrainingSet.whole(data.train), replace(recipe, epochs=2), data.meta, rng.derive(3, "feature spaces")
    ).fit()
    spaces = feature_spaces(recipe, data.train, data.meta, 3)
    assert all(torch.equal(spaces[k](x), learners.embed(x, k)) for k in range(2))
    soft = replace(recipe, soft_labels=SoftLabels(steps=8))
    teacher = Teacher(soft, data.train, data.meta, 3)
    teacher.prepare(CPU)
    learners = Learners(
        TrainingSet.whole(data.train), replace(recipe, epochs=2), data.meta, rng.derive(3, "teacher")
    ).fit()
    x = data.normalize(x)
    assert torch.equal(teacher.logits(x), learners.classify(0, x))
    untrainable(monkeypatch)
    assert torch.equal(
        feature_spaces(recipe, data.train, data.meta, 3)[0](data.train.images), spaces[0](data.train.images)
    )


def test_short_epochs_are_as_many_as_the_steps_take(data, monkeypatch):
    recipe = Recipe(network=SMALL, num_networks=1, epoch_steps=2, coreset_steps=5, batch_size=256, acceleration="off")
    steps, descend = [], Learners.descend
    monkeypatch.setattr(Learners, "descend", lambda self, step: (steps.append(step), descend(self, step))[1])
    feature_spaces(recipe, data.train, data.meta, 0)
    assert steps == list(range(6))
    steps.clear()
    Teacher(replace(recipe, soft_labels=SoftLabels(steps=7)), data.train, data.meta).prepare(CPU)
    assert steps == list(range(8))


def test_a_teacher_sees_neither_held_out_nor_test_images():
    def logits(blank):
        module = DataModule(name="digits", val_fraction=0.2)
        module.setup()
        x = module.normalize(module.train.images[:20])
        if blank:
            module.val.images.fill_(7), module.test.images.fill_(7)
        (teacher,) = made(module, TeacherSettings(epochs=1))
        teacher.prepare(CPU)
        return teacher.described()["fingerprint"], teacher.logits(x)

    (one, a), (other, b) = logits(False), logits(True)
    assert one == other and torch.equal(a, b)


def test_its_test_accuracy_is_measured_once_and_told(data, monkeypatch):
    _, teacher = made(data)
    teacher.prepare(CPU)
    assert teacher.described()["test_accuracy"] is None
    by_hand = (teacher.logits(data.normalize(data.test.images)).argmax(1) == data.test.labels).double().mean()
    assert teacher.test(data.test) == pytest.approx(100 * by_hand.item(), abs=1e-9)
    told = teacher.described()
    assert told["test_accuracy"] == teacher.accuracy and json.loads(json.dumps(told)) == told
    again = made(data)[1]
    again.prepare(CPU)
    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "logits", None)
        # Kept beside the network, so that nothing is classified ...
        assert again.test(data.test) == teacher.accuracy
    # ... but not for other images.
    part = data.test.subset(torch.arange(50))
    hits = (again.logits(data.normalize(part.images)).argmax(1) == part.labels).sum().item()
    assert again.test(part) == 2 * hits
    folder = trained_networks(data.train, data.meta, SETTINGS.recipe(SMALL, "off"), count=2).folder
    (folder / "tested.json").write_text("[")
    assert again.test(data.test) == teacher.accuracy


def test_bytes_are_those_of_all_float32_numbers(data):
    (teacher,) = made(data, TeacherSettings(epochs=1), partial(SMALL, norm="batch"))
    # Two convolutions, two batch norms with running statistics, one linear layer.
    by_hand = (4 * 1 * 9 + 4) + (4 * 4 * 9 + 4) + 2 * 4 * 4 + (36 * 10 + 10)
    assert teacher.bytes == 4 * by_hand
    teacher.prepare(CPU)
    assert teacher.bytes == teacher.described()["bytes"] == 4 * by_hand


def test_one_of_a_file_is_the_network_of_the_file(data, tmp_path, monkeypatch):
    _, known = made(data, replace(SETTINGS, epochs=8))
    known.prepare(CPU)
    file = tmp_path / "theirs.safetensors"
    save_file({name: t.half() for name, t in known.state.items()}, file)
    untrainable(monkeypatch)
    (read,) = made(data, TeacherSettings(file=str(file)))
    read.prepare(CPU)
    x = data.normalize(data.test.images)
    torch.testing.assert_close(read.logits(x), known.logits(x), atol=0.05, rtol=0.05)
    assert next(read.network.parameters()).dtype == torch.float32
    assert read.test(data.test) == pytest.approx(known.test(data.test), abs=1.0)
    assert read.described()["file"] == str(file) and read.described()["epochs"] is None
    monkeypatch.setenv("HOME", str(tmp_path))
    (home,) = made(data, TeacherSettings(file="~/theirs.safetensors"))
    home.prepare(CPU)
    assert home.origin == read.origin and home.described()["fingerprint"] == read.described()["fingerprint"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda state: state["classifier.weight"].copy_(state["classifier.weight"].roll(1, 0)),
            "no better than chance",
        ),
        (lambda state: state.pop("classifier.bias"), r"not of the architecture.*it lacks classifier\.bias"),
        (lambda state: state.update(more=torch.zeros(2)), "it has more, which the network has not"),
        (
            lambda state: state.update({"classifier.bias": torch.zeros(3)}),
            r"its classifier\.bias is \(3,\), not \(10,\)",
        ),
        (lambda state: state["classifier.bias"].fill_(torch.nan), r"its classifier\.bias is not finite"),
        (lambda state: state.update({"classifier.bias": torch.arange(10)}), r"classifier\.bias holds torch\.int64"),
    ],
)
def test_files_that_do_not_fit_are_refused(data, tmp_path, change, message):
    (known,) = made(data, TeacherSettings(epochs=8, lr=0.1))
    known.prepare(CPU)
    state = {name: t.clone() for name, t in known.state.items()}
    change(state)
    save_file(state, tmp_path / "theirs.safetensors")
    (read,) = made(data, TeacherSettings(file=str(tmp_path / "theirs.safetensors")))
    with pytest.raises(BaconError, match=message):
        read.prepare(CPU)


@pytest.mark.parametrize("content", [None, b"", b"no tensors at all"])
def test_files_that_cannot_be_read_are_named(data, tmp_path, content):
    file = tmp_path / "theirs.safetensors"
    if content is not None:
        file.write_bytes(content)
    (read,) = made(data, TeacherSettings(file=str(file)))
    with pytest.raises(BaconError, match=r"the teacher '.*theirs\.safetensors' cannot be read as a safetensors file"):
        read.prepare(CPU)
    if content is None:
        with pytest.raises(BaconError, match=r"the teacher '.*theirs\.safetensors' cannot be read \(No such file"):
            _ = read.origin
    with pytest.raises(BaconError, match="call prepare"):
        read.logits(torch.zeros(1, 1, 8, 8))
    with pytest.raises(BaconError, match=r"--evaluation\.soft_labels\.teacher\.file holds one network, so .*\.count"):
        TeacherSettings(file=str(file), count=2)


def test_fingerprints_of_before_stay(data):
    """Networks that were kept before an option came are still found; this is what names them."""
    recipe = Recipe(network=SMALL, epochs=1, augment=DSA())
    assert trained_networks(data.train, data.meta, recipe, snapshots=[0]).fingerprint == "c2b5f75d877706d1b895e4de"


class Own(ConvNet):
    """A network of one's own."""


def test_the_source_of_own_networks_counts(data):
    recipe = Recipe(network=partial(Own, width=4, depth=2), augment=NoAugmentation())
    found = described(data.train, data.meta, recipe, 0)
    assert list(found["sources"]) == [f"{Own.__module__}.Own"]
    assert "sources" not in described(data.train, data.meta, replace(recipe, network=SMALL), 0)


def test_schedules_of_training_on_real_images():
    training = RealTraining(epochs=10, lr=0.2, schedule="cosine", warmup=0.2)
    recipe = training.recipe(SMALL, "off")
    rates = [recipe.lr_at(step, 10) for step in range(100)]
    assert rates[0] == pytest.approx(0.002) and rates[10] == pytest.approx(0.2 * (0.01 + 0.99 / 2))
    assert rates[20] == pytest.approx(0.2) and rates[60] == pytest.approx(0.1) and rates[99] < 1e-4
    assert rates == sorted(rates[:21]) + sorted(rates[21:], reverse=True)
    plain = replace(training, schedule="constant", warmup=0.0).recipe(SMALL, "off")
    assert {plain.lr_at(step, 10) for step in range(100)} == {0.2}
    one_step = replace(training, epochs=1, warmup=0.9).recipe(SMALL, "off")
    assert one_step.lr_at(0, 1) == 0.2  # never a training that only warms up
    for wrong, message in (
        ({"warmup": 1.0}, r"reference\.warmup must be in \[0, 1\)"),
        ({"schedule": "step"}, "unknown --model.reference.schedule 'step'"),
        ({"optimizer": "adam"}, "unknown --model.reference.optimizer 'adam'"),
    ):
        with pytest.raises(BaconError, match=message):
            RealTraining(**wrong)
