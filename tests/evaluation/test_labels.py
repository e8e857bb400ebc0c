"""Hard and soft labels in one evaluation: which runs there are, whose labels they have, what is said and stored."""

import pytest
import torch

from bacon_pl.augment import CutMix
from bacon_pl.data import InMemoryData, LabeledImages
from bacon_pl.distilled_set import BatchLabels, DistilledSet, StoredLabels
from bacon_pl.distilled_set.stored_labels import Orders
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Comparison, Run, labels_note, notes, results, short_bytes, summary
from bacon_pl.evaluation.storage import storage
from bacon_pl.learners import Recipe, SoftLabels, TeacherSettings
from bacon_pl.networks import ConvNet
from bacon_pl.report import markdown
from tests.distillers.running import trainer

SOFT = SoftLabels(teacher=TeacherSettings(epochs=1, batch_size=8), temperature=2)


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=1)


WEIGHTS = 4 * sum(p.numel() for p in small(1, (8, 8), 3).parameters())


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)
    return LabeledImages(pixels, torch.arange(count) % 3, ("a", "b", "c"))


@pytest.fixture(scope="module")
def data():
    module = InMemoryData(images(24, 0), images(9, 1))
    module.setup("test")
    return module


def made(data, soft=None, factor=1, step_size=None):
    canvases = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(2))
    labels = torch.rand(6, 3, generator=torch.Generator().manual_seed(3)).softmax(1) if soft else None
    return DistilledSet(
        *(canvases, torch.arange(3).repeat_interleave(2), data.meta), factor=factor, soft_labels=labels,
        label_kind=soft, step_size=step_size,
    )  # fmt: skip


def compared(data, distilled=None, baselines=(), labels=(), batch_labels=None, scores=False, **settings):
    recipe = Recipe(**{"network": small, "num_networks": 2, "epochs": 1, "batch_size": 8, **settings})
    distilled = distilled or made(data)
    given = {"baselines": baselines, "scores": scores, "labels": labels, "batch_labels": batch_labels}
    return Comparison(distilled, data.train, data.meta, recipe, {"small": small}, **given)


def test_both_kinds_of_labels_are_evaluated_on_every_set(data):
    both = compared(data, baselines=["tiles", "random"], labels=["hard", "soft"], soft_labels=SOFT)
    sets = ("distilled", "tiles", "random")
    assert both.runs == [Run("small", name, variant) for name in sets for variant in ("given", "hard")]
    recipes = {run: both.module(run).learners.recipe for run in both.runs}
    assert all((recipes[run].soft_labels == SOFT) == (run.variant == "given") for run in both.runs)
    hard = compared(data, baselines=["random"], labels=["hard"], soft_labels=SOFT)
    assert [run.variant for run in hard.runs] == ["given", "given"] and hard.recipe.soft_labels is None
    soft = compared(data, labels=["soft"])
    assert [run.variant for run in soft.runs] == ["given"] and soft.recipe.soft_labels == SoftLabels()
    assert [run.variant for run in compared(data, soft_labels=SOFT).runs] == ["given"]


def test_a_set_with_labels_of_its_own_needs_a_teacher_for_real_images_alone(data):
    own = made(data, "logits")
    comparison = compared(data, own, labels=["soft"])
    assert comparison.recipe.soft_labels.source == "stored" and not comparison.needs_teachers
    assert comparison.tested_teachers(data.test) == []
    assert comparison.module(Run("small", "distilled")).learners.teacher is None
    beside = compared(data, own, ["random"], ["soft"])
    assert beside.needs_teachers
    assert beside.module(Run("small", "random")).learners.teacher is beside.teachers
    with pytest.raises(BaconError, match="the set has no soft labels of its own: give teacher, or --labels hard"):
        compared(data, soft_labels=SoftLabels(source="stored"))


def test_a_learned_step_size_is_the_rate_of_its_set_alone(data):
    own = made(data, step_size=0.07)
    comparison = compared(data, own, ["random"], lr="stored", fixed_lr=0.02)
    rates = {run: comparison.module(run).learners.recipe.lr for run in comparison.runs}
    assert rates == {
        Run("small", "distilled"): 0.07, Run("small", "distilled", "fixed_lr"): 0.02, Run("small", "random"): 0.02
    }  # fmt: skip
    with pytest.raises(BaconError, match="the set has no learned step size: give a number"):
        compared(data, lr="stored")


