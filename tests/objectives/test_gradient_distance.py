"""Distances of gradients against golden numbers in float64, with the gradients themselves in both ways to get them."""

import pytest
import torch

from bacon_pl.distillers.weight_gradients import WeightGradients
from bacon_pl.errors import BaconError
from bacon_pl.networks import PLAIN, ConvNet
from bacon_pl.objectives import AbsoluteError, Cosine, LayerwiseCosine, SquaredError
from bacon_pl.partition import expand

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
DISTANCES = {
    "dc_loss": {"ours": LayerwiseCosine(), "mse": SquaredError("all"), "cos": Cosine()},
    "idc_loss": {
        "mse": SquaredError("convolutions"),
        "l1": AbsoluteError("convolutions"),
        "l1_mean": AbsoluteError("convolutions", row_means=True),
        "mse_fc": SquaredError(),
    },
}
ROWS = torch.arange(3)
both_ways = pytest.mark.parametrize("side_by_side", [False, True], ids=["apart", "side by side"])


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-13)


def weights(data):
    return {k[5:].replace("__", "."): v for k, v in data.items() if k.startswith("net__")}


def gradients(data, names, side_by_side):
    template = ConvNet(3, (16, 16), 3, width=8).double()
    return WeightGradients(template, names, PLAIN, side_by_side)


def images(name, data):
    """Normalized real images, the leaf by which the golden differentiates, and normalized images made of it."""
    if name == "dc_loss":
        leaf = data["syn"].clone().requires_grad_()
        return data["real"], leaf, leaf
    mean, std = (torch.tensor(v, dtype=torch.float64).view(-1, 1, 1) for v in (MEAN, STD))
    leaf = data["canvases"].clone().requires_grad_()
    return (data["real"] - mean) / std, leaf, (expand(leaf, 2) - mean) / std


@both_ways
@pytest.mark.parametrize(("name", "metric"), [(name, metric) for name in DISTANCES for metric in DISTANCES[name]])
def test_distances_and_their_gradients(golden, name, metric, side_by_side):
    data, distance = golden(name), DISTANCES[name][metric]
    state = weights(data)
    found = gradients(data, distance.counted(state.items()), side_by_side)
    real, leaf, syn = images(name, data)
    g = found.real(state, real, ROWS, None, chunk=3)
    h = found.synthetic(state, syn, ROWS)
    assert not any(t.requires_grad for t in g.values())
    for weight in g:
        for side, own in (("real", g), ("syn", h)):
            key = f"class0_grad_{side}__{weight.replace('.', '__')}"
            if key in data:  # a bias before instance norm has no gradient but rounding
                torch.testing.assert_close(own[weight][0].detach(), data[key], rtol=1e-10, atol=1e-14)
    losses = distance(g, h)
    close(losses.detach(), data[f"{metric}_loss"])
    key = next((k for k in (f"{metric}_grad_syn", f"{metric}_grad_canvases") if k in data), None)
    if key is not None:
        (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        close(gradient, data[key])
    else:
        assert metric == "mse_fc"


@pytest.mark.parametrize(
    ("name", "metric", "key"),
    [("dc_loss", "ours", "ours"), ("idc_loss", "mse", "mse"), ("idc_loss", "l1", "l1")],
)
def test_distances_by_weight_tensor(golden, name, metric, key):
    data, distance = golden(name), DISTANCES[name][metric]
    counted = distance.counted(weights(data).items())
    wanted = dict(zip(data["matched_names"] if name == "idc_loss" else data["parameter_names"],
                      data[f"class0_{key}_by_parameter"].tolist(), strict=True))  # fmt: skip
    assert set(counted) == {weight for weight, value in wanted.items() if value}
    for weight in counted:
        g, h = ([data[f"class0_grad_{side}__{weight.replace('.', '__')}"][None]] for side in ("real", "syn"))
        assert distance.between(g, h).item() == pytest.approx(wanted[weight], rel=1e-11)


@both_ways
def test_masked_images_do_not_count_and_the_order_of_images_and_classes_does_not_matter(golden, side_by_side):
    data = golden("dc_loss")
    state, real = weights(data), data["real"]
    found = gradients(data, list(state), side_by_side)
    mask = torch.tensor([[True] * 5 + [False] * 3, [True] * 8, [True] * 2 + [False] * 6])
    masked = found.real(state, real, ROWS, mask, chunk=4)
    for c, n in enumerate(mask.sum(1).tolist()):
        alone = found.real(state, real[c : c + 1, :n].flip(1), ROWS[c : c + 1], None, chunk=100)
        for name, gradient in alone.items():
            torch.testing.assert_close(masked[name][c], gradient[0], rtol=1e-10, atol=1e-15)
    other = found.real(state, real.flip(0), ROWS.flip(0), mask.flip(0), chunk=8)
    for name, gradient in other.items():
        torch.testing.assert_close(masked[name], gradient.flip(0), rtol=1e-10, atol=1e-15)


def test_what_cannot_be_compared_is_one_sentence():
    with pytest.raises(BaconError, match="biases have none: set --model.distance.tensors"):
        LayerwiseCosine("all")
    with pytest.raises(BaconError, match="biases have none"):
        AbsoluteError("all", row_means=True)
    with pytest.raises(BaconError, match="unknown tensors of Cosine 'bias'"):
        Cosine("bias")
    with pytest.raises(BaconError, match="network has none: set --model.distance.tensors weights"):
        SquaredError("convolutions").counted(torch.nn.Linear(2, 2).named_parameters())
