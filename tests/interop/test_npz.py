"""Sets as arrays of NumPy."""

import numpy as np
import pytest
import torch

from bacon_pl.data.images import normalize
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_set
from tests.interop.making import GRAY, META, pair


@pytest.mark.parametrize(
    "names", [("images", "labels"), ("x", "y"), ("X", "Y"), ("data", "target"), ("data", "targets")]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_its_names(tmp_path, names, save):
    images, labels = (t.numpy() for t in pair())
    save(tmp_path / "a.npz", **dict(zip(names, (images, labels), strict=True)), other=np.zeros(3))
    assert torch.equal(open_set(tmp_path / "a.npz", META).images, torch.from_numpy(images))


def test_bytes_are_pixels_wherever_their_channels_stand(tmp_path):
    values = torch.randint(0, 256, (4, 3, 4, 6), dtype=torch.uint8)
    expected = normalize(values, META.mean, META.std, torch.float32)
    for layout in (values, values.permute(0, 2, 3, 1)):
        np.savez(tmp_path / "a.npz", x=layout.numpy(), y=pair()[1].numpy())
        assert torch.equal(open_set(tmp_path / "a.npz", META).images, expected)
    gray = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)
    np.savez(tmp_path / "b.npz", x=gray.numpy(), y=np.arange(3, dtype=np.uint8))
    distilled = open_set(tmp_path / "b.npz", GRAY)
    assert torch.equal(distilled.images, normalize(gray[:, None], GRAY.mean, GRAY.std, torch.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pictures": np.zeros(3)}, "holds pictures, but images and labels are looked for"),
        ({}, "holds nothing"),
        ({"x": np.array([{}]), "y": np.zeros(1)}, "'x' .* holds object, not plain numbers"),
        ({"x": np.zeros(2, "c16"), "y": np.zeros(1)}, "not plain numbers"),
        ({"x": np.array(["a"]), "y": np.zeros(1)}, "not plain numbers"),
        ({"x": pair()[0].numpy(), "y": pair()[1].numpy(), "factor": np.array(1.5)}, "factor .* no whole number"),
    ],
)
def test_npz_without_a_set(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(BaconError, match=message):
        open_set(tmp_path / "a.npz", META)
