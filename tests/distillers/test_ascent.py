"""Parameters of an objective that ascend: NCFM's sampling network, alone and within other objectives."""

import pytest
import torch
from torch import nn

from bacon_pl.checkpoints import Checkpoints, in_folder
from bacon_pl.distillers import DistributionMatching
from bacon_pl.distillers.ascent import Ascent
from bacon_pl.errors import BaconError
from bacon_pl.objectives import NCFM, Adversary, BaconObjective, Combined, MeanMatching, Objective, Sampler
from tests.distillers.running import distill, small

SAMPLED = NCFM(frequencies=32, sampler=Sampler(lr=0.1))
DOUBLE = {"flags": {"precision": "64-true"}}


class Together(NCFM):
    """Asks for all classes."""

    cross_class = True


def weights(module):
    return {name: t.clone() for name, t in module.matching.ascent.adversary.state_dict().items()}


@pytest.mark.parametrize("cls", [NCFM, Together])
def test_both_gradients_are_those_of_the_whole_loss(tmp_path, cls):
    """One iteration against plain autograd over all classes at once: images descend, the network ascends."""
    found = {}

    class Spy(DistributionMatching):
        def iterate(self, batch):
            self.pool.advance(0)
            network_id = self.pool.matched(0)
            read = self.matching.read_real, self.matching.read_synthetic
            _, found["images"] = self.matching.match(batch, network_id, self.pool.accuracy(network_id))
            ascent = self.matching.ascent
            found["network"] = [g.clone() for g in ascent.gradients()]
            keys, rows = (self.seed, "objective", 0), torch.arange(10)
            real, mask = read[0](batch, network_id, rows)
            canvases = self.synthetic.by_class().requires_grad_()
            syn, _ = read[1](canvases, network_id, rows, 0)
            drawn = {**self.objective.draw(real, *keys), **ascent.adversary(*keys)}
            loss = self.objective.terms(syn, {**real, **drawn}, mask)["characteristic"].sum()
            images, *network = torch.autograd.grad(loss, [canvases, *ascent.adversary.parameters()])
            torch.testing.assert_close(found["images"], images.flatten(0, 1), atol=1e-11, rtol=1e-9)
            torch.testing.assert_close(found["network"], network, atol=1e-11, rtol=1e-9)
            before = [p.detach().clone() for p in ascent.adversary.parameters()]
            ascent.step()
            steps = [p.detach() - old for p, old in zip(ascent.adversary.parameters(), before, strict=True)]
            torch.testing.assert_close(steps, [0.1 * g for g in network], atol=1e-12, rtol=1e-9)
            found["longest"] = max(g.abs().max() for g in network)

    objective = cls(frequencies=32, sampler=Sampler(lr=0.1))
    module = Spy(ipc=2, network=small, objective=objective, cross_entropy=None, seed=4)
    distill(tmp_path, 1, module=module, **DOUBLE)
    assert found["longest"] > 1e-4


def test_the_loss_at_the_same_images_grows(tmp_path):
    losses = []

    class Standing(DistributionMatching):
        def update(self, gradient):
            pass

        def report(self, terms, accuracy):
            losses.append(terms["characteristic"].mean().item())

    objective = NCFM(frequencies=256, sampler=Sampler(lr=0.05))
    module = Standing(ipc=1, network=small, objective=objective, cross_entropy=None, seed=0)
    distill(tmp_path, 60, module=module)
    assert sum(losses[-10:]) > 1.1 * sum(losses[:10])


@pytest.mark.parametrize(
    "objective",
    [SAMPLED, Combined([BaconObjective(), Combined([MeanMatching(), SAMPLED], [1.0, 0.5])])],
    ids=["alone", "combined"],
)
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, objective):
    whole = distill(tmp_path / "a", 6, objective=objective, flags={"callbacks": [Checkpoints(2)]})
    resumed = distill(tmp_path / "b", 6, objective=objective, ckpt_path=in_folder(tmp_path / "a")[1])
    assert torch.equal(whole.images, resumed.images)
    held, again = weights(whole), weights(resumed)
    assert held.keys() == again.keys() and all(torch.equal(held[name], again[name]) for name in held)
    first = weights(distill(tmp_path / "c", 1, objective=objective))
    assert any(not torch.equal(held[name], first[name]) for name in held if name.endswith("weight"))
    tracked = [t for name, t in held.items() if name.endswith("num_batches_tracked")]
    assert tracked and all(t == 6 for t in tracked)  # resumed with the rest


