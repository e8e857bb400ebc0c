"""The matching terms against the golden numbers of docs/methods/bacon.md, and their properties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import IID, M3D, NCFM, BaconObjective, Combined, DataDAM, MeanMatching, Sampler
from bacon_pl.objectives import functional as F


def classes(golden, dtype=torch.float64):
    data = golden("bayes_loss")
    return data["z_syn"].to(dtype)[None], data["z_real"].to(dtype)[None], data


def test_bayes_terms_and_gradient_match_golden(golden):
    z_syn, z_real, data = classes(golden)
    z_syn.requires_grad_()
    terms = BaconObjective(tv_weight=0.8, clip="none").terms({"z": z_syn}, {"z": z_real})
    assert terms["likelihood"].item() == pytest.approx(data["nll"].item(), abs=1e-6)
    assert terms["tv"].item() == pytest.approx(0.8 * data["tv"].item(), abs=1e-6)
    total = sum(terms.values()).sum()
    assert total.item() == pytest.approx(data["total"].item(), abs=1e-6)
    total.backward()
    torch.testing.assert_close(z_syn.grad[0], data["grad_total"], atol=1e-6, rtol=0)


def test_mean_matching_matches_golden(golden):
    data = golden("mean_match_loss")
    terms = MeanMatching().terms({"z": data["z_syn"].double()[None]}, {"z": data["z_real"].double()[None]})
    assert terms["match"].item() == pytest.approx(data["loss"].item(), abs=1e-6)


def test_acting_clip_has_a_gradient_where_the_published_one_has_none(golden):
    z_syn, z_real, data = classes(golden)
    assert data["clip"].item() == 0
    assert "clip" not in BaconObjective(clip="none").terms({"z": z_syn}, {"z": z_real})
    for variant in ("acting", "symmetric"):
        z = (z_syn + 2 * z_real.std()).requires_grad_()  # far enough for either interval
        term = BaconObjective(tv_weight=0.0, clip=variant).terms({"z": z}, {"z": z_real})["clip"].sum()
        term.backward()
        assert term > 0
        assert z.grad.norm() > 0


@pytest.mark.parametrize(("variant", "expected"), [("acting", 4.0 + 1.0 + 0.25), ("symmetric", 1.0 + 1.0)])
def test_clip_by_hand(variant, expected):
    # u = 0.5 (inside both), 2 (1 over), -0.5 (inside [-1, 1] only), -2.
    mean_real = torch.zeros(1, 4)
    std_real = torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    mean_syn = torch.tensor([[0.5, 4.0, -0.5, -2.0]])
    assert F.clip(mean_syn, mean_real, std_real, variant).item() == pytest.approx(expected)


def test_clip_floor_keeps_dead_features_finite():
    z_real = torch.zeros(1, 5, 3)
    z_syn = torch.full((1, 2, 3), 1e-4, requires_grad=True)
    terms = BaconObjective(clip="acting").terms({"z": z_syn}, {"z": z_real})
    sum(terms.values()).sum().backward()
    assert torch.isfinite(z_syn.grad).all()
    assert F.clip(z_syn.mean(1), z_real.mean(1), torch.zeros(1, 3)).item() == 0  # u = 0.1, inside [0, 1]


@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 100))
def test_masked_rows_do_not_count(n, filler, seed):
    torch.manual_seed(seed)
    z = torch.randn(2, n, 3, dtype=torch.float64)
    padded = torch.cat([z, 1e3 * torch.randn(2, filler, 3, dtype=torch.float64)], 1)
    mask = torch.arange(n + filler).expand(2, -1) < n
    for plain, masked in zip(F.moments(z), F.moments(padded, mask), strict=True):
        torch.testing.assert_close(plain, masked)


OBJECTIVES = {
    "bacon": BaconObjective(clip="acting"),
    "mean": MeanMatching(),
    "datadam": DataDAM(),
    "iid": IID(),
    "m3d": M3D(),
    "ncfm": NCFM(frequencies=32),
    "ncfm-sampler": NCFM(frequencies=32, sampler=Sampler()),
    "combined": Combined([MeanMatching(), Combined([NCFM(frequencies=32, sampler=Sampler()), IID()]), DataDAM()]),
}
each = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)


def readings(objective, images):
    """What the objective keeps of random images (4, images, …) seen by a network, and of a reference network."""
    generator = torch.Generator().manual_seed(images)
    network = ConvNet(3, (16, 16), 4, width=4).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) / 4)
        x = torch.randn(4 * images, 3, 16, 16, generator=generator, dtype=torch.float64)
        kept, _ = objective.read(network, x)
    return {name: value.unflatten(0, (4, images)) for name, value in kept.items()}


def drawn(objective, real):
    """What the objective, and its adversary if it has one, draw in an iteration."""
    torch.manual_seed(0)
    adversary = objective.adversary(real)
    found = {} if adversary is None else adversary.double()(0, "objective", 0)
    return {**objective.draw(real, 0, "objective", 0), **{name: value.detach() for name, value in found.items()}}


@each
def test_order_of_images_and_classes_does_not_matter(objective):
    syn, real = readings(objective, 6), readings(objective, 9)
    if objective.uses_reference:
        syn["reference"] = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    draws = drawn(objective, real)
    order, of_syn, of_real = torch.tensor([2, 0, 3, 1]), torch.randperm(6), torch.randperm(9)
    straight = objective.terms(syn, {**real, **draws})
    moved_syn = {name: value[order][:, of_syn] for name, value in syn.items()}
    moved_real = {name: value[order][:, of_real] for name, value in real.items()}
    shuffled = objective.terms(moved_syn, {**moved_real, **draws})
    assert straight.keys() == shuffled.keys()
    for name, value in straight.items():
        torch.testing.assert_close(value[order], shuffled[name], rtol=1e-9, atol=1e-10)


@each
def test_some_classes_have_the_terms_that_they_have_among_all(objective):
    syn, real = readings(objective, 6), readings(objective, 9)
    draws = drawn(objective, real)
    whole = objective.terms(syn, {**real, **draws})
    some = torch.tensor([3, 1])
    parts = objective.terms({k: v[some] for k, v in syn.items()}, {**{k: v[some] for k, v in real.items()}, **draws})
    for name, value in parts.items():
        torch.testing.assert_close(value, whole[name][some], rtol=1e-9, atol=1e-10)


@each
def test_filler_rows_do_not_count(objective):
    syn, real = readings(objective, 6), readings(objective, 9)
    draws = drawn(objective, real)
    filled = {name: torch.cat([value, 1e3 + value[:, :3]], 1) for name, value in real.items()}
    mask = torch.arange(12).expand(4, -1) < 9
    plain, masked = objective.terms(syn, {**real, **draws}), objective.terms(syn, {**filled, **draws}, mask)
    for name, value in plain.items():
        torch.testing.assert_close(masked[name], value, rtol=1e-8, atol=1e-10)


def test_objectives_in_combined_read_a_reference_if_they_use_one():
    read = {}

    class Spy(MeanMatching):
        def terms(self, syn, real, mask=None):
            read[type(self).__name__] = "reference" in syn
            return super().terms(syn, real, mask)

    class Reader(Spy):
        uses_reference = True

    z = torch.zeros(2, 3, 4)
    Combined([Spy(), Combined([Reader()])]).terms({"z": z, "reference": z}, {"z": z})
    assert read == {"Spy": False, "Reader": True}


def test_bad_settings_are_named():
    with pytest.raises(BaconError, match="tv_weight must be in"):
        BaconObjective(tv_weight=1.5)
    with pytest.raises(BaconError, match="Did you mean 'acting'"):
        BaconObjective(clip="actin")


def test_the_weight_of_datadam_is_that_of_its_embeddings():
    z = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    one, other = (DataDAM(weight=weight).terms({"z": z[0]}, {"z": z[1]})["embedding"] for weight in (0.01, 0.02))
    torch.testing.assert_close(other, 2 * one)


def test_combined_adds_up_weighted_terms():
    generator = torch.Generator().manual_seed(0)
    z_syn, z_real = torch.randn(3, 4, 5, generator=generator), torch.randn(3, 8, 5, generator=generator)
    matching, bayes = MeanMatching(), BaconObjective(tv_weight=0.5, clip="acting")
    both = Combined([matching, bayes, matching], weights=[1.0, 0.25, 2.0]).terms({"z": z_syn}, {"z": z_real})
    assert list(both) == ["match", "likelihood", "tv", "clip", "match_2"]
    alone, parts = matching.terms({"z": z_syn}, {"z": z_real}), bayes.terms({"z": z_syn}, {"z": z_real})
    total = 3 * alone["match"] + 0.25 * sum(parts.values())
    torch.testing.assert_close(sum(both.values()), total)


def test_combined_needs_the_images_that_each_of_its_objectives_needs():
    assert [Combined(parts).fewest for parts in ([MeanMatching()], [MeanMatching(), IID()])] == [1, IID.fewest]


@pytest.mark.parametrize(
    ("objectives", "weights"), [([], None), ([MeanMatching()], [1.0, 2.0]), ([MeanMatching()], [-1.0])]
)
def test_combined_refuses_what_does_not_fit(objectives, weights):
    with pytest.raises(BaconError, match="Combined needs"):
        Combined(objectives, weights)
