"""A table of a folder of images: which images its runs are of, and by which settings they are read."""

import json

import pytest
import torch
from PIL import Image

from bacon_pl.cli import main
from bacon_pl.commands.settings import settings_of
from bacon_pl.errors import BaconError
from bacon_pl.table import Table
from bacon_pl.table.plan import check_record, write_record
from bacon_pl.table.sources import loading, locate, training_images


def write_images(root, color=0, sides=(8, 12)):
    """Two classes, each with an image of either side in train/ and in test/."""
    for split in ("train", "test"):
        for label in range(2):
            (root / split / f"class{label}").mkdir(parents=True)
            for side in sides:
                Image.new("RGB", (side, side), (color, 90 * label, side)).save(
                    root / split / f"class{label}/{side}.png"
                )
    return root


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    """The jobs of the tables of a test, of which each leaves its record, as if it had been run."""
    found = []

    def begun(jobs, *_):
        for job in jobs:
            write_record(job.folder, job.record)
            found.append(job)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("bacon_pl.table.command.run_all", begun)
    return found


def table(*given):
    main(
        ["table", "--methods", "random", "--ipcs", "10", "--repeats", "1", "--budget", "small", "--out", "out", *given]
    )


def test_another_folder_of_images_has_not_the_runs_of_the_first(tmp_path, jobs, capsys):
    write_images(tmp_path / "a")
    write_images(tmp_path / "b", color=200)
    table("--datasets", "folder=a")
    with pytest.raises(SystemExit):
        table("--datasets", "folder=b")
    assert "--data.root was images " in (said := capsys.readouterr().err) and ", now images " in said
    (tmp_path / "a").rename(tmp_path / "moved")
    table("--datasets", "folder=moved")
    # Earlier versions recorded nothing of the images.
    record = json.loads((jobs[0].folder / "cell.json").read_text())
    del record["data"]["root"]
    (jobs[0].folder / "cell.json").write_text(json.dumps(record))
    check_record(jobs[0].folder, jobs[0].record)


def test_images_are_told_by_those_they_are_tested_on_too(tmp_path):
    first = locate("folder", write_images(tmp_path / "a"), options={"image_size": 8}).images
    test = tmp_path / "a/test/class0/8.png"
    test.write_bytes((tmp_path / "a/test/class1/8.png").read_bytes())
    assert first and locate("folder", tmp_path / "a", options={"image_size": 8}).images not in ("", first)
    assert locate("digits", tmp_path).images == ""  # fixed by its name


@pytest.mark.parametrize("words", ["folder=a,folder=b", "digits,Digits"])
def test_a_dataset_is_given_once(words):
    with pytest.raises(BaconError, match="--datasets gives (folder|digits) twice, the second time as "):
        Table(["--datasets", words], settings_of).run()


def test_images_are_read_as_the_settings_say(tmp_path, jobs, capsys):
    write_images(tmp_path / "a")
    (tmp_path / "a/train/class0/broken.png").write_bytes(b"no picture")
    table("--datasets", "folder=a", "--data.on_bad_image", "skip")
    assert "broken" not in capsys.readouterr().out and jobs[0].record["data"]["image_size"] == 32
    with pytest.raises(SystemExit) as stop:
        table("--datasets", "folder=a", "--out", "other")
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "no cell of the table could be run, the first, random on folder, ipc 10" in said.err and "broken" in said.err
    assert "## Not run" in said.out and (tmp_path / "other/table.md").is_file()


def test_training_images_are_read_by_the_same_settings(tmp_path):
    write_images(tmp_path / "a")
    options = loading({"image_size": 10, "mean": [0.5, 0.5, 0.5], "batch_real": 3, "split_seed": 1})
    assert options == {"image_size": 10, "mean": [0.5, 0.5, 0.5], "seed": 1}
    train, meta = training_images("folder", tmp_path / "a", options)
    assert train.images.shape[1:] == torch.Size([3, 10, 10]) and meta.mean == (0.5, 0.5, 0.5)
    with pytest.raises(BaconError, match="image_size"):
        training_images("folder", tmp_path / "a")


def test_image_files_of_a_dataset_may_be_of_another_size(tmp_path):
    for split in ("train", "test"):
        for label in range(10):
            (tmp_path / split / str(label)).mkdir(parents=True)
            Image.new("L", (28, 28), label).save(tmp_path / split / str(label) / "0.png")
    source = locate("mnist", tmp_path, options={"image_size": 14, "std": [0.5]})
    assert source.images and source.arguments[4:] == ("--data.mean", "[0.1307]", "--data.std", "[0.5]")
