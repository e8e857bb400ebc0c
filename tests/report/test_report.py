"""The report: tables with the right numbers in the right places, pictures that show them, TensorBoard."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.loggers.logger import DummyLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.evaluation import Embedded, RunResult, results
from bacon_pl.learners import Recipe
from bacon_pl.report import figures, markdown, show, write_report
from bacon_pl.report import figures as draw
from bacon_pl.report.figures import accuracy_figure, confusion_figure, curves_figure, embedding_figure, per_class_figure

NAMES = ("cat_$1$", "dog", "a|b")


def run_result(training_set, network="ConvNet", variant="given", hits=((8, 5), (6, 5))):
    """Two networks; class 0 has 10 test images, class 1 five, class 2 none; all misses go to class 2."""
    confusion = torch.zeros(2, 3, 3, dtype=torch.int64)
    for k, (first, second) in enumerate(hits):
        confusion[k, 0, 0], confusion[k, 0, 2] = first, 10 - first
        confusion[k, 1, 1], confusion[k, 1, 2] = second, 5 - second
    loss = torch.tensor([[3.0, 2.0, 1.0, 0.5], [1.0, 0.5, 0.3, 0.1]])
    curve = torch.tensor([[20.0, 40.0], [40.0, 80.0]])
    recipe = Recipe(epochs=4).described()
    return RunResult(training_set, network, variant, recipe, 3, confusion, loss, curve, (2, 4), 640, 40)


@pytest.fixture(scope="module")
def distilled():
    data = DataModule(name="digits")
    data.setup()
    meta = type(data.meta)("digits", NAMES, 1, (8, 8), (0.5,), (0.5,), 6400)
    return DistilledSet(torch.rand(6, 1, 8, 8), torch.arange(3).repeat_interleave(2), meta, factor=2, method="bacon")


OUTCOMES = [
    run_result("distilled"),
    run_result("random", hits=((0, 0), (3, 0))),
    run_result("distilled", network="MLP", hits=((10, 5), (10, 5))),
    run_result("distilled", variant="plain", hits=((0, 0), (0, 0))),
]
ACCURACIES = dict.fromkeys(
    ("real_hard", "syn_hard", "syn_any", "random_any", "syn_aug", "random_aug", "syn_plain", "random_plain"), 0.25
)
SCORES = {"hlr": 0.1, "ior": 0.2, "lrs": 0.3, "ars": 0.4, "accuracies": ACCURACIES}


@pytest.fixture
def numbers(distilled):
    return results(distilled, OUTCOMES, {"a": 1}, SCORES)


@pytest.fixture
def embedded():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(30, 5, generator=generator)
    return Embedded(real, torch.arange(3).repeat(10), real[:6] + 0.01, torch.arange(3).repeat(2))


def test_accuracies_follow_from_the_confusion():
    one = OUTCOMES[0]
    assert one.accuracies.tolist() == pytest.approx([100 * 13 / 15, 100 * 11 / 15])
    assert one.per_class[:, :2].tolist() == [pytest.approx([80, 100]), pytest.approx([60, 100])]
    assert one.per_class[:, 2].isnan().all()


def test_results_hold_every_run_and_are_json(numbers):
    again = json.loads(json.dumps(numbers, allow_nan=False))
    assert again["accuracy"]["mean"] == pytest.approx(80)
    assert again["accuracy"]["std"] == pytest.approx(100 * 2 / 15 / 2**0.5)
    assert list(again["baselines"]) == ["random"]
    assert [(r["network"], r["training_set"], r["variant"]) for r in again["runs"]] == [
        ("ConvNet", "distilled", "given"), ("ConvNet", "random", "given"), ("MLP", "distilled", "given"),
        ("ConvNet", "distilled", "plain"),
    ]  # fmt: skip
    first = again["runs"][0]
    assert first["per_class"]["mean"] == [pytest.approx(70), pytest.approx(100), None]
    assert first["test_curve"] == {"epochs": [2, 4], "per_network": [[20, 40], [40, 80]]}
    assert first["final_loss"] == pytest.approx([0.5, 0.1])
    assert first["recipe"]["optimizer"] == "sgd"
    assert again["scores"]["lrs"] == 0.3
    assert again["confusion"] == [[14, 0, 6], [0, 10, 0], [0, 0, 0]]


def test_tables_show_the_numbers(numbers):
    page = markdown(json.loads(json.dumps(numbers)))
    lines = page.splitlines()
    assert lines[0] == "# digits, 2 images per class"
    assert "| network | distilled | random real |" in lines
    assert "| ConvNet | 80.0 ± 9.4 | 10.0 ± 14.1 |" in lines
    assert "| MLP | 100.0 ± 0.0 |  |" in lines
    assert "| label-robust score (LRS) | 0.300 | from IOR and HLR, weighted alike |" in lines
    assert r"| cat\_$1$ | 70.0 | 15.0 |" in lines
    assert r"| a\|b |  |  |" in lines
    assert "4 epochs, batch 256, sgd, learning rate 0.01 (× 0.1 half-way)" in page
    assert "640 bytes of pixels, 6 % of the training set" in page
    for block in re.findall(r"(?:^\|.*\n)+", page, flags=re.M):
        assert len({re.sub(r"\\\|", "", line).count("|") for line in block.splitlines()}) == 1


def test_scores_stand_beside_the_accuracies_that_they_are_from(numbers):
    accuracies = {name: place / 10 for place, name in enumerate(ACCURACIES, 1)}
    scores = {**SCORES, "accuracies": accuracies, "weights": {"w": 0.8, "gamma": 0.3}}
    lines = markdown({**numbers, "scores": scores}).splitlines()
    assert "| hard-label recovery (HLR) | 0.100 | 0.100 - 0.200 |" in lines
    assert "| improvement over random (IOR) | 0.200 | 0.300 - 0.400 |" in lines
    assert "| label-robust score (LRS) | 0.300 | 0.8 IOR - 0.2 HLR |" in lines
    ars = "0.500 - 0.600 augmented (weight 0.3), 0.700 - 0.800 not"
    assert f"| augmentation-robust score (ARS) | 0.400 | {ars} |" in lines


def test_scores_are_left_out_where_there_are_none(numbers):
    assert "Robust scores" not in markdown({**numbers, "scores": None})


def test_many_classes_are_listed_in_several_columns(numbers):
    many = json.loads(json.dumps(numbers))
    many["classes"] = [f"c{c}" for c in range(300)]
    for run in many["runs"]:
        run["per_class"]["mean"] = [c / 4 for c in range(300)]
    rows = markdown(many).partition("## Accuracy by class")[2].split("\n\n")[2].splitlines()
    assert rows[0] == "| " + " | ".join(["class", "distilled", "random real"] * 4) + " |"
    assert len(rows) == 2 + 75
    assert rows[2].startswith("| c0 | 0.0 | 0.0 | c75 | 18.8 | 18.8 | c150 |") and rows[-1].endswith(
        "c299 | 74.8 | 74.8 |"
    )


def test_many_classes_have_bars_with_names_in_several_rows():
    counts = torch.eye(300, dtype=torch.int64).expand(2, -1, -1).clone()
    counts[:, 299, 0] = 1
    one = RunResult("distilled", "N", "given", {}, 0, counts, torch.ones(2, 3), torch.zeros(2, 0), (), 1, 1)
    figure = per_class_figure([one, one], [f"class {c}" for c in range(300)])
    assert len(figure.axes) == 4
    names = [tick.get_text() for axes in figure.axes for tick in axes.get_xticklabels()]
    assert names == [f"class {c}" for c in range(300)]
    heights = [bar.get_height() for axes in figure.axes for bar in axes.containers[0]]
    assert heights == [100.0] * 299 + [50.0]


def test_names_in_any_script_make_no_warning(embedded, tmp_path):
    names = ["咖啡", "قهوة 👩\u200d🚀", "कॉफ़ी $x$"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, figure in draw(OUTCOMES, names, embedded).items():
            figure.savefig(tmp_path / f"{name}.png")


def test_bars_are_means_with_deviations():
    figure = accuracy_figure(OUTCOMES)
    bars = {c.get_label(): c for c in figure.axes[0].containers if c.get_label() in ("distilled", "random real")}
    assert [p.get_height() for p in bars["distilled"]] == pytest.approx([80, 100])
    assert [p.get_height() for p in bars["random real"]] == pytest.approx([10])
    ((low, high),) = bars["random real"].errorbar.lines[2][0].get_segments()
    assert (high - low)[1] == pytest.approx(2 * 100 * 3 / 15 / 2**0.5, rel=1e-5)
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["ConvNet", "MLP"]


def test_curves_are_the_means_over_networks():
    loss, accuracy = curves_figure(OUTCOMES[:2]).axes
    assert loss.lines[0].get_ydata().tolist() == pytest.approx([2, 1.25, 0.65, 0.3])
    assert loss.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    (band,) = loss.collections[0].get_paths()  # one deviation to either side
    first = band.vertices[band.vertices[:, 0] == 1, 1]
    assert (first.min(), first.max()) == pytest.approx((2 - 2**0.5, 2 + 2**0.5))
    assert accuracy.lines[1].get_ydata().tolist() == [30, 60]
    assert accuracy.lines[1].get_xdata().tolist() == [2, 4]


def test_classes_and_confusion():
    axes = per_class_figure(OUTCOMES[:2], NAMES).axes[0]
    assert [p.get_height() for p in axes.containers[0]] == pytest.approx([70, 100, 0])
    assert [p.get_height() for p in axes.containers[1]] == pytest.approx([15, 0, 0])
    axes = confusion_figure(OUTCOMES[0].confusion.sum(0), NAMES).axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[70, 0, 30], [0, 100, 0], [0, 0, 0]])
    assert [t.get_text() for t in axes.get_yticklabels()] == [r"cat_\$1\$", "dog", "a|b"]


def test_embeddings_lie_beside_their_neighbors(embedded):
    drawn = embedding_figure(embedded, NAMES).axes[0].collections[:2]
    for labels, one in zip((embedded.real_labels, embedded.synthetic_labels), drawn, strict=True):
        assert one.get_array().tolist() == labels.tolist()
    real, synthetic = (one.get_offsets() for one in drawn)
    assert real.shape == (30, 2) and synthetic.shape == (6, 2)
    distance = np.linalg.norm(np.asarray(synthetic)[:, None] - np.asarray(real)[None], axis=2)
    assert (distance.argmin(1) == np.arange(6)).mean() > 0.5


@pytest.mark.parametrize("classes", [1, 150])
def test_pictures_for_few_and_many_classes(classes, tmp_path):
    names = [f"class {c}" for c in range(classes)]
    counts = torch.eye(classes, dtype=torch.int64).expand(2, -1, -1)
    one = RunResult("distilled", "N", "given", {}, 0, counts, torch.ones(2, 3), torch.zeros(2, 0), (), 1, 1)
    embedded = Embedded(torch.randn(4, 3), torch.zeros(4).long(), torch.randn(2, 3), torch.zeros(2).long())
    for name, figure in draw([one], names, embedded).items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 3000


def test_a_logger_of_tables_gets_means_and_deviations(distilled, numbers):
    class Tables(DummyLogger):
        def log_table(self, name, columns, data):
            self.taken = name, [columns, *data]

    logger = Tables()
    show([logger], numbers, distilled, {})
    name, (head, *rows) = logger.taken
    assert name == "accuracies" and head[-2:] == ["accuracy", "standard deviation"]
    assert [row[:3] for row in rows] == [[o.architecture, o.training_set, o.variant] for o in OUTCOMES]
    for row, o in zip(rows, OUTCOMES, strict=True):
        assert row[3:] == pytest.approx([float(o.accuracies.mean()), float(o.accuracies.std())])


def test_files_and_tensorboard(distilled, numbers, embedded, tmp_path):
    pictures = figures(OUTCOMES, NAMES, embedded)
    page = write_report(tmp_path, numbers, distilled, pictures)
    linked = re.findall(r"\]\((figures/\w+\.png)\)", page.read_text())
    assert sorted(linked) == sorted(f"figures/{n}.png" for n in (*pictures, "images"))
    assert all((tmp_path / path).is_file() for path in linked)
    assert "Pictures" not in write_report(tmp_path / "figures", numbers, distilled, {}).read_text()

    logger = TensorBoardLogger(tmp_path / "logs")
    show([logger], numbers, distilled, pictures)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    assert {f"report/{name}" for name in (*pictures, "images")} == set(tags["images"])
    assert events.Scalars("accuracy/MLP/distilled/given")[0].value == pytest.approx(100)
    assert events.Scalars("scores/lrs")[0].value == pytest.approx(0.3)