def numbers_of(comparison, data, only=None):
    teachers = comparison.tested_teachers(data.test)
    found = []
    for run in comparison.runs:
        module = comparison.module(run)
        module.learners.fit()
        trainer(None, 1).test(module, datamodule=data, verbose=False)
        found.append(comparison.result(run, module))
    return results(comparison.distilled, found, teachers=teachers)


def test_what_is_said_and_stored(data):
    both = numbers_of(compared(data, baselines=["random"], labels=["hard", "soft"], soft_labels=SOFT), data)
    (teacher,) = both["teachers"]
    assert teacher["bytes"] == WEIGHTS and 0 <= teacher["test_accuracy"] <= 100
    pixels = 6 * 64
    for run in both["runs"]:
        weights = WEIGHTS if run["variant"] == "given" else 0
        parts = {"pixels": pixels, "labels": 6, "step_size": 0, "teacher": weights}
        assert run["storage"] == {**parts, "total": sum(parts.values())}
    assert both["storage"] == both["runs"][0]["storage"] and both["storage_bytes"] == pixels
    said = summary(both)
    head = said.splitlines()[1]
    assert head.split("  ")[1:] == [
        f"{name}, {kind}" for name in ("distilled", "random real") for kind in ("soft labels", "hard labels")
    ]
    assert "labels: soft labels of a teacher; hard ones beside them" in said
    assert f"teacher: {teacher['test_accuracy']:.1f} % on the test images, {short_bytes(WEIGHTS)}" in said
    assert f"storage: {pixels + 6 + WEIGHTS:,} bytes: pixels 384, labels 6, teacher {WEIGHTS:,}" in said
    page = markdown(both)
    assert "distilled, hard labels" in page and "Labels: soft labels of a teacher" in page
    assert "Teacher: " in page and "Storage: " in page


def test_stored_labels_count_two_bytes_and_the_step_size_four(data):
    own = made(data, "probabilities", factor=2, step_size=0.05)
    found = numbers_of(compared(data, own, ["random"], ["hard", "soft"], lr="stored", soft_labels=SoftLabels(
        source="stored", temperature=1, loss="cross_entropy", teacher=SOFT.teacher)), data)  # fmt: skip
    storages = {(run["training_set"], run["variant"]): run["storage"] for run in found["runs"]}
    soft = 6 + 2 * 6 * 3
    assert storages["distilled", "given"] == own_parts(own, labels=soft, step_size=4)
    assert storages["distilled", "given"]["total"] == own.total_bytes
    assert storages["distilled", "hard"] == own_parts(own, labels=6, step_size=4)
    assert storages["distilled", "fixed_lr"] == own_parts(own, labels=soft, step_size=0)
    assert storages["random", "given"] == own_parts(own, labels=soft, step_size=0)
    assert "soft labels, those of the set (for real images those of a teacher)" in summary(found)


def own_parts(own, labels, step_size):
    total = own.pixel_bytes + labels + step_size
    return {"pixels": own.pixel_bytes, "labels": labels, "step_size": step_size, "teacher": 0, "total": total}


@pytest.mark.parametrize(
    ("soft", "both", "stored", "said"),
    [
        (None, False, False, ""),
        (None, False, True, "hard labels; the set has soft labels, which are not used: --labels hard,soft"),
        (SOFT, False, False, "soft labels of a teacher; --labels hard,soft gives accuracies with hard ones, too"),
        (SOFT, True, True, "soft labels of a teacher; those of the set are not used"),
        (
            SoftLabels(source="stored"),
            False,
            True,
            "soft labels, those of the set (for real images those of a teacher)",
        ),
        (SoftLabels(source="folder", folder="l"), True, False, "soft labels, those stored for every batch (for real"),
    ],
)
def test_labels_that_may_be_misread_are_never_silent(soft, both, stored, said):
    note = labels_note(Recipe(soft_labels=soft).described(), both, stored, teachers=1)
    assert note.startswith(said) and bool(note) == bool(said)


def test_teachers_are_counted_as_the_recipe_has_them_where_all_labels_are_theirs():
    """Results may be collected without descriptions of the teachers."""
    assert labels_note(Recipe(soft_labels=SOFT).described(), True, False, teachers=0).startswith(
        "soft labels of a teac"
    )


def test_what_is_told_of_a_training_is_what_labeled_it(data):
    own = made(data, "probabilities")
    stored = SoftLabels(source="stored", temperature=1, loss="cross_entropy", teacher=SOFT.teacher)
    comparison = compared(data, own, ["random"], soft_labels=stored)
    told = {run.training_set: comparison.module(run).learners.described() for run in comparison.runs}
    names = ("label_source", "relabel", "teachers")
    assert [told["distilled"][name] for name in names] == ["stored", None, None]
    assert [told["random"][name] for name in names] == ["teacher", "never", 1]


