"""What is written for other projects and read again, and what is never overwritten."""

import os
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bacon_pl.data.images import DatasetMeta, normalize
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.interop import is_ours, open_set, write_set
from tests.interop.making import CIFAR, META, pair, quick


@st.composite
def sets(draw, bytes_only=False):
    channels, ipc, classes = draw(st.sampled_from([1, 3])), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    size = (draw(st.sampled_from([2, 4])), draw(st.sampled_from([2, 4, 6])))
    names = draw(st.lists(st.text(max_size=6), min_size=classes, max_size=classes))
    meta = DatasetMeta("any", tuple(names), channels, size, (0.4,) * channels, (0.25,) * channels)
    shape = (classes * ipc, channels, *size)
    if bytes_only:
        values = torch.from_numpy(draw(arrays.arrays(np.uint8, shape)))
        images = normalize(values, meta.mean, meta.std, torch.float32)
    else:
        numbers = st.floats(-1e6, 0, width=32) | st.floats(0, 6, width=32)  # more looks like bytes
        images = torch.from_numpy(draw(arrays.arrays(np.float32, shape, elements=numbers)))
    labels = torch.arange(classes).repeat_interleave(ipc)
    return DistilledSet(images, labels, meta, factor=draw(st.sampled_from([1, 2])), method="bacon", seed=3)


@pytest.mark.filterwarnings("ignore:.*never normalized", "ignore:.*far beyond black")
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npz", ".safetensors"])
@quick
@given(sets())
def test_round_trips_are_exact(tmp_path_factory, suffix, distilled):
    folder = tmp_path_factory.mktemp("trip")
    canvases = (suffix != ".safetensors" and distilled.factor > 1) or None
    path = write_set(distilled, folder / f"new/set{suffix}", canvases=canvases)
    back = open_set(path, distilled.meta)
    assert torch.equal(back.images.view(torch.int32), distilled.images.view(torch.int32))
    assert torch.equal(back.labels, distilled.labels)
    assert (back.meta, back.factor) == (distilled.meta, distilled.factor)
    assert os.listdir(folder / "new") == [path.name]
    if suffix == ".safetensors":
        assert (back.method, back.seed) == ("bacon", 3)
    if suffix == ".pt":  # as the other projects load it
        images, labels = torch.load(path, weights_only=True)["data"][-1]
        assert torch.equal(images, distilled.images) and torch.equal(labels, distilled.labels)
    shutil.rmtree(folder)


@quick
@given(sets())
def test_round_trips_through_pictures_round_to_bytes(tmp_path_factory, distilled):
    folder = tmp_path_factory.mktemp("trip")
    back = open_set(
        write_set(distilled, folder / "png", canvases=distilled.factor > 1 or None),
        distilled.meta,
        factor=distilled.factor,
    )
    assert torch.equal(back.labels, distilled.labels)
    assert (back.meta, back.factor) == (distilled.meta, distilled.factor)
    assert (back.pixels() - distilled.pixels()).abs().max() <= 0.5 / 255 + 1e-5
    shutil.rmtree(folder)


@quick
@given(sets(bytes_only=True))
def test_whole_bytes_survive_pictures(tmp_path_factory, distilled):
    folder = tmp_path_factory.mktemp("trip")
    back = open_set(write_set(distilled, folder / "png", canvases=distilled.factor > 1 or None), distilled.meta)
    assert torch.equal(back.images, distilled.images)
    shutil.rmtree(folder)


def test_ours_needs_no_dataset_and_keeps_its_factor(tmp_path):
    distilled = DistilledSet(*pair(), META, factor=2)
    distilled.save(tmp_path)
    for source in (tmp_path, tmp_path / "distilled.safetensors"):
        assert is_ours(source)
        assert open_set(source).meta == META
        assert open_set(source, CIFAR, factor=2).factor == 2
        with pytest.raises(BaconError, match="has partition factor 2, not 1"):
            open_set(source, factor=1)
    with pytest.raises(BaconError, match="no distilled set at .*nowhere"):
        open_set(tmp_path / "nowhere.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaconError, match="no distilled set at .*empty"):
        open_set(tmp_path / "empty")


def test_nothing_is_overwritten_unasked(tmp_path):
    first, second = (DistilledSet(*pair(seed=seed), META) for seed in (0, 1))
    for name in ("a.pt", "a.npz", "a.safetensors", "png"):
        path = tmp_path / name
        path.mkdir() if name == "png" else None  # an empty folder is no loss
        write_set(first, path)
        with pytest.raises(BaconError, match="exists: choose another target or give --overwrite true"):
            write_set(second, path)
        assert torch.allclose(open_set(path, META).pixels(), first.pixels(), atol=0.01)
        write_set(second, path, overwrite=True)
        assert torch.allclose(open_set(path, META).pixels(), second.pixels(), atol=0.01)
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "a.pt", "a.safetensors", "png"]


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    distilled = DistilledSet(*pair(), META)
    folder = write_set(distilled, tmp_path / "png")
    for strange in ("notes.txt", "ant/notes.txt", "ant/x.png", "bee/deep/0000.png"):
        (folder / strange).parent.mkdir(exist_ok=True)
        (folder / strange).write_text("mine")
        with pytest.raises(BaconError, match="holds more than a set's pictures"):
            write_set(distilled, folder, overwrite=True)
        assert (folder / strange).read_text() == "mine"
        (folder / strange).unlink()
        if strange.count("/") == 2:
            (folder / strange).parent.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "cow").symlink_to(elsewhere)
    with pytest.raises(BaconError, match="holds more"):
        write_set(distilled, folder, overwrite=True)
    (tmp_path / "a.npz").mkdir()
    (tmp_path / "a.npz/x").touch()
    with pytest.raises(BaconError, match="is a folder"):
        write_set(distilled, tmp_path / "a.npz", overwrite=True)
    with pytest.raises(BaconError, match="suffix that is not known"):
        write_set(distilled, tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(BaconError, match="is a file"):
        write_set(distilled, tmp_path / "file", overwrite=True)
    with pytest.raises(BaconError, match="cannot write"):
        write_set(distilled, tmp_path / "file/a.pt")
