"""`bacon table --bound`: all sets are seen through the same networks, once, and risk is compared with accuracy."""

import csv
import json
from dataclasses import replace

import pytest

from bacon_pl.bound import BoundSettings
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import bounds
from bacon_pl.learners import Learners, Recipe, TrainingSet, feature_spaces
from bacon_pl.networks import ConvNet
from bacon_pl.table.numbers import Entry
from bacon_pl.table.pages import comma_separated, markdown
from bacon_pl.table.plan import Cell
from bacon_pl.table.risk import rank_correlation, read_bounds, risk_note
from bacon_pl.table.sources import training_images
from tests.table.test_table import bacon_table, rows


def entry(dataset, method, accuracy, fresh, real=None):
    seen = {"fresh": {"bound": -1.0, "risk": fresh}, "real": {"bound": None, "risk": real}}
    measured = () if fresh is None else (seen,)
    return Entry(Cell(method, dataset, 10, ()), ((accuracy,),), 1, None, bounds=measured)


def test_a_table_measures_every_set_once_and_through_the_same_networks(tmp_path, capsys):
    given = ("--methods", "random,herding,dm", "--repeats", 1, "--jobs", 2, "--trainer.max_steps", 2,
             "--evaluation.coreset_steps", 6, "--bound")  # fmt: skip
    assert bacon_table(tmp_path, *given) == 0
    assert "measuring the bound and the risk of 3 sets of digits" in capsys.readouterr().out
    store, meta = training_images("digits", tmp_path)
    network = lambda *shape: ConvNet(*shape, width=4, depth=2)  # noqa: E731
    kept = json.loads((tmp_path / "digits-ipc1/dm/seed0/cell.json").read_text())["evaluation"]
    recipe = Recipe(network=network, num_networks=1, epochs=kept["epochs"], coreset_steps=6, acceleration="off")
    recipe = replace(recipe, augment=_augment(kept))
    fresh = Learners(TrainingSet.whole(store), recipe, meta, 0)
    views = {"fresh": fresh.embed, "real": feature_spaces(recipe, store, meta, 0)[0]}
    numbers = {row["method"]: row for row in rows(tmp_path)}
    for method in ("random", "herding", "dm"):
        folder = tmp_path / f"digits-ipc1/{method}/seed0"
        expected = bounds(views, DistilledSet.load(folder), store, BoundSettings(), 0)["networks"]
        found = json.loads((folder / "bound.json").read_text())["networks"]
        for view in ("fresh", "real"):
            for number in ("bound", "risk", "epsilon"):
                assert found[view][number] == pytest.approx(expected[view][number], rel=1e-4)
            assert float(numbers[method][f"risk_{view}"]) == pytest.approx(expected[view]["risk"], rel=1e-3)
    page = (tmp_path / "table.md").read_text()
    assert "|  | n | initial weights | trained on real images |" in page and "| digits, ipc 1 | 3 |" in page

    assert bacon_table(tmp_path, *given) == 0
    assert "measuring" not in capsys.readouterr().out
    assert bacon_table(tmp_path, *given[:-1]) == 0  # without --bound
    assert rows(tmp_path)[0]["risk_fresh"] == "" and "rank correlation" not in (tmp_path / "table.md").read_text()


def _augment(evaluation):
    from bacon_pl.configured import remake

    return remake(Recipe, {"augment": evaluation["augment"]})["augment"]


def test_rank_correlation_of_risk_and_accuracy():
    falling = [entry("mnist", str(i), accuracy, risk) for i, (accuracy, risk) in enumerate([(90, 3), (91, 2), (99, 0)])]
    assert rank_correlation(falling, "fresh") == pytest.approx(-1)
    assert rank_correlation([*falling, entry("mnist", "other", 100, 1)], "fresh") == pytest.approx(-0.8)
    assert rank_correlation([*falling, entry("mnist", "not measured", 1, None)], "fresh") == pytest.approx(-1)
    assert rank_correlation(falling, "real") is None  # no class has a radius there
    assert rank_correlation(falling[:2], "fresh") is None
    assert rank_correlation([entry("mnist", str(i), 90 + i, 1) for i in range(3)], "fresh") is None


def test_cells_are_compared_by_themselves_for_ranks_over_all_mix_datasets():
    easy = [entry("mnist", str(i), 90 + i, 9 - i, 0.1 * i) for i in range(3)]
    hard = [entry("cifar10", str(i), 40 + i, 4 - i, 0.3 - 0.1 * i) for i in range(3)]
    _, table = risk_note([*easy, *hard])
    assert table.splitlines()[2:] == [
        "| mnist, ipc 10 | 3 | -1.00 | +1.00 |",
        "| cifar10, ipc 10 | 3 | -1.00 | -1.00 |",
        "| mean of the 2 above | 6 | -1.00 | +0.00 |",
        f"| all at once, which mixes datasets | 6 | {rank_correlation([*easy, *hard], 'fresh'):+.2f} | "
        f"{rank_correlation([*easy, *hard], 'real'):+.2f} |",
    ]
    assert rank_correlation([*easy, *hard], "fresh") > 0
    assert table in markdown([*easy, *hard], [], [])
    first = next(csv.DictReader(comma_separated([easy[1]]).splitlines()))
    assert (first["risk_fresh"], first["bound_fresh"], first["bound_real"]) == ("8", "-1", "")


def test_tables_without_risk_say_nothing_of_it():
    assert risk_note([entry("mnist", "idm", 90, None)]) == []


@pytest.mark.parametrize("text", ["{", "[]", '{"networks": {}}'])
def test_a_damaged_file_is_named(tmp_path, text):
    assert read_bounds(tmp_path) is None
    (tmp_path / "bound.json").write_text(text)
    with pytest.raises(BaconError, match=r"cannot read '.*bound.json' .*remove it, and it is made again"):
        read_bounds(tmp_path)


def test_repeats_are_averaged():
    seen = tuple({"fresh": {"bound": None, "risk": risk}, "real": {"bound": None, "risk": None}} for risk in (0.2, 0.4))
    both = Entry(Cell("idm", "mnist", 10, ()), ((90.0,), (91.0,)), 2, None, bounds=seen)
    assert (both.seen("fresh", "risk"), both.seen("real", "risk")) == (pytest.approx(0.3), None)
