"""DataDAM, M3D, IID and NCFM against golden numbers in float64."""

import pytest
import torch

from bacon_pl.networks import ConvNet
from bacon_pl.objectives import IID, M3D, NCFM, DataDAM, Sampler
from bacon_pl.objectives.datadam import attention
from bacon_pl.objectives.ncfm import SHARE, SamplingNetwork

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def close(found, wanted):
    torch.testing.assert_close(found, wanted.double(), **EXACT)


def network(data, prefix, norm="instance"):
    """The golden network: width 6, 16×16 pixels."""
    made = ConvNet(3, (16, 16), 3, width=6, norm=norm).double()
    state = {
        k[len(prefix) + 2 :].replace("__", "."): v.double() for k, v in data.items() if k.startswith(f"{prefix}__")
    }
    made.load_state_dict(state, strict=False)
    return made


def read(objective, net, images):
    """What an objective keeps of (C, n, ch, H, W) images in one pass."""
    kept, _ = objective.read(net, images.flatten(0, 1))
    return {name: value.unflatten(0, images.shape[:2]) for name, value in kept.items()}


# DataDAM.


def datadam_readings(data, side, power):
    maps = {f"attention_{i + 1}": data[f"feat_{side}_{i}"].double() for i in (0, 1)}
    kept = {k: attention(v.flatten(0, 1), power).unflatten(0, v.shape[:2]) for k, v in maps.items()}
    return {"z": data[f"z_{side}"].double(), **kept}


@pytest.mark.parametrize("power", [1, 4])
def test_datadam(golden, power):
    data = golden("datadam_loss")
    leaves = {k: data[k].double().requires_grad_() for k in ("feat_syn_0", "feat_syn_1", "z_syn")}
    syn = datadam_readings({**data, **leaves}, "syn", power)
    real = datadam_readings(data, "real", power)
    for i in (0, 1):
        close(syn[f"attention_{i + 1}"], data[f"p{power}_att_syn_{i}"])
        close(real[f"attention_{i + 1}"], data[f"p{power}_att_real_{i}"])
    terms = DataDAM(power).terms(syn, real)
    for name, key in (("attention_1", "attention_0"), ("attention_2", "attention_1"), ("embedding", "embedding")):
        close(terms[name], data[f"p{power}_{key}"])
    total = torch.stack(list(terms.values())).sum()
    close(total, data[f"p{power}_total"])
    total.backward()
    for name, leaf in leaves.items():
        close(leaf.grad, data[f"p{power}_grad_{name}"])
    masked = DataDAM(power).terms(syn, real, data["mask"])
    close(torch.stack(list(masked.values())), data[f"masked_p{power}_terms"])


@pytest.mark.parametrize("power", [1, 4])
@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_datadam_through_a_network(golden, power, norm):
    data = golden("datadam_loss")
    net, objective = network(data, "net", norm), DataDAM(power)
    x = data["x_syn"].double().requires_grad_()
    terms = objective.terms(read(objective, net, x), read(objective, net, data["x_real"].double()))
    close(torch.stack(list(terms.values())), data[f"net_{norm}_p{power}_terms"])
    total = torch.stack(list(terms.values())).sum()
    close(total, data[f"net_{norm}_p{power}_total"])
    close(torch.autograd.grad(total, x)[0], data[f"net_{norm}_p{power}_grad_x_syn"])


@pytest.mark.parametrize("power", [1.0, 2.0, 2.5, 3.0, 4.0, 6.0])
def test_attention_of_any_power_is_the_formula(power):
    hidden = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    wanted = hidden.abs().pow(power).sum(1).flatten(1)
    close(attention(hidden, power), wanted / wanted.norm(dim=1, keepdim=True))


# M3D.


@pytest.mark.parametrize("kernel", ["gaussian", "linear", "polynomial", "laplace"])
@pytest.mark.parametrize("masked", [False, True])
def test_m3d(golden, kernel, masked):
    data = golden("m3d_loss")
    key = f"masked_{kernel}" if masked else kernel
    z = data["z_syn"].double().requires_grad_()
    found = M3D(kernel).terms({"z": z}, {"z": data["z_real"].double()}, data["mask"] if masked else None)["mmd"]
    close(found, data[key])
    found.sum().backward()
    close(z.grad, data[f"{key}_grad_z_syn"])


