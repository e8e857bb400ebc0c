"""A distilled set as a file: exact, readable by others, and refused where it is damaged."""

import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bacon_pl.distilled_set import FILE_NAME, FORMAT_VERSION, DistilledSet, file
from bacon_pl.errors import BaconError
from tests.distilled_set.making import CONFIG, META, description_of, forge, make
from tests.paths import ROOT


def test_the_checksum_is_the_files(tmp_path: Path) -> None:
    distilled = make()
    path = distilled.save(tmp_path / "a.safetensors")
    assert distilled.checksum == f"{description_of(path)['checksum']:08x}"
    assert DistilledSet.load(path).checksum == distilled.checksum == make().checksum
    whole = replace(META, mean=(0, 1, 0), std=(1, 1, 1))  # whole numbers come back as floats
    assert DistilledSet.load(make(whole).save(tmp_path / "b")).checksum == make(whole).checksum
    pixel = distilled.images.clone()
    pixel[0, 0, 0, 0] += 1e-3
    fields = {"method": "bacon", "config": CONFIG, "seed": 7, "version": "1.2.3", "commit": "abc"}
    others = [
        DistilledSet(pixel, distilled.labels, META, factor=2, **fields),
        *(make(**change) for change in ({"seed": 8}, {"factor": 1}, {"config": {}}, {"commit": None}, {"ipc": 1})),
        make(replace(META, class_names=("ant", "bee", "dog"))),
    ]
    assert len({s.checksum for s in (distilled, *others)}) == 1 + len(others)


def test_round_trip_is_exact(tmp_path: Path) -> None:
    saved = make()
    loaded = DistilledSet.load(saved.save(tmp_path / "new" / "set.safetensors"))
    assert torch.equal(loaded.images.view(torch.int32), saved.images.view(torch.int32))
    assert torch.equal(loaded.labels, saved.labels)
    for field in ("meta", "factor", "method", "config", "seed", "version", "commit"):
        assert getattr(loaded, field) == getattr(saved, field), field
    assert loaded.config == CONFIG
    assert DistilledSet.load(make(commit=None).save(tmp_path / "b")).commit is None


def test_a_folder_stands_for_the_file_in_it(tmp_path: Path) -> None:
    assert make().save(tmp_path) == tmp_path / FILE_NAME
    assert DistilledSet.load(str(tmp_path)).meta == META


def test_the_description_is_readable_without_this_package(tmp_path: Path) -> None:
    description = description_of(make().save(tmp_path / "a"))
    assert isinstance(description.pop("checksum"), int)
    assert description == {
        "channels": 3,
        "class_names": ["ant", "bee", "cat"],
        "config": CONFIG,
        "dataset": "toy",
        "factor": 2,
        "format_version": 1,
        "git_commit": "abc",
        "mean": [0.4914, 0.4822, 0.4465],
        "method": "bacon",
        "package_version": "1.2.3",
        "seed": 7,
        "size": [8, 12],
        "std": [0.2023, 0.1994, 0.2010],
        "train_bytes": 100_000,
    }


def test_config_values_unknown_to_json_become_strings(tmp_path: Path) -> None:
    distilled = make(config={"root": Path("somewhere"), 3: (1, 2)})
    assert distilled.config == {"root": "somewhere", "3": [1, 2]}
    assert DistilledSet.load(distilled.save(tmp_path)).config == distilled.config


def test_equal_sets_are_equal_bytes_in_another_process(tmp_path: Path) -> None:
    here = make(config={"b": 1, "a": {"d": 2, "c": 3}}).save(tmp_path / "here.safetensors")
    config = "{'a': {'c': 3, 'd': 2}, 'b': 1}"
    script = f"import sys; from tests.distilled_set.making import make; make(config={config}).save(sys.argv[1])"
    there = tmp_path / "there.safetensors"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "3"}
    subprocess.run([sys.executable, "-c", script, str(there)], check=True, env=environment)
    assert here.read_bytes() == there.read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make().save(tmp_path / "a.safetensors")
    before = path.read_bytes()

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file.os, "fsync", full_disk)
    with pytest.raises(BaconError, match=r"cannot write .*No space left"):
        make(seed=8).save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="file modes are POSIX")
def test_others_may_read_the_file_as_the_umask_says(tmp_path: Path) -> None:
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert stat.S_IMODE(make().save(tmp_path / "a").stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(BaconError, match=r"no distilled set at .*nowhere"):
        DistilledSet.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(BaconError, match=r"no distilled set at .*distilled\.safetensors"):
        DistilledSet.load(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 200, -1])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = make().save(tmp_path / "a.safetensors")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(BaconError, match="cannot be read as a safetensors file"):
        DistilledSet.load(path)


def test_files_of_another_kind(tmp_path: Path) -> None:
    pickled = tmp_path / "a.pt"
    torch.save({"images": torch.zeros(1)}, pickled)
    with pytest.raises(BaconError, match="cannot be read as a safetensors file"):
        DistilledSet.load(pickled)
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({"images": torch.zeros(1), "labels": torch.zeros(1)}, weights)
    with pytest.raises(BaconError, match="lacks the description"):
        DistilledSet.load(weights)
    safetensors.torch.save_file({"images": torch.zeros(1)}, weights, metadata={"bacon_pl": "{}"})
    with pytest.raises(BaconError, match="lacks the images or labels"):
        DistilledSet.load(weights)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 200_000, "1" * 5_000], ids=len)
