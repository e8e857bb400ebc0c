"""Tuned settings in a table: beside the method's own, with what they were chosen by, and refused where they are others.

The tables here have no data, so nothing is run; tests/tuning has one with runs.
"""

import csv
import json

import pytest
import yaml

from bacon_pl.cli import main
from bacon_pl.errors import BaconError
from bacon_pl.table.numbers import entries
from bacon_pl.table.pages import comma_separated, markdown, picture
from bacon_pl.table.plan import budget_file, overlays, plan
from bacon_pl.table.tuned import Tuned, tuned_settings, tuning_note
from tests.paths import CONFIGS

FACTS = {
    "method": "idm", "dataset": "mnist", "ipc": 10, "budget": "small", "trials": 8, "iterations": 100, "held_out": 0.1,
    "seed": 0, "best": 3, "accuracy": 94.25, "settings": {"model.lr": 0.5}, "commits": ["0123456789abcdef"],
}  # fmt: skip


def write_tuned(folder, name="idm-mnist-ipc10", **facts):
    folder.mkdir(exist_ok=True)
    facts = {**FACTS, **facts}
    settings = {"extends": "methods/idm", "model": {"lr": 0.5, "method": "idm-tuned"}, "tuned": facts}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings))
    return folder / f"{name}.yaml"


def made(folder, methods=("tiles", "idm", "dm"), ipcs=(10,)):
    """Cells of MNIST with the small budget, and which of them have settings."""
    budget = budget_file("small", CONFIGS)
    cells, _ = plan(overlays(methods, CONFIGS), ["mnist"], ipcs, budget, CONFIGS, folder)
    return cells, *tuned_settings(cells, budget, "small", {"mnist": "mnist=data"})


def finished(out, cell, seed, accuracies):
    folder = cell.folder(out, seed)
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps({"accuracy": {"per_network": accuracies}}))


def test_methods_with_knobs_have_a_second_row(tmp_path):
    file = write_tuned(tmp_path / "tuned")
    cells, found, missing = made(tmp_path / "tuned")
    assert [cell.method for cell in cells] == ["tiles", "idm", "idm-tuned", "dm", "dm-tuned"]
    idm, dm = cells[2], cells[4]
    assert [path.name for path in idm.configs] == ["ipc10.yaml", file.name, "small.yaml"]
    assert (found[idm].path, found[idm].facts) == (file, FACTS)
    assert missing == {
        dm: f"no {tmp_path}/tuned/dm-mnist-ipc10.yaml: `bacon tune --method dm --dataset mnist=data --ipc 10 --budget "
        f"small --out {tmp_path}/tuned/dm-mnist-ipc10.yaml` makes it"
    }


