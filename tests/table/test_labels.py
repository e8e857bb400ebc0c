"""A table with hard and soft labels side by side, and what has to be stored."""

import csv
import io
import json

import pytest

from bacon_pl.commands.settings import settings_of
from bacon_pl.errors import BaconError
from bacon_pl.table import Table
from bacon_pl.table.numbers import entries
from bacon_pl.table.pages import comma_separated, markdown
from bacon_pl.table.plan import Cell

CELLS = [Cell(method, "mnist", 10, ()) for method in ("dm", "idm")]


def write(folder, soft, hard=None, stored=None, labels="soft"):
    runs = [("distilled", "given", soft), ("distilled", "hard", hard), ("random", "hard", [1.0])]
    found = [
        {"network": "convnet", "training_set": name, "variant": variant, "accuracy": {"per_network": values}}
        for name, variant, values in runs
        if values is not None
    ]
    numbers = {"network": "convnet", "accuracy": {"per_network": soft}, "runs": found}
    if stored is not None:
        numbers |= {"storage": {"total": stored}, "labels": {"kind": labels}}
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(numbers))


def test_hard_labels_and_storage_have_columns(tmp_path):
    write(CELLS[0].folder(tmp_path, 0), [90.0, 92.0], [80.0, 84.0], 1_310_000)
    write(CELLS[1].folder(tmp_path, 0), [50.0], stored=78_500)
    found = entries(CELLS, tmp_path, [0], {})
    page = markdown(found, [], [])
    head = "| dataset | method | ours | with hard labels | storage | repeats × networks | published | difference |"
    assert head in page
    assert "| mnist, ipc 10 | dm | 91.0 ± 1.4 | 82.0 ± 2.8 | 1.31 MB |" in page
    assert "| mnist, ipc 10 | idm | 50.0 | – | 78.5 kB |" in page
    assert "All: networks learned from soft labels; --labels hard,soft shows those with hard labels" in page
    rows = list(csv.DictReader(io.StringIO(comma_separated(found))))
    assert [(row["labels"], row["hard_mean"], row["hard_std"], row["storage_bytes"]) for row in rows] == [
        ("soft", "82.000", "2.828", "1310000"), ("soft", "", "", "78500")
    ]  # fmt: skip


def test_results_of_earlier_versions_make_the_table_they_made(tmp_path):
    write(CELLS[0].folder(tmp_path, 0), [90.0])
    page = markdown(entries(CELLS, tmp_path, [0], {}), [], [])
    assert "| dataset | method | ours | repeats × networks | published | difference |" in page
    assert "soft labels" not in page


def test_only_soft_rows_are_told_of(tmp_path):
    write(CELLS[0].folder(tmp_path, 0), [90.0], [80.0], 1000)
    write(CELLS[1].folder(tmp_path, 0), [50.0], stored=1000, labels="hard")
    assert "dm: networks learned from soft labels. Storage" in markdown(entries(CELLS, tmp_path, [0], {}), [], [])


def test_labels_are_those_of_every_evaluation(tmp_path):
    table = Table(["--labels", "hard,soft", "--datasets", "digits", "--out", str(tmp_path)], settings_of)
    assert table._labels == ["hard", "soft"]
    with pytest.raises(BaconError, match=r"unknown kind of labels 'sofd'.*Did you mean 'soft'"):
        Table(["--labels", "sofd", "--datasets", "digits", "--out", str(tmp_path)], settings_of).run()


def test_labels_of_one_set_are_not_for_a_table(tmp_path):
    words = ["--methods", "random", "--datasets", "digits", "--ipcs", "1", "--out", str(tmp_path)]
    words += ["--evaluation.soft_labels", "{source: folder, folder: labels}"]
    with pytest.raises(BaconError, match="those of one set, and a table makes many: evaluate that set by `bacon eval`"):
        Table(words, settings_of).run()