def test_within_combined_it_has_its_own_settings(tmp_path):
    alone = distill(tmp_path / "a", 1, objective=SAMPLED)
    combined = distill(tmp_path / "b", 1, objective=Combined([SAMPLED]))
    names = {name.removeprefix("parts.0."): t for name, t in weights(combined).items()}
    assert names.keys() == weights(alone).keys()
    other = NCFM(frequencies=32, sampler=Sampler(lr=0.2, momentum=0.9))
    module = distill(tmp_path / "c", 1, objective=Combined([SAMPLED, other]))
    groups = module.matching.ascent.adversary.param_groups()
    assert [(g["lr"], g["momentum"]) for g in groups] == [(0.1, 0.5), (0.2, 0.9)]


def test_without_a_sampler_nothing_is_owned(tmp_path):
    module = distill(tmp_path, 1, objective=NCFM(frequencies=32))
    assert module.matching.ascent.adversary is None
    assert set(module.extra_state()) == {*module.pool.state_dict(), "real_chunk"}


class Tilt(Adversary):
    """One weight for each feature."""

    def __init__(self, features):
        super().__init__(lr=0.5, momentum=0.0)
        self.weight = nn.Parameter(torch.zeros(features))

    def forward(self, *keys):
        return {"tilt": self.weight}


class Tilted(Objective):
    """A user's own: mean matching with the weights of features that hurt most."""

    def adversary(self, real):
        return Tilt(real["z"].shape[-1])

    def terms(self, syn, real, mask=None):
        difference = (syn["z"].mean(1) - real["z"].mean(1)).square()
        return {"tilted": (difference * real["tilt"].softmax(0)).sum(1)}


def test_an_objective_of_ones_own_may_have_one(tmp_path):
    module = distill(tmp_path, 3, objective=Tilted(), cross_entropy=None)
    tilt = module.matching.ascent.adversary.weight
    assert tilt.max() > 0 > tilt.min()


def test_an_adversary_that_no_term_reads_stays(tmp_path):
    class Unread(Tilted):
        cross_class = True

        def terms(self, syn, real, mask=None):
            return MeanMatching().terms(syn, real, mask)

    module = distill(tmp_path, 2, objective=Unread())
    assert not module.matching.ascent.adversary.weight.any()


def test_a_gradient_that_is_not_finite_is_told(tmp_path):
    class Broken(Tilted):
        def terms(self, syn, real, mask=None):
            found = super().terms(syn, real, mask)
            real["tilt"].register_hook(lambda g: g * float("inf"))
            return found

    with pytest.raises(BaconError, match="diverged at iteration 0: not finite: gradient"):
        distill(tmp_path, 1, objective=Broken())


def test_precision_of_the_networks_is_not_that_of_the_distances(tmp_path):
    """Under bfloat16 the angles ⟨t, u⟩ would be off by several percent."""
    types = []

    class Product(NCFM):
        def terms(self, syn, real, mask=None):
            types.append((real["frequencies"] @ real["scales"].repeat(2, 1).mT).dtype)
            return super().terms(syn, real, mask)

    objective = Product(frequencies=32, sampler=Sampler())
    distill(tmp_path, 1, objective=objective, flags={"precision": "bf16-mixed"})
    assert set(types) == {torch.float32}
    ascent = Ascent(SAMPLED, {"z": torch.randn(4, 16)}, 0)
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            ascent.draw(0)
        found.append(ascent.leaves["scales"])
    assert torch.equal(*found)


@pytest.mark.parametrize("frequencies", [16, 40])
def test_frequencies_must_share_scales(frequencies):
    with pytest.raises(BaconError, match="multiple of 16 and at least 32"):
        NCFM(frequencies=frequencies, sampler=Sampler())


@pytest.mark.parametrize(("settings", "said"), [({"lr": 0.0}, "sampler.lr"), ({"momentum": 1.0}, "sampler.momentum")])
def test_bad_settings_are_named(settings, said):
    with pytest.raises(BaconError, match=f"NCFM's {said} must be"):
        Sampler(**settings)


def test_a_module_is_made_again_from_its_checkpoint(tmp_path):
    distill(tmp_path, 2, objective=SAMPLED, flags={"callbacks": [Checkpoints(2)]})
    again = DistributionMatching.load_from_checkpoint(in_folder(tmp_path)[0], network=small)
    assert again.objective.sampler == Sampler(lr=0.1)
