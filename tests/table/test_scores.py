"""`bacon table --scores`: its evaluations share the trainings that are the same for several sets."""

import json
from pathlib import Path

import pytest

from bacon_pl.cli import main
from bacon_pl.table.numbers import Entry
from bacon_pl.table.pages import comma_separated, markdown
from bacon_pl.table.plan import Cell
from bacon_pl.table.runner import Job
from tests.table.test_table import bacon_table, rows

LEARNING = [
    *("--evaluation.network.width", "8", "--evaluation.epochs", "12", "--evaluation.lr", "0.05"),
    *("--evaluation.soft_labels.steps", "20"),
]
"""A recipe by which networks learn something, so that no two accuracies are alike by being those of chance."""


def trained(folder):
    """Files of what was trained for the scores, with their times."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "shared").glob("*.json")}


def test_scores_are_those_of_an_evaluation_and_shared_trainings_are_made_once(tmp_path, capsys):
    given = ("--methods", "tiles,dm", "--repeats", 1, "--jobs", 2, "--trainer.max_steps", 2, *LEARNING)
    assert bacon_table(tmp_path, *given, "--labels", "hard,soft") == 0  # scores can be asked for later
    assert rows(tmp_path)[0]["lrs"] == ""
    once = (*given, "--evaluation.whole_epochs", 1, "--labels", "hard,soft", "--scores")
    assert bacon_table(tmp_path, *once) == 0
    assert sorted(name.split("-")[0] for name in trained(tmp_path)) == ["random", "random", "whole"]
    for row in rows(tmp_path):
        folder, method = tmp_path / "digits-ipc1" / row["method"] / "seed0", row["method"]
        found = json.loads((folder / "results.json").read_text())["scores"]
        configs = (f"--config={name}" for name in ("digits/ipc1", f"methods/{method}", "budgets/small"))
        given_here = [f"--distilled={folder}", f"--out={tmp_path / method}", "--trainer.accelerator=cpu"]
        shorter = ["--evaluation.num_networks=2", "--evaluation.whole_epochs=1", "--labels=hard,soft"]
        main(["eval", *configs, *LEARNING, *shorter, "--scores=true", *given_here])
        assert found == json.loads((tmp_path / method / "results.json").read_text())["scores"]
        assert len(set(found["accuracies"].values())) > 4
        assert (float(row["lrs"]), float(row["ars"])) == pytest.approx((found["lrs"], found["ars"]), abs=1e-4)
    assert "| LRS | ARS |" in (tmp_path / "table.md").read_text()

    before = trained(tmp_path)
    capsys.readouterr()
    assert bacon_table(tmp_path, *once) == 0
    assert "2 runs, 2 of them there" in capsys.readouterr().out
    # Another training on all real images makes other scores, and the others are still good.
    assert bacon_table(tmp_path, *once, "--evaluation.whole_epochs", 2) == 0
    after = trained(tmp_path)
    assert before.items() <= after.items()
    assert [name.split("-")[0] for name in after.keys() - before.keys()] == ["whole"]
    assert bacon_table(tmp_path, *given, "--labels", "hard,soft") == 0
    assert "LRS" not in (tmp_path / "table.md").read_text()
    # The labels of a table's accuracies do not change from one command to the next.
    capsys.readouterr()
    assert bacon_table(tmp_path, *given, "--scores") == 2
    assert "--labels was hard,soft, now as the recipe says" in capsys.readouterr().err


def test_missing_scores_and_means_over_repeats():
    rest = dict.fromkeys(("ars", "hlr", "ior"), 0.5)
    two = ({"lrs": 0.2, **rest}, {"lrs": 0.4, **rest})
    scored = Entry(Cell("dm", "mnist", 1, ()), ((90.0,),), 1, None, scores=two)
    plain = Entry(Cell("idm", "mnist", 1, ()), ((80.0,),), 1, None)
    page = markdown([scored, plain], [], [])
    assert "| dm | 90.0 | 0.300 | 0.500 |" in page and "| idm | 80.0 | – | – |" in page
    assert ",0.3000,0.5000,0.5000,0.5000," in comma_separated([scored])
    assert "DD-Ranking" not in markdown([plain], [], [])


def test_tuned_settings_have_their_scores_beside_the_others():
    rest = dict.fromkeys(("ars", "hlr", "ior"), 0.5)
    own, tuned = (
        Entry(Cell(name, "mnist", 1, (), tuned_from=source), ((90.0,),), 1, None, scores=({"lrs": lrs, **rest},))
        for name, source, lrs in (("dm", "", 0.2), ("dm-tuned", "dm", 0.3))
    )
    page = markdown([own, tuned], [], [])
    assert "| 0.200 / 0.300 | 0.500 |" in page
    assert "the second is that of the tuned settings" in page


@pytest.mark.parametrize(
    ("numbers", "done"),
    [
        ({"scores": None, "config": {"evaluation": {"whole_epochs": 2}}}, False),
        ({"scores": {}, "config": {"evaluation": {"whole_epochs": 3}}}, False),
        ({"scores": {}, "config": {"evaluation": {}}}, False),
        ({"scores": {}, "config": {"evaluation": {"whole_epochs": 2}}}, True),
    ],
)
def test_a_run_is_done_when_its_scores_are_there(numbers, done, tmp_path: Path):
    (tmp_path / "results.json").write_text(json.dumps(numbers))
    assert Job(Cell("dm", "mnist", 1, ()), 0, tmp_path, {}, {}, True, 2).done == done
    assert Job(Cell("dm", "mnist", 1, ()), 0, tmp_path, {}, {}).done
