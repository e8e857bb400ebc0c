import json
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
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import pil_to_tensor

from bacon_pl.data.images import DatasetMeta, normalize
from bacon_pl.distilled_set import FILE_NAME, FORMAT_VERSION, DistilledSet, file, folder_names, git_commit, provenance
from bacon_pl.errors import BaconError
from bacon_pl.partition import expand, expand_labels
from tests.paths import ROOT

META = DatasetMeta(
    name="toy",
    class_names=("ant", "bee", "cat"),
    channels=3,
    size=(8, 12),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    train_bytes=100_000,
)
CONFIG = {"method": {"lambda": 0.8, "clip": None}, "b": [1, 2.5], "a": "ä"}


def make(meta: DatasetMeta = META, ipc: int = 2, factor: int = 2, **fields: Any) -> DistilledSet:
    shape = (meta.num_classes * ipc, meta.channels, *meta.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    labels = torch.arange(meta.num_classes).repeat_interleave(ipc)
    given_fields = {"method": "bacon", "config": CONFIG, "seed": 7, "version": "1.2.3", "commit": "abc"} | fields
    return DistilledSet(images, labels, meta, factor=factor, **given_fields)


def description_of(path: Path) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert list(metadata) == ["bacon_pl"]
    description: dict[str, Any] = json.loads(metadata["bacon_pl"])
    return description


def forge(
    path: Path,
    images: torch.Tensor | None = None,
    labels: torch.Tensor | None = None,
    without: tuple[str, ...] = (),
    **entries: Any,
) -> Path:
    """Write a file that differs from a good one where told."""
    good = make()
    good.save(path)
    description = description_of(path) | entries
    for key in without:
        del description[key]
    tensors = {
        "images": good.images if images is None else images,
        "labels": good.labels if labels is None else labels,
    }
    safetensors.torch.save_file(tensors, path, metadata={"bacon_pl": json.dumps(description)})
    return path


# ---- as a dataset


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_items_are_the_expanded_set(factor: int) -> None:
    distilled = make(factor=factor)
    images, labels = distilled.expanded()
    assert torch.equal(images, expand(distilled.images, factor))
    assert torch.equal(labels, expand_labels(distilled.labels, factor))
    assert len(distilled) == len(images) == 6 * factor**2
    assert distilled.ipc == 2
    batches = list(DataLoader(distilled, batch_size=5))
    assert torch.equal(torch.cat([x for x, _ in batches]), images)
    assert torch.equal(torch.cat([y for _, y in batches]), labels)
    assert isinstance(distilled[0][1], int)
    with pytest.raises(IndexError):
        distilled[len(distilled)]


def test_bytes_and_share(tmp_path: Path) -> None:
    distilled = make()
    assert distilled.pixel_bytes == 6 * 3 * 8 * 12
    assert distilled.storage_bytes == 4 * distilled.pixel_bytes
    assert distilled.share == distilled.pixel_bytes / 100_000
    assert make(replace(META, train_bytes=0)).share is None
    labels_and_header = distilled.save(tmp_path / "a.safetensors").stat().st_size - distilled.storage_bytes
    assert 0 < labels_and_header < 2_000


def test_it_keeps_a_copy_of_a_trained_parameter() -> None:
    parameter = torch.nn.Parameter(torch.zeros(3, 3, 8, 12, dtype=torch.float32))
    distilled = DistilledSet(parameter, torch.arange(3), META)
    with torch.no_grad():
        parameter.add_(1)
    assert not distilled.images.requires_grad
    assert torch.equal(distilled.images, torch.zeros(3, 3, 8, 12))


@pytest.mark.parametrize(
    ("images", "labels", "factor", "message"),
    [
        (torch.zeros(3, 3, 8, 8), torch.arange(3), 1, "shape"),
        (torch.zeros(3, 3, 8, 12), torch.arange(4), 1, "3 images but labels"),
        (torch.zeros(4, 3, 8, 12), torch.tensor([0, 0, 1, 2]), 1, "equally"),
        (torch.zeros(3, 3, 8, 12), torch.arange(3), 5, "factor 5"),
        (torch.full((3, 3, 8, 12), torch.nan), torch.arange(3), 1, "diverged"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    images: torch.Tensor, labels: torch.Tensor, factor: int, message: str
) -> None:
    with pytest.raises(BaconError, match=message):
        DistilledSet(images, labels, META, factor=factor)


# ---- as a file


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
    script = f"import sys; from tests.distilled_set.test_artifact import make; make(config={config}).save(sys.argv[1])"
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


@pytest.mark.parametrize("key", sorted(file._FIELDS))
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
        ({"images": torch.zeros(0, 3, 8, 12), "labels": torch.zeros(0, dtype=torch.int64)}, "0 images cannot"),
        ({"class_names": ["ant", "bee", "cat", "dog"]}, "6 images cannot be shared equally among 4"),
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 3])}, "labels run from 0 to 3 but there are 3"),
        ({"labels": torch.tensor([-1, 0, 1, 1, 2, 2])}, "labels run from -1 to 2"),
        ({"labels": torch.tensor([0, 1, 2, 0, 1, 2])}, "not in class order"),
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