def test_m3d_at_a_fixed_bandwidth_and_at_other_sizes(golden):
    data = golden("m3d_loss")
    z, real = data["z_syn"].double().requires_grad_(), data["z_real"].double()
    found = M3D(bandwidth=30.0).terms({"z": z}, {"z": real})["mmd"]
    close(found, data["gaussian_fixed30"])
    close(torch.autograd.grad(found.sum(), z)[0], data["gaussian_fixed30_grad_z_syn"])
    near = (data["z_syn"].double() / 5).requires_grad_()
    found = M3D("laplace").terms({"z": near}, {"z": real / 5})["mmd"]
    close(found, data["laplace_scaled"])
    close(torch.autograd.grad(found.sum(), near)[0], data["laplace_scaled_grad_z_syn"])
    close(M3D().terms({"z": z[:, :1]}, {"z": real})["mmd"], data["ipc1_gaussian"])
    big = data["big_z_syn"].double()[None].requires_grad_()
    found = M3D().terms({"z": big}, {"z": data["big_z_real"].double()[None]})["mmd"]
    close(found[0], data["big_gaussian"])
    close(torch.autograd.grad(found.sum(), big)[0][0], data["big_gaussian_grad_z_syn"])


def test_m3d_through_a_network(golden):
    data, nets = golden("m3d_loss"), golden("iid_loss")
    net, objective = network(nets, "net"), M3D()
    x = nets["x_syn"].double().requires_grad_()
    found = objective.terms(read(objective, net, x), read(objective, net, nets["x_real"].double()))["mmd"]
    close(found, data["net_gaussian"])
    close(torch.autograd.grad(found.sum(), x)[0], data["net_grad_x_syn"])


# IID.


@pytest.mark.parametrize(("kind", "covariance", "center"), [("dm", 0.01, 0.05), ("idm", 0.03, 0.01)])
def test_iid(golden, kind, covariance, center):
    data = golden("iid_loss")
    maps, aux = (data[k].double().requires_grad_() for k in ("map_syn", "aux_syn"))
    real_maps = data["map_real"].double()
    real = {"z": real_maps.flatten(2), "map": real_maps}
    objective = IID(covariance, center)
    terms = objective.terms({"z": maps.flatten(2), "map": maps, "reference": aux}, real)
    for name, key in (("match", "match"), ("covariance", "covariance"), ("center", "centre")):
        close(terms[name], data[f"{kind}_{key}"])
    alone = torch.autograd.grad(terms["covariance"].sum(), maps, retain_graph=True)[0]
    close(alone, data[f"{kind}_grad_map_syn_covariance"])
    total = torch.stack(list(terms.values())).sum()
    close(total, data[f"{kind}_total"])
    total.backward()
    close(maps.grad, data[f"{kind}_grad_map_syn"])
    close(aux.grad, data[f"{kind}_grad_aux_syn"])


def test_iid_of_fewer_images_and_other_rows(golden):
    data = golden("iid_loss")
    syn, aux, maps = data["map_syn"].double(), data["aux_syn"].double(), data["map_real"].double()
    real = {"z": maps.flatten(2), "map": maps}
    whole = {"z": syn.flatten(2), "map": syn, "reference": aux}
    first = {name: value[:, :1] for name, value in whole.items()}
    masked = IID(0.01, 0.05).terms(whole, real, data["mask"])
    close(torch.stack(list(masked.values())), data["masked_dm_terms"])
    close(torch.stack(list(IID(0.01, 0.05).terms(first, real).values())), data["ipc1_dm_terms"])
    close(IID(0.01, 0.05, rows=2).terms(whole, real)["covariance"], data["rows_covariance"])