def test_descriptions_that_are_not_objects(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"images": torch.zeros(1), "labels": torch.zeros(1)}, path, metadata={"bacon_pl": text})
    with pytest.raises(BaconError, match="not a JSON object"):
        DistilledSet.load(path)


def test_newer_format(tmp_path: Path) -> None:
    with pytest.raises(BaconError, match=f"format version {FORMAT_VERSION + 1} .*newer version"):
        DistilledSet.load(forge(tmp_path / "a", format_version=FORMAT_VERSION + 1, channels="changed meanwhile"))


@pytest.mark.parametrize("version", [0, "1", True, None])
def test_format_versions_that_never_were(tmp_path: Path, version: object) -> None:
    with pytest.raises(BaconError, match="format version is missing"):
        DistilledSet.load(forge(tmp_path / "a", format_version=version))


@pytest.mark.parametrize("key", sorted(file._FIELDS.keys() - {"step_size"}))  # which is left out where none was learned
def test_descriptions_that_lack_a_field(tmp_path: Path, key: str) -> None:
    with pytest.raises(BaconError, match=f"'{key}' in its description"):
        DistilledSet.load(forge(tmp_path / "a", without=(key,)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels", 2),
        ("channels", True),
        ("class_names", []),
        ("class_names", ["a", 1]),
        ("class_names", "abc"),
        ("config", []),
        ("factor", 0),
        ("factor", 2.0),
        ("git_commit", 5),
        ("mean", [0.1, float("nan"), 0.1]),
        ("mean", [10**400, 0, 0]),
        ("seed", "7"),
        ("size", [8]),
        ("size", [8, -12]),
        ("std", [0.0, 1.0, 1.0]),
        ("std", [float("inf"), 1.0, 1.0]),
        ("train_bytes", -1),
    ],
)
def test_descriptions_with_senseless_values(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(BaconError, match=f"'{key}' in its description"):
        DistilledSet.load(forge(tmp_path / "a", **{key: value}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": torch.zeros(6, 3, 8, 8)}, "have shape"),
        ({"images": torch.zeros(())}, "have shape"),
        ({"size": [12, 8]}, "have shape"),
        ({"images": torch.zeros(5, 3, 8, 12)}, "5 images but labels"),
        ({"labels": torch.zeros(6, 1, dtype=torch.int64)}, "6 images but labels"),
        ({"images": torch.zeros(0, 3, 8, 12), "labels": torch.zeros(0, dtype=torch.int64)}, "0 images are too few"),
        ({"class_names": ["ant", "bee", "cat", "dog"]}, "class 3 .'dog'. has no image"),
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 3])}, "labels run from 0 to 3 but there are 3"),
        ({"labels": torch.tensor([-1, 0, 1, 1, 2, 2])}, "labels run from -1 to 2"),
        ({"labels": torch.tensor([0, 1, 2, 0, 1, 2])}, "checksum"),
        ({"soft_labels": torch.zeros(6, 3).half()}, "whether the soft labels are"),
        ({"soft_labels": torch.zeros(6, 3), "label_kind": "logits"}, "soft labels are F32, not F16"),
        ({"soft_labels": torch.zeros(6, 2).half(), "label_kind": "logits"}, "soft labels have shape"),
        ({"soft_labels": torch.zeros(6, 3).half(), "label_kind": "probabilities"}, "do not sum to 1"),
        ({"soft_labels": torch.full((6, 3), torch.nan).half(), "label_kind": "logits"}, "not finite"),
        ({"label_kind": "logits"}, "without soft labels"),
        ({"label_kind": "both"}, "'label_kind' in its description"),
        ({"label_kind": []}, "'label_kind' in its description"),
        ({"whitening": {"kind": "pca", "epsilon": 0.1, "fingerprint": "x"}}, "'whitening' in its description"),
        ({"whitening": {"kind": "zca", "epsilon": 10**400, "fingerprint": "x"}}, "'whitening' in its description"),
        ({"whitening": {"kind": "zca", "epsilon": 0.1}}, "'whitening' in its description"),
        ({"whitening": {"kind": "zca", "epsilon": 0.1, "fingerprint": "x", "more": 1}}, "'whitening' in its"),
        ({"whitening": "zca"}, "'whitening' in its description"),
        ({"whitening": {"kind": "zca", "epsilon": 0.1, "fingerprint": "/../../x"}}, "'whitening' in its description"),
        ({"whitening": {"kind": "zca", "epsilon": 0.1, "fingerprint": "\x1b[2J"}}, "'whitening' in its description"),
        ({"images": torch.full((6, 3, 8, 12), torch.inf)}, "not finite"),
        ({"images": torch.full((6, 3, 8, 12), torch.nan)}, "not finite"),
        ({"images": torch.zeros(6, 3, 8, 12, dtype=torch.float64)}, "F64"),
        ({"labels": torch.zeros(6, dtype=torch.int32)}, "I32"),
        ({"factor": 5}, "factor 5"),
        ({"mean": [0.5]}, "1 means"),
        ({"std": [0.5, 0.5]}, "2 deviations"),
    ],
)
def test_files_whose_parts_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BaconError, match=f"a.safetensors' is damaged: .*{message}.*again.$"):
        DistilledSet.load(forge(tmp_path / "a.safetensors", **changes))