@pytest.mark.parametrize("soft", [SoftLabels(source="stored"), SoftLabels(source="folder", folder="labels")])
def test_teachers_that_label_nothing_are_not_named(soft):
    assert "teacher" not in labels_note(Recipe(soft_labels=soft).described(), True, True, teachers=0)


def test_results_of_earlier_versions_have_no_notes():
    assert notes({"accuracy": {}, "runs": []}) == []


def test_nothing_depends_on_the_test_images(data, tmp_path, monkeypatch):
    """A teacher, its students and what is chosen for them are the same whatever the test set is."""

    def weights(test, cache):
        monkeypatch.setenv("BACON_CACHE", str(tmp_path / cache))  # a teacher of its own, not one that is kept
        other = InMemoryData(images(24, 0), test)
        other.setup("test")
        comparison = compared(other, baselines=["random"], soft_labels=SOFT, mixing=CutMix())
        (told,) = comparison.tested_teachers(other.test)
        found = {}
        for run in comparison.runs:
            learners = comparison.module(run).learners.fit()
            found[run] = torch.cat([p.detach().flatten() for p in learners.networks.parameters()])
        teacher = comparison.teachers.logits(other.normalize(images(9, 5).images))
        return told["test_accuracy"], teacher, found

    swapped = LabeledImages(255 - images(9, 1).images, 2 - torch.arange(9) % 3, ("a", "b", "c"))
    (accuracy, teacher, found), (other, same, others) = weights(data.test, "one"), weights(swapped, "other")
    assert accuracy != other
    assert torch.equal(teacher, same)
    assert all(torch.equal(found[run], others[run]) for run in found)


def test_sizes_are_short():
    assert [short_bytes(n) for n in (940, 30_730, 1_280_040, 30_000_000_000)] == [
        "940 B",
        "30.7 kB",
        "1.28 MB",
        "30 GB",
    ]


def test_labels_of_batches_are_for_the_set_and_a_teachers_for_real_images(data):
    soft = SoftLabels(source="folder", folder="labels", temperature=2, teacher=SOFT.teacher)
    with pytest.raises(BaconError, match=r"needs the labels of the folder: give batch_labels=open_labels\(folder"):
        compared(data, soft_labels=soft)

    def batch(epoch, number):
        logits = torch.eye(3)[Orders(6)[epoch] // 2].half()
        crops = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(6, 4)
        return BatchLabels(torch.empty(0), crops, torch.zeros(6, dtype=torch.bool), None, None, None, logits)

    own = StoredLabels(6, 3, 1, 6, batch)
    assert compared(data, soft_labels=soft, batch_labels=own).teachers is None  # which real images alone need
    for other in (None, SOFT):
        with pytest.raises(BaconError, match=r"batch_labels=... are read by a recipe with SoftLabels\(source='folder'"):
            compared(data, soft_labels=other, batch_labels=own)
    comparison = compared(data, None, ["random"], ["hard", "soft"], soft_labels=soft, batch_labels=own)
    found = numbers_of(comparison, data)
    storages = {(run["training_set"], run["variant"]): run["storage"] for run in found["runs"]}
    assert {key: (parts["labels"], parts["teacher"]) for key, parts in storages.items()} == {
        ("distilled", "given"): (6 * (2 * 3 + 17), 0), ("distilled", "hard"): (6, 0),
        ("random", "given"): (6, WEIGHTS), ("random", "hard"): (6, 0),
    }  # fmt: skip
    longer = compared(data, soft_labels=soft, batch_labels=StoredLabels(6, 3, 2, 6, batch), epochs=2)
    learners = longer.module(longer.runs[0]).learners
    assert storage(learners, longer.distilled, None, False)["labels"] == 2 * 6 * (2 * 3 + 17)
    assert len(found["teachers"]) == 1
    own_words = "soft labels, those stored for every batch (for real images those of a teacher)"
    assert f"labels: {own_words}; hard ones beside them" in summary(found)
    assert not compared(data, soft_labels=soft, batch_labels=own).needs_teachers
    with pytest.raises(BaconError, match="--scores needs trainings without augmentation"):
        compared(data, soft_labels=soft, batch_labels=own, scores=True)
    with pytest.raises(BaconError, match="labels are stored for 1 epochs, but --evaluation.epochs is 2"):
        compared(data, soft_labels=soft, batch_labels=own, epochs=2)