# ---- as pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_exported_images_read_back_in_order(tmp_path: Path, channels: int) -> None:
    meta = replace(META, channels=channels, mean=META.mean[:channels], std=META.std[:channels], class_names=("c", "a"))
    generator = torch.Generator().manual_seed(1)
    bytes_ = torch.randint(0, 256, (6, channels, *meta.size), generator=generator, dtype=torch.uint8)
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    distilled = DistilledSet(normalize(bytes_, meta.mean, meta.std, torch.float32), labels, meta, factor=2)
    read = ImageFolder(distilled.export_png(tmp_path / "png"))
    # "c" comes before "a" in label order: the folders are numbered so that ImageFolder agrees.
    assert read.classes == ["0_c", "1_a"]
    for index, (image, label) in enumerate(read):
        assert label == labels[index]
        assert torch.equal(pil_to_tensor(image), bytes_[index].expand(3, -1, -1))
    assert len(ImageFolder(distilled.export_png(tmp_path / "expanded", expanded=True))) == len(distilled)


def test_export_clamps_what_no_pixel_can_hold(tmp_path: Path) -> None:
    images = torch.stack([torch.full((3, 8, 12), value) for value in (-99.0, 0.0, 99.0)])
    read = ImageFolder(DistilledSet(images, torch.arange(3), META).export_png(tmp_path))
    values = [pil_to_tensor(image).unique().tolist() for image, _ in read]
    assert values[0] == [0]
    assert values[2] == [255]
    assert values[1] == sorted({round(255 * m) for m in META.mean})


def test_export_refuses_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "old.png").touch()
    with pytest.raises(BaconError, match="not empty"):
        make().export_png(tmp_path)
    with pytest.raises(BaconError, match="cannot write images"):
        make().export_png(tmp_path / "old.png")
    assert os.listdir(tmp_path) == ["old.png"]


HOSTILE = (
    "",
    ".",
    "..",
    "../../etc",
    "/root",
    "a/b",
    "a\\b",
    "C:x",
    "nul\0l",
    "con",
    "COM1.png",
    " .hidden ",
    "\uff0e\uff0e\uff0fx",
    "line\nbreak",
    "\ud800",
    "x" * 500,
    "字" * 200,
    "same",
    "same",
    "SAME",
)


def test_hostile_class_names_stay_in_the_folder(tmp_path: Path) -> None:
    meta = replace(META, class_names=HOSTILE)
    distilled = DistilledSet.load(make(meta, ipc=1).save(tmp_path / "in"))
    assert distilled.meta.class_names == HOSTILE
    target = distilled.export_png(tmp_path / "out" / "png")
    assert sorted(os.listdir(tmp_path)) == ["in", "out"]
    assert os.listdir(tmp_path / "out") == ["png"]
    assert all(entry.is_dir() and os.listdir(entry) == ["0000.png"] for entry in target.iterdir())
    assert [label for _, label in ImageFolder(target).samples] == list(range(len(HOSTILE)))


@given(st.lists(st.text(max_size=12) | st.sampled_from(HOSTILE), min_size=1, max_size=12))
def test_folder_names_are_single_safe_components_in_order(class_names: list[str]) -> None:
    names = folder_names(tuple(class_names))
    assert len(names) == len(class_names)
    assert names == sorted(names)
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert name.isprintable()
        assert not set(name) & set('/\\:*?"<>|')
        assert name.strip(". ") == name != ""
        assert len(os.fsencode(name)) < 200
        assert name.split(".")[0].lower() not in {"con", "prn", "aux", "nul", "com1", "lpt1"}


def test_ordinary_class_names_are_kept() -> None:
    assert folder_names(("airplane", "automobile", "bird")) == ["airplane", "automobile", "bird"]
    assert folder_names(("T-shirt/top", "Trouser")) == ["T-shirt_top", "Trouser"]
    assert folder_names(tuple("kjihgfedcba"))[:2] == ["00_k", "01_j"]


