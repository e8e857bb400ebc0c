"""What a table refuses before its first run, and what it does not add to runs that are there."""

import re

import pytest

from bacon_pl.commands.settings import settings_of
from bacon_pl.errors import BaconError
from bacon_pl.table import Table
from bacon_pl.table.plan import check_record, record, write_record


@pytest.mark.parametrize(
    ("method", "resize", "said"),
    [("random", 20, "must be from 8, the shorter side of the images, to 16, got 20"), ("mtt", 12, "are whitened")],
)
def test_a_table_says_before_its_runs_that_test_images_cannot_be_enlarged(tmp_path, method, resize, said):
    words = ["--methods", method, "--datasets", "digits", "--ipcs", "1", "--out", str(tmp_path / "table")]
    words += ["--evaluation.test_resize", str(resize), "--data.whitening", "zca" if method == "mtt" else "null"]
    with pytest.raises(BaconError, match=said):
        Table(words, settings_of).run()
    assert not (tmp_path / "table").exists()


def test_images_of_another_size_are_tested_enlarged_from_that_size(tmp_path, monkeypatch):
    monkeypatch.setattr("bacon_pl.table.command.run_all", lambda *_: None)
    words = ["--methods", "random", "--datasets", "digits", "--ipcs", "1", "--out", str(tmp_path / "table")]
    Table([*words, "--data.image_size", "16", "--evaluation.test_resize", "20"], settings_of).run()
    with pytest.raises(BaconError, match="must be from 6, the shorter side of the images, to 12, got 16"):
        Table([*words, "--data.image_size", "6", "--evaluation.test_resize", "16"], settings_of).run()


def test_sets_of_other_images_are_not_measured(tmp_path):
    words = ["--methods", "random", "--datasets", "digits", "--ipcs", "1", "--out", str(tmp_path / "table"), "--bound"]
    for name, value in (("image_size", "16"), ("std", "[0.5]")):
        with pytest.raises(BaconError, match=f"as they are: leave out --data.{name}"):
            Table([*words, f"--data.{name}", value], settings_of).run()


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("--evaluation.test_resize=12", "--evaluation.test_resize was None, now 12"),
        ("--trainer.precision=bf16-mixed", "--trainer.precision was 32-true, now bf16-mixed"),
    ],
)
def test_what_changes_accuracies_is_not_added_to_a_run_that_is_there(tmp_path, added, said):
    words = ["--config=mnist/ipc1", "--config=methods/random"]

    def own(*more):
        told, _ = record(settings_of, {"fit": [*words, *more] if "trainer" in added else words,
                                       "eval": [*words, "--distilled=set", *more]})  # fmt: skip
        return told

    before, after = own(), own(added)
    write_record(tmp_path, before)
    check_record(tmp_path, before)
    with pytest.raises(BaconError, match=re.escape(said)):
        check_record(tmp_path, after)
    write_record(tmp_path, after)
    with pytest.raises(BaconError, match="holds a run with other settings"):
        check_record(tmp_path, before)


@pytest.mark.parametrize(("before", "after"), [("", "32"), ("bf16-mixed", "bf16"), ("bf16", "bf16-mixed")])
def test_two_names_of_a_precision_are_one(tmp_path, before, after):
    def own(name):
        words = ["--config=mnist/ipc1", "--config=methods/random", *([f"--trainer.precision={name}"] if name else [])]
        return record(settings_of, {"fit": words, "eval": [*words, "--distilled=set"]})[0]

    write_record(tmp_path, own(before))
    check_record(tmp_path, own(after))


def test_a_method_that_needs_more_images_is_left_out_where_there_are_fewer(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("bacon_pl.table.command.run_all", lambda jobs, *_: given.extend(jobs))
    words = ["--methods", "random,iid-dm", "--datasets", "digits", "--ipcs", "1", "--repeats", "1"]
    Table([*words, "--budget", "small", "--out", str(tmp_path / "table")], settings_of).run()
    assert [job.cell.method for job in given] == ["random"]
    assert "some terms of IID need 2, tiles counted" in (tmp_path / "table" / "table.md").read_text()