def test_iid_through_two_networks(golden):
    data = golden("iid_loss")
    net, reference, objective = network(data, "net"), network(data, "ref"), IID(0.01, 0.05)
    x = data["x_syn"].double().requires_grad_()
    syn = {**read(objective, net, x), "reference": reference.embed(x.flatten(0, 1)).unflatten(0, x.shape[:2])}
    terms = torch.stack(list(objective.terms(syn, read(objective, net, data["x_real"].double())).values()))
    close(terms, data["net_terms"])
    close(torch.autograd.grad(terms.sum(), x)[0], data["net_grad_x_syn"])


# NCFM.


@pytest.mark.parametrize(("name", "amplitude"), [("half", 0.5), ("amplitude", 0.9), ("phase", 0.1)])
def test_ncfm(golden, name, amplitude):
    data = golden("ncfm_loss")
    z, t = data["z_syn"].clone().requires_grad_(), data["t"].clone().requires_grad_()
    objective = NCFM(300.0, amplitude, len(t))
    found = objective.terms({"z": z}, {"z": data["z_real"], "frequencies": t})["characteristic"]
    close(found, data[f"loss_{name}"])
    found.sum().backward()
    close(z.grad, data[f"grad_syn_{name}"])
    close(t.grad, data[f"grad_t_{name}"])


def test_ncfm_without_unit_length(golden):
    data = golden("ncfm_loss")
    z = data["z_syn"].clone().requires_grad_()
    found = NCFM(1.0, unit=False).terms({"z": z}, {"z": data["z_real"], "frequencies": data["t"]})["characteristic"]
    close(found, data["plain_loss"])
    close(torch.autograd.grad(found.sum(), z)[0], data["plain_grad_syn"])


def test_ncfm_sampling_network(golden):
    data = golden("ncfm_loss")
    network = SamplingNetwork(8, 4, Sampler()).double()
    layers = {k[len("sampler__layer") :].replace("__", "."): v for k, v in data.items() if k.startswith("sampler__")}
    network.layers.load_state_dict(layers, strict=False)  # running statistics are not in the file
    assert {name for name, _ in network.layers.named_parameters()} == layers.keys()
    close(network.layers(data["sampler_noise"]).repeat(SHARE, 1), data["sampler_t"])


@pytest.mark.parametrize("amplitude", [0.0, 0.5, 1.0])
def test_ncfm_has_a_gradient_where_synthetic_and_real_images_are_the_same(amplitude):
    z = torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(0))
    objective = NCFM(amplitude=amplitude, frequencies=64)
    real = {"z": z, **objective.draw({"z": z}, 0, "draws", 0)}
    syn = z.clone().requires_grad_()
    found = objective.terms({"z": syn}, real)["characteristic"]
    (gradient,) = torch.autograd.grad(found.sum(), syn)
    assert torch.isfinite(found).all() and torch.isfinite(gradient).all()


@pytest.mark.parametrize(("name", "amplitude"), [("half", 0.5), ("amplitude", 0.9), ("phase", 0.1)])
def test_ncfm_scales_multiply_frequencies(golden, name, amplitude):
    data = golden("ncfm_loss")
    scales = (0.5 + torch.arange(3.0 * 40, dtype=torch.float64) / 120).view(3, 40).requires_grad_()
    normal = data["t"] / scales.detach().repeat(SHARE, 1)
    drawn = {"z": data["z_real"], "frequencies": normal, "scales": scales}
    found = NCFM(300.0, amplitude, 48).terms({"z": data["z_syn"]}, drawn)["characteristic"]
    close(found, data[f"loss_{name}"])
    found.sum().backward()
    close(scales.grad, (data[f"grad_t_{name}"] * normal).view(SHARE, 3, 40).sum(0))


def test_ncfm_draws_are_functions_of_their_coordinates():
    objective = NCFM(frequencies=64, sampler=Sampler())
    real = {"z": torch.zeros(1, 2, 8)}
    torch.manual_seed(0)
    network = objective.adversary(real)
    first = network(3, "objective", 5)["scales"]
    torch.rand(3)
    assert torch.equal(network(3, "objective", 5)["scales"], first)
    assert not torch.equal(network(3, "objective", 6)["scales"], first)
    assert first.shape == (4, 8) and first.abs().max() <= 1