def test_a_file_of_ones_own_is_tuned_by_its_path(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text("extends: methods/idm\nmodel: {method: mine}\n")
    (tmp_path / "tuned").mkdir()
    _, _, missing = made(tmp_path / "tuned", [str(own)])
    ((cell, reason),) = missing.items()
    assert cell.method == "mine-tuned" and f"bacon tune --method {own} --dataset" in reason


@pytest.mark.parametrize(
    "facts", [{"method": "dm"}, {"dataset": "cifar10"}, {"ipc": 1}, {"budget": "full"}], ids=lambda facts: str(facts)
)
def test_settings_for_something_else_are_refused(tmp_path, facts):
    write_tuned(tmp_path / "tuned", **facts)
    ((name, value),) = facts.items()
    with pytest.raises(BaconError, match=f"was tuned for {name} {value}, not {FACTS[name]}: "):
        made(tmp_path / "tuned")


def test_a_file_that_does_not_say_how_it_was_tuned_is_refused(tmp_path):
    path = write_tuned(tmp_path / "tuned")
    path.write_text("extends: methods/idm\nmodel: {lr: 0.5}\n")
    with pytest.raises(BaconError, match="does not say how it was tuned .*`tuned` has no method"):
        made(tmp_path / "tuned")


def test_nothing_may_change_what_was_tuned(tmp_path):
    tuned = Tuned.read(write_tuned(tmp_path / "tuned"))
    tuned.check_kept({"model": {"lr": 0.5}})
    with pytest.raises(BaconError, match=r"tunes model.lr to 0.5, but .* sets it to 0.1"):
        tuned.check_kept({"model": {"lr": 0.1}})


def test_knobs_for_one_number_of_images_give_second_rows_there(tmp_path):
    own = tmp_path / "mine.yaml"
    knobs = {"tune": {"model.lr": {"low": 0.1, "high": 1.0}}}
    own.write_text(yaml.safe_dump({"extends": "methods/tiles", "for": {"ipc10": knobs}}))
    (tmp_path / "tuned").mkdir()
    cells, _, missing = made(tmp_path / "tuned", (str(own),), (1, 10))
    assert [(cell.method, cell.ipc) for cell in cells] == [("mine", 1), ("mine", 10), ("mine-tuned", 10)]
    assert list(missing) == cells[2:]


def test_a_row_of_the_same_name_and_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(BaconError, match=r"no folder '.*tuned' of tuned settings"):
        made(tmp_path / "tuned")
    own = write_tuned(tmp_path, "idm-tuned")
    with pytest.raises(BaconError, match="has a row 'idm-tuned' of its own"):
        made(tmp_path, ["idm", str(own)])


def test_both_settings_are_in_one_row(tmp_path):
    write_tuned(tmp_path / "tuned")
    cells, found, missing = made(tmp_path / "tuned")
    tiles, idm, tuned, _, _ = cells
    finished(tmp_path, tiles, 0, [95.0, 96.0])
    finished(tmp_path, idm, 0, [94.0, 95.0])
    finished(tmp_path, tuned, 0, [97.0, 98.0])
    there = entries(cells, tmp_path, [0], missing)
    page = markdown(there, tuning_note(list(found.values())), [])
    assert "| method | its own settings | tuned | gain |" in page
    assert "| mnist, ipc 10 | tiles | 95.5 ± 0.7 | – | – | 1 × 2 | – | – |" in page
    assert "| mnist, ipc 10 | idm | 94.5 ± 0.7 | 97.5 ± 0.7 | +3.0 | 1 × 2 | 96.26 | -1.8 |" in page
    assert f"| `{tmp_path}/tuned/idm-mnist-ipc10.yaml` | 8 | 100 | 10 % | 0 | 3 | 94.2 | 012345678 |" in page
    assert "same number of trials of the same length" in page
    assert "- mnist, ipc 10, dm: not yet run" in page
    assert f"- mnist, ipc 10, dm-tuned: no {tmp_path}/tuned/dm-mnist-ipc10.yaml: `bacon tune --method dm" in page
    rows = {row["method"]: row for row in csv.DictReader(comma_separated(there).splitlines())}
    assert (rows["idm-tuned"]["tuned_from"], rows["idm-tuned"]["gain"]) == ("idm", "3.000")
    assert (rows["idm"]["tuned_from"], rows["idm"]["gain"], rows["idm"]["published"]) == ("", "", "96.260")
    bars = picture(there).axes[0].containers
    colors = {bar.get_label(): bar[0].get_facecolor() for bar in bars if hasattr(bar, "patches")}
    assert colors["idm"] == colors["idm-tuned"] != colors["tiles"]


def test_another_effort_is_told(tmp_path):
    files = [
        Tuned.read(write_tuned(tmp_path / "tuned", f"idm-mnist-ipc{ipc}", trials=trials))
        for ipc, trials in ((1, 8), (10, 16))
    ]
    intro, _ = tuning_note(files)
    assert "**The tuning was not the same for all**: they differ in the trials (8, 16)." in intro
    assert tuning_note([]) == []


def test_the_command_refuses_before_anything_is_run(tmp_path, capsys):
    write_tuned(tmp_path / "tuned", "idm-digits-ipc1", dataset="digits", ipc=1)
    given = ["table", "--out", str(tmp_path / "out"), "--methods", "idm", "--datasets", "digits", "--ipcs", "1",
             "--budget", "small", "--tuned", str(tmp_path / "tuned")]  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        main([*given, "--model.lr", "0.1"])
    error = capsys.readouterr().err.strip()
    assert stop.value.code == 2 and error.count("\n") == 0
    assert "tunes model.lr to 0.5" in error and "sets it to 0.1" in error
    assert not list((tmp_path / "out").glob("*/*"))
