"""The matching terms against the golden numbers of docs/methods/bacon.md, and their properties."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bacon_pl.errors import BaconError
from bacon_pl.objectives import BaconObjective, Combined, MeanMatching
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


def test_order_of_images_and_classes_does_not_matter():
    torch.manual_seed(0)
    z_syn, z_real = torch.randn(4, 6, 8).double(), torch.randn(4, 9, 8).double()
    order = torch.tensor([2, 0, 3, 1])
    for objective in (BaconObjective(clip="acting"), MeanMatching()):
        straight = objective.terms({"z": z_syn}, {"z": z_real})
        shuffled = objective.terms(
            {"z": z_syn[order][:, torch.randperm(6)]}, {"z": z_real[order][:, torch.randperm(9)]}
        )
        for name, value in straight.items():
            torch.testing.assert_close(value[order], shuffled[name])


def test_bad_settings_are_named():
    with pytest.raises(BaconError, match="tv_weight must be in"):
        BaconObjective(tv_weight=1.5)
    with pytest.raises(BaconError, match="Did you mean 'acting'"):
        BaconObjective(clip="actin")


def test_combined_adds_up_weighted_terms():
    generator = torch.Generator().manual_seed(0)
    z_syn, z_real = torch.randn(3, 4, 5, generator=generator), torch.randn(3, 8, 5, generator=generator)
    matching, bayes = MeanMatching(), BaconObjective(tv_weight=0.5, clip="acting")
    both = Combined([matching, bayes, matching], weights=[1.0, 0.25, 2.0]).terms({"z": z_syn}, {"z": z_real})
    assert list(both) == ["match", "likelihood", "tv", "clip", "match_2"]
    alone, parts = matching.terms({"z": z_syn}, {"z": z_real}), bayes.terms({"z": z_syn}, {"z": z_real})
    total = 3 * alone["match"] + 0.25 * sum(parts.values())
    torch.testing.assert_close(sum(both.values()), total)


@pytest.mark.parametrize(
    ("objectives", "weights"), [([], None), ([MeanMatching()], [1.0, 2.0]), ([MeanMatching()], [-1.0])]
)
def test_combined_refuses_what_does_not_fit(objectives, weights):
    with pytest.raises(BaconError, match="Combined needs"):
        Combined(objectives, weights)
