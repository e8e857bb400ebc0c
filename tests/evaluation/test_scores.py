"""DD-Ranking's scores from known accuracies, and which runs an evaluation adds for them."""

import math

import pytest
import torch

from bacon_pl.augment import DSA, CutMix, NoAugmentation
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Comparison, Run, RunResult, ScoreWeights, robust_scores, score_line
from bacon_pl.evaluation.scores import normalized
from bacon_pl.learners import Recipe, SoftLabels
from bacon_pl.networks import ConvNet
from tests.paths import ROOT

ACCURACIES = {
    "real_hard": 0.85, "syn_hard": 0.5, "syn_any": 0.6, "random_any": 0.3,
    "syn_aug": 0.62, "random_aug": 0.32, "syn_plain": 0.4, "random_plain": 0.3,
}  # fmt: skip


def test_scores_by_hand():
    scores = robust_scores(**ACCURACIES)
    assert scores.hlr == pytest.approx(0.35)
    assert scores.ior == pytest.approx(0.3)
    scale = math.e - 1 / math.e
    assert scores.lrs == pytest.approx((math.exp(0.5 * 0.3 - 0.5 * 0.35) - 1 / math.e) / scale)
    assert scores.ars == pytest.approx((math.exp(0.5 * 0.3 + 0.5 * 0.1) - 1 / math.e) / scale)
    weighted = robust_scores(**ACCURACIES, w=0.8, gamma=0.1)
    assert weighted.lrs == pytest.approx((math.exp(0.8 * 0.3 - 0.2 * 0.35) - 1 / math.e) / scale)
    assert weighted.ars == pytest.approx((math.exp(0.1 * 0.3 + 0.9 * 0.1) - 1 / math.e) / scale)
    assert (normalized(-1), normalized(1)) == (pytest.approx(0), pytest.approx(1))
    with pytest.raises(BaconError, match=r"w must be in \[0, 1\], got 2"):
        robust_scores(**ACCURACIES, w=2)


def test_the_worked_example_of_the_documentation():
    page = (ROOT / "docs/scores.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| 87.0 %"))
    real_hard, syn_hard, syn_any, random_any = (float(cell.strip(" %")) for cell in row.strip("|").split("|"))

    def told(scale):
        hlr, ior = (real_hard - syn_hard) / scale, (syn_any - random_any) / scale
        alpha = (ior - hlr) / 2
        return f"{hlr:.3g} | {ior:.3g} | {alpha:.3g} | {normalized(alpha):.3f} |"

    assert f"| fractions, here | {told(100)}" in page
    assert f"| percent, ddranking 0.2.0 | {told(1)}" in page
    parts = {"real_hard": real_hard, "syn_hard": syn_hard, "syn_any": syn_any, "random_any": random_any}
    rest = dict.fromkeys(("syn_aug", "random_aug", "syn_plain", "random_plain"), 0.0)
    ours = robust_scores(**{name: value / 100 for name, value in parts.items()}, **rest)
    assert f"{ours.lrs:.3f}" == "0.242"
    assert f"= {normalized(-1e3):.3f} whatever the set" in page and f"it is {normalized(5):.0f}" in page


def test_weights_of_the_scores_are_options(data):
    distilled = DistilledSet(torch.zeros(10, 1, 8, 8), torch.arange(10), data.meta)
    recipe = Recipe(network=network, num_networks=1, epochs=1)
    weights = ScoreWeights(w=0.8, gamma=0.1)
    comparison = Comparison(distilled, data.train, data.meta, recipe, {"a": network}, scores=True, weights=weights)
    results = [run_result(run, hits) for run, hits in zip(comparison.runs, (7, 9, 3, 4, 2), strict=True)]
    scores = comparison.scores(results)
    expected = robust_scores(**scores["accuracies"], w=0.8, gamma=0.1)
    assert (scores["lrs"], scores["ars"], scores["weights"]) == (expected.lrs, expected.ars, {"w": 0.8, "gamma": 0.1})
    assert score_line(scores).endswith(", w 0.8, gamma 0.1")
    with pytest.raises(BaconError, match=r"--score_weights.gamma must be in \[0, 1\], got -1"):
        ScoreWeights(gamma=-1)


def network(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def compared(data, **settings):
    distilled = DistilledSet(torch.zeros(10, 1, 8, 8), torch.arange(10), data.meta)
    recipe = Recipe(**{"network": network, "num_networks": 2, "epochs": 1, **settings})
    return Comparison(distilled, data.train, data.meta, recipe, {"a": network, "b": network}, ["random"], True)


def runs(*extra):
    table = [Run(n, s) for n in "ab" for s in ("distilled", "random")]
    return table + [Run("a", s, v) for s, v in extra]


def test_runs_the_scores_need_are_added_once(data):
    plain = [("distilled", "plain"), ("random", "plain")]
    assert compared(data).runs == runs(("whole", "given"), *plain)
    soft = SoftLabels()
    assert compared(data, soft_labels=soft).runs == runs(("whole", "hard"), ("distilled", "hard"), *plain)
    assert compared(data, augment=NoAugmentation()).runs == runs(("whole", "given"))
    assert compared(data, augment=NoAugmentation(), mixing=CutMix()).runs == runs(("whole", "given"), *plain)


def test_variants_differ_in_one_thing(data):
    comparison = compared(data, soft_labels=SoftLabels(), mixing=CutMix(), augment=DSA())
    hard, plain = (comparison.module(Run("a", "distilled", v)).learners.recipe for v in ("hard", "plain"))
    assert hard.soft_labels is None and isinstance(hard.mixing, CutMix) and isinstance(hard.augment, DSA)
    assert plain.soft_labels is not None and plain.mixing is None and isinstance(plain.augment, NoAugmentation)


def run_result(run, right):
    """One network that takes ``right`` of 10 images of class 0 for what they are."""
    confusion = torch.tensor([[[right, 10 - right], [0, 0]]])
    return RunResult(
        run.training_set,
        run.architecture,
        run.variant,
        {},
        0,
        confusion,
        torch.zeros(1, 1),
        torch.zeros(1, 0),
        (),
        0,
        0,
    )


def test_scores_come_from_the_main_architectures_runs(data):
    comparison = compared(data, soft_labels=SoftLabels())
    right = dict(zip(comparison.runs, (7, 3, 0, 0, 9, 5, 4, 2), strict=True))
    scores = comparison.scores([run_result(run, hits) for run, hits in right.items()])
    assert scores["accuracies"] == pytest.approx(
        {"real_hard": 0.9, "syn_hard": 0.5, "syn_any": 0.7, "random_any": 0.3, "syn_aug": 0.7, "random_aug": 0.3,
         "syn_plain": 0.4, "random_plain": 0.2}
    )  # fmt: skip
    expected = robust_scores(**scores["accuracies"])
    assert (scores["hlr"], scores["ior"]) == (pytest.approx(0.4), pytest.approx(0.4))
    assert (scores["lrs"], scores["ars"]) == (pytest.approx(expected.lrs), pytest.approx(expected.ars))
