"""What the numbers of a foreign file are: as said, as guessed with a warning, or refused."""

from dataclasses import replace

import pytest
import torch

from bacon_pl.data.images import DatasetMeta
from bacon_pl.data.whitening import fitted
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_set, write_set
from bacon_pl.interop.write import written
from tests.interop.making import META
from tests.interop.test_layouts import LABELS, N, randn, save


def test_imagenet(tmp_path):
    images = randn(N, 3, 4, 6)
    torch.save((images, LABELS), tmp_path / "a.pt")
    read = open_set(tmp_path / "a.pt", META, pixels="imagenet")
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    unit = images * std + mean
    mine, other = (torch.tensor(v).view(-1, 1, 1) for v in (META.mean, META.std))
    torch.testing.assert_close(read.images, (unit - mine) / other)
    of_imagenet = replace(META, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    assert torch.equal(open_set(tmp_path / "a.pt", of_imagenet, pixels="imagenet").images, images)
    gray = DatasetMeta("gray", ("a", "b"), 1, (4, 6), (0.5,), (0.2,))
    with pytest.raises(BaconError, match="--pixels imagenet is for images in color"):
        open_set(tmp_path / "a.pt", gray, pixels="imagenet")


@pytest.fixture
def whitened(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train = torch.randint(0, 256, (40, 3, 4, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return replace(META, whitening=fitted(train))


def test_whitened_sets_there_and_back(whitened, tmp_path):
    unit = torch.rand((N, 3, 4, 6), generator=torch.Generator().manual_seed(2))
    images = whitened.whitening.whiten(unit)
    theirs = save(tmp_path / "theirs", images_7=images, labels_7=LABELS, images_zca_7=unit)
    with pytest.raises(BaconError, match="whitened by ZCA: give --pixels zca"):
        open_set(theirs, META)
    with pytest.raises(BaconError, match="--pixels zca needs the whitening of toy"):
        open_set(theirs, META, pixels="zca")
    read = open_set(theirs, whitened, pixels="zca")
    with pytest.warns(UserWarning, match=r"images_7.pt' does not say .* taken as toy whitened by ZCA \(--pixels zca\)"):
        assert open_set(theirs, whitened) == read
    assert torch.equal(read.images, images) and read.meta.whitening == whitened.whitening
    torch.testing.assert_close(read.pixels().flatten(0, 1), unit, rtol=0, atol=1e-5)
    back = write_set(read, tmp_path / "back", layout="mtt")
    assert torch.equal(torch.load(back / "images_best.pt", weights_only=True), images)
    assert "pixels float32, ZCA-whitened" in written(read, back, layout="mtt")
    # The images with the whitening undone are pixels, and are whitened again where data are.
    with pytest.warns(UserWarning, match="taken as toy in pixels of 0 to 1"):
        undone = open_set(theirs / "images_zca_7.pt", META)
    torch.testing.assert_close(undone.pixels().flatten(0, 1), unit)
    again = open_set(theirs / "images_zca_7.pt", whitened, pixels="unit")
    torch.testing.assert_close(again.images, images, rtol=0, atol=1e-4)
    # Our own files record the space.
    for name in ("a.pt", "a.npz"):
        assert open_set(write_set(read, tmp_path / name), META).meta == whitened
        other = replace(whitened, whitening=replace(whitened.whitening, fingerprint="other"))
        with pytest.raises(BaconError, match="which is another space"):
            open_set(tmp_path / name, other)
    pixels = torch.load(write_set(read, tmp_path / "idc.pt", layout="idc"), weights_only=True)[0]
    torch.testing.assert_close(pixels, unit, rtol=0, atol=1e-5)


def test_canvases_are_not_whitened(whitened, tmp_path):
    torch.save([torch.rand(N, 3, 4, 6), LABELS], tmp_path / "a.pt")
    with pytest.raises(BaconError, match="canvases of tiles, which cannot be whitened"):
        open_set(tmp_path / "a.pt", whitened, pixels="unit", factor=2)
    canvases = DistilledSet(randn(N, 3, 4, 6), LABELS, whitened, factor=2)
    with pytest.raises(BaconError, match="its canvases of tiles are whitened"):
        write_set(canvases, tmp_path / "b.pt", layout="idc")
    write_set(canvases, tmp_path / "b.pt", layout="idc", canvases=False)


def test_guesses_are_named(tmp_path):
    torch.save((randn(N, 3, 4, 6), LABELS), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=r"does not say what its numbers are.* toy normalized by .*\(--pixels normal"):
        open_set(tmp_path / "a.pt", META)
    with pytest.raises(BaconError, match="unknown --pixels 'bytes'"):
        open_set(tmp_path / "a.pt", META, pixels="bytes")
    ours = DistilledSet(randn(N, 3, 4, 6), LABELS, META).save(tmp_path / "ours.safetensors")
    with pytest.raises(BaconError, match="says what it holds: leave --pixels out"):
        open_set(ours, pixels="normalized")
