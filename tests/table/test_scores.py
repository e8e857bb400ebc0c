"""`bacon table --scores`: the scores are those of `bacon eval --scores`, and shared trainings are made once."""

import json

import pytest

from bacon_pl.cli import main
from bacon_pl.errors import BaconError
from bacon_pl.table.numbers import Entry
from bacon_pl.table.pages import comma_separated, markdown
from bacon_pl.table.plan import Cell
from bacon_pl.table.scores import read_scores
from tests.table.test_table import bacon_table, rows

LEARNING = [
    *("--evaluation.network.width", "8", "--evaluation.epochs", "12", "--evaluation.lr", "0.05"),
    *("--evaluation.soft_labels.steps", "20", "--labels", "hard,soft"),
]
"""A recipe by which networks learn something, so that no two accuracies are alike by being those of chance."""


def test_scores_are_those_of_an_evaluation_and_shared_trainings_are_made_once(tmp_path, capsys):
    given = ("--methods", "tiles,dm", "--repeats", 1, "--jobs", 1, "--trainer.max_steps", 2, *LEARNING, "--scores")
    assert bacon_table(tmp_path, *given, "--evaluation.whole_epochs", 1) == 0
    said = capsys.readouterr().out
    assert "scoring 2 sets of digits" in said
    trained = ("all real, hard labels:", "random real:", "random real, without", "distilled, without")
    assert [said.count(f"    {name}") for name in trained] == [1, 1, 1, 2]
    for row in rows(tmp_path):
        folder = tmp_path / "digits-ipc1" / row["method"] / "seed0"
        found = json.loads((folder / "scores.json").read_text())
        method = row["method"]
        configs = (f"--config={name}" for name in ("digits/ipc1", f"methods/{method}", "budgets/small"))
        given_here = [f"--distilled={folder}", f"--out={tmp_path / method}", "--trainer.accelerator=cpu"]
        shorter = ["--evaluation.num_networks=2", "--evaluation.whole_epochs=1"]
        main(["eval", *configs, *LEARNING, *shorter, "--scores=true", *given_here])
        expected = json.loads((tmp_path / row["method"] / "results.json").read_text())["scores"]
        assert found["accuracies"] == pytest.approx(expected["accuracies"])
        assert len(set(expected["accuracies"].values())) > 4
        assert [found[name] for name in ("lrs", "ars")] == pytest.approx([expected[name] for name in ("lrs", "ars")])
        assert float(row["lrs"]) == pytest.approx(expected["lrs"], abs=1e-4)
    assert "| LRS | ARS |" in (tmp_path / "table.md").read_text()
    capsys.readouterr()

    assert bacon_table(tmp_path, *given, "--evaluation.whole_epochs", 1) == 0
    assert "scoring" not in capsys.readouterr().out
    # Another training on all real images: those on random ones are still good.
    assert bacon_table(tmp_path, *given, "--evaluation.whole_epochs", 2) == 0
    said = capsys.readouterr().out
    assert [said.count(f"    {name}") for name in ("all real", "random", "distilled")] == [1, 0, 0]
    assert bacon_table(tmp_path, *given[:-1]) == 0
    assert "LRS" not in (tmp_path / "table.md").read_text()


def test_missing_scores_and_means_over_repeats():
    values = dict.fromkeys(("ars", "hlr", "ior"), 0.5)
    scored = Entry(
        Cell("dm", "mnist", 1, ()), ((90.0,),), 1, None, scores=({"lrs": 0.2, **values}, {"lrs": 0.4, **values})
    )
    plain = Entry(Cell("idm", "mnist", 1, ()), ((80.0,),), 1, None)
    page = markdown([scored, plain], [], [])
    assert "| dm | 90.0 | 0.300 | 0.500 |" in page and "| idm | 80.0 | – | – |" in page
    assert ",0.3000,0.5000,0.5000,0.5000," in comma_separated([scored])
    assert "DD-Ranking" not in markdown([plain], [], [])


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"lrs": "many", "ars": 1, "hlr": 1, "ior": 1}'])
def test_a_damaged_file_is_one_sentence(text, tmp_path):
    assert read_scores(tmp_path) is None
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(BaconError, match=r"cannot read '.*scores\.json' \(.*\): remove it, and it is made again\."):
        read_scores(tmp_path)
