"""The ConvNet against the golden numbers."""

import pytest
import torch

from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet


@pytest.mark.parametrize(("name", "channels", "side"), [("gray28", 1, 28), ("rgb32", 3, 32)])
def test_convnet_matches_golden(golden, name, channels, side):
    data = golden(f"convnet_{name}")
    network = ConvNet(channels, (side, side), 10, width=16).double()
    inputs = ("x", "embedding", "logits")
    network.load_state_dict({key.replace("__", "."): value for key, value in data.items() if key not in inputs})
    z, logits = network(data["x"])
    torch.testing.assert_close(z, data["embedding"], atol=1e-9, rtol=0)
    torch.testing.assert_close(logits, data["logits"], atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    ("channels", "side", "features"),
    [(1, 28, 2048), (3, 32, 2048), (3, 64, 8192), (1, 8, 128)],
)
def test_embedding_sizes(channels, side, features):
    z, logits = ConvNet(channels, (side, side), 7)(torch.zeros(2, channels, side, side))
    assert z.shape == (2, features)
    assert logits.shape == (2, 7)


def test_too_small_an_image_is_refused_with_the_depth_that_fits():
    with pytest.raises(BaconError, match="depth of at most 2"):
        ConvNet(3, (4, 4), 10, depth=3)
    ConvNet(3, (4, 4), 10, depth=2)