@pytest.mark.parametrize("channels", [1, 3])
def test_grid_tensor_has_one_row_per_class(channels: int) -> None:
    meta = replace(META, channels=channels, mean=META.mean[:channels], std=META.std[:channels])
    distilled = make(meta)
    picture = distilled.grid_tensor()
    pixels = distilled.pixels()
    assert picture.shape == (3, 3 * (8 + 2) + 2, 2 * (12 + 2) + 2)
    assert picture.min() >= 0
    assert picture.max() <= 1
    for c in range(3):
        for n in range(2):
            top, left = 2 + 10 * c, 2 + 14 * n
            assert torch.equal(picture[:, top : top + 8, left : left + 12], pixels[c, n].expand(3, -1, -1))
    assert torch.equal(distilled.grid_tensor(max_classes=1)[:, :10], picture[:, :10])
    assert distilled.grid_tensor(max_classes=1).shape[1] == 12
    assert distilled.grid_tensor(expanded=True).shape[2] == 8 * 14 + 2


def test_saved_grid_shows_enlarged_pixels_beside_names(tmp_path: Path) -> None:
    names = ("$\\frac", "line\nbreak\ud800", "z" * 300)
    black_and_white = torch.where(make(replace(META, class_names=names)).images > 0, 99.0, -99.0)
    distilled = DistilledSet(black_and_white, torch.tensor([0, 0, 1, 1, 2, 2]), replace(META, class_names=names))
    figure = distilled.grid(scale=4)
    assert figure.get_size_inches().tolist() == [4 * 30 / 100, 4 * 32 / 100]
    assert [text.get_text() for text in figure.axes[0].texts] == ["$\\frac", "line?break?", "z" * 31 + "…"]
    path = distilled.save_grid(tmp_path / "pictures" / "grid.png", scale=4)
    with Image.open(path) as image:
        picture = pil_to_tensor(image.convert("RGB"))
    # Wider than the images by the names; the images themselves are purely black and white, 4×4 per pixel.
    assert picture.shape[2] > 4 * 30 + 50
    right = picture[:, picture.shape[1] // 2 - 4 : picture.shape[1] // 2 + 4, -100:]
    assert set(right.unique().tolist()) == {0, 255}


def test_many_classes_make_one_picture(tmp_path: Path) -> None:
    meta = replace(META, class_names=tuple(f"class {i}" for i in range(200)), size=(64, 64))
    figure = make(meta, ipc=1).grid()
    assert len(figure.axes[0].texts) == 200
    width, height = figure.get_size_inches() * figure.dpi
    assert (width, height) == pytest.approx((64 + 4, 200 * 66 + 2))
    meta = replace(meta, class_names=meta.class_names * 5)
    assert make(meta, ipc=1).grid().get_size_inches()[1] * 100 == pytest.approx(30_000)


def test_picture_in_an_unknown_format(tmp_path: Path) -> None:
    with pytest.raises(BaconError, match=r"cannot write the picture .*grid.xyz"):
        make().save_grid(tmp_path / "grid.xyz")


# ---- provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_git_commit_of_package_or_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a git hook runs the tests
        monkeypatch.delenv(variable, raising=False)
    checkout, elsewhere, bare = tmp_path / "checkout", tmp_path / "elsewhere", tmp_path / "bare"
    for folder in (checkout, elsewhere):
        git(tmp_path, "init", "-q", str(folder))
        git(folder, "commit", "-q", "--allow-empty", "-m", folder.name)
    bare.mkdir()
    for package in (checkout / "bacon_pl", elsewhere / "site-packages" / "bacon_pl", bare / "bacon_pl"):
        package.mkdir(parents=True)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    def commit_seen(package: Path, working_directory: Path) -> str | None:
        monkeypatch.setattr(provenance, "__file__", str(package / "distilled_set" / "provenance.py"))
        monkeypatch.chdir(working_directory)
        return git_commit()

    head = git(elsewhere, "rev-parse", "HEAD")
    assert commit_seen(checkout / "bacon_pl", elsewhere) == git(checkout, "rev-parse", "HEAD") != head
    assert commit_seen(bare / "bacon_pl", elsewhere) == head
    # Installed inside somebody's repository: that repository's commit says nothing about the package.
    assert commit_seen(elsewhere / "site-packages" / "bacon_pl", bare) is None
    monkeypatch.setenv("PATH", "")
    assert commit_seen(checkout / "bacon_pl", elsewhere) is None
