"""Reference networks beside the matched one: which, what they add to the gradient, and that nothing else changes it."""

from functools import partial

import pytest
import torch

from bacon_pl import rng
from bacon_pl.augment import DSA
from bacon_pl.checkpoints import Checkpoints, in_folder
from bacon_pl.commands.fit import Fit
from bacon_pl.distillers import DistributionMatching, Reference
from bacon_pl.distillers.pairs import PairSettings
from bacon_pl.distillers.reference import Pretraining
from bacon_pl.errors import BaconError
from bacon_pl.learners import Learners
from bacon_pl.networks import ConvNet
from bacon_pl.networks.cost import activation_bytes
from bacon_pl.objectives import IID, BaconObjective, Combined, MeanMatching
from bacon_pl.partition import expand
from bacon_pl.quiet import silenced
from tests.distillers.running import distill, small

OTHER = partial(ConvNet, width=6, depth=1, norm="batch")
REFERENCE = Reference(count=3, epochs=1, network=OTHER)
HEAVY = IID(center=10.0)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))


def folders(tmp_path):
    return sorted((tmp_path / "cache" / "networks").iterdir())


class Together(IID):
    """Asks for all classes."""

    cross_class = True


@pytest.mark.parametrize("cls", [IID, Together])
def test_the_gradient_is_that_of_two_networks(tmp_path, cls):
    """One iteration's gradient against plain autograd over all classes, with the reference network's own files."""
    found = {}

    class Spy(DistributionMatching):
        def iterate(self, batch):
            if batch.iteration < 2:
                return
            self.pool.advance(2)
            network_id = self.pool.matched(2)
            _, found["gradient"] = self.matching.match(batch, network_id, self.pool.accuracy(network_id))
            drawn = rng.derive(self.seed, "reference network", 2) % 3
            reference = OTHER(1, (8, 8), 10)
            reference.load_state_dict(self.references.trained.state(drawn))
            reference.double().eval()
            rows = torch.arange(10)
            real = self.augment.siamese(self.normalize(batch.matching()[0]), rows, self.seed, "augment", 2)
            x = expand(self.images.unflatten(0, (10, 2)), self.synthetic.factor)
            x = self.augment.siamese(x, rows, self.seed, "augment", 2)
            sides = []
            for images in (x, real):
                kept, _ = self.pool.forward(network_id, images.flatten(0, 1), self.objective.read)
                sides.append({name: value.unflatten(0, images.shape[:2]) for name, value in kept.items()})
            r = reference.embed(x.flatten(0, 1)).unflatten(0, x.shape[:2])
            terms = IID(covariance=0.03, center=0).terms(*sides)
            center = 10 * (r - r.mean(1, keepdim=True)).square().sum()
            total = torch.stack(list(terms.values())).sum() + center
            (found["whole"],) = torch.autograd.grad(total, self.images)
            found["center"] = center.detach()

    module = Spy(ipc=2, network=small, objective=cls(center=10.0), cross_entropy=None, augment=DSA(), seed=4,
                 reference=REFERENCE)  # fmt: skip
    distill(tmp_path, 3, module=module, flags={"precision": "64-true"})
    assert found["center"] > 1
    torch.testing.assert_close(found["gradient"], found["whole"], atol=1e-11, rtol=1e-9)


def test_runs_share_them_and_held_out_images_are_not_seen(tmp_path, monkeypatch):
    first = distill(tmp_path / "a", 1, objective=HEAVY, reference=REFERENCE)
    (folder,) = folders(tmp_path)
    assert len(list(folder.glob("*.safetensors"))) == 3
    descend = Learners.descend
    monkeypatch.setattr(Learners, "descend", None)  # nothing is trained again
    second = distill(tmp_path / "b", 1, objective=HEAVY, reference=REFERENCE, seed=1, ipc=2, factor=1)
    assert second.references.trained.folder == first.references.trained.folder == folder
    monkeypatch.setattr(Learners, "descend", descend)
    distill(tmp_path / "c", 1, objective=HEAVY, reference=REFERENCE, data={"val_fraction": 0.2})
    distill(tmp_path / "d", 1, objective=HEAVY, reference=Reference(count=1, epochs=1))  # of the matched architecture
    assert len(folders(tmp_path)) == 3


def test_they_are_drawn_by_iteration_and_change_the_images(tmp_path):
    module = distill(tmp_path / "a", 4, objective=HEAVY, reference=REFERENCE)
    assert {module.references.drawn(t) for t in range(20)} == {0, 1, 2}
    assert torch.equal(module.images, distill(tmp_path / "b", 4, objective=HEAVY, reference=REFERENCE).images)
    without = distill(tmp_path / "c", 4, objective=HEAVY)
    assert not torch.allclose(module.images, without.images)


def test_plugged_into_another_objective_they_are_read_too(tmp_path):
    plain = distill(tmp_path / "a", 2, objective=HEAVY, reference=REFERENCE)
    for i, objective in enumerate([Combined([HEAVY]), Combined([Combined([HEAVY]), MeanMatching()], [1.0, 0.0])]):
        assert torch.equal(plain.images, distill(tmp_path / str(i), 2, objective=objective, reference=REFERENCE).images)
    both = distill(tmp_path / "b", 2, objective=Combined([BaconObjective(), HEAVY]), reference=REFERENCE)
    assert torch.isfinite(both.images).all()


@pytest.mark.parametrize("objective", [HEAVY, Together(center=10.0)])
def test_memory_changes_nothing(tmp_path, objective):
    whole = distill(tmp_path / "a", 3, objective=objective, reference=REFERENCE)
    image = (1, 8, 8)
    kept = activation_bytes(small(1, (8, 8), 10), image, objective.read)
    kept += activation_bytes(OTHER(1, (8, 8), 10), image)
    few = distill(tmp_path / "b", 3, objective=objective, reference=REFERENCE, memory_gib=2.5 * 4 * kept / 2**30)
    assert few.matching.fits == 2
    assert torch.equal(whole.images, few.images)


def test_a_resumed_run_ends_in_the_same_bits(tmp_path, monkeypatch):
    settings = {"objective": HEAVY, "reference": REFERENCE}
    whole = distill(tmp_path / "a", 6, flags={"callbacks": [Checkpoints(2)]}, **settings)
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "elsewhere"))  # trained again there
    path = in_folder(tmp_path / "a")[1]
    assert torch.equal(whole.images, distill(tmp_path / "b", 6, ckpt_path=path, **settings).images)
    with pytest.raises(BaconError, match=r"--model.reference.count was 3, now 2"):
        distill(tmp_path / "c", 6, ckpt_path=path, objective=HEAVY, reference=Reference(2, epochs=1, network=OTHER))


@pytest.mark.timeout(300)
def test_two_processes_end_in_the_same_bits(tmp_path):
    shared = distill(tmp_path / "a", 3, objective=HEAVY, reference=REFERENCE,
                     flags={"devices": 2, "strategy": "ddp_fork"})  # fmt: skip
    assert len(list(folders(tmp_path)[0].glob("*.safetensors"))) == 3
    for path in folders(tmp_path)[0].iterdir():
        path.unlink()
    assert torch.equal(shared.images, distill(tmp_path / "b", 3, objective=HEAVY, reference=REFERENCE).images)


def test_they_are_refused_where_nothing_reads_them():
    sentence = "--model.reference gives networks that MeanMatching does not read"
    with pytest.raises(BaconError, match=sentence):
        DistributionMatching(objective=MeanMatching(), reference=REFERENCE)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"count": 0}, "--model.reference.count must be at least 1, got 0"),
        ({"epochs": 0}, "--model.reference.epochs must be at least 1"),
        ({"lr": 0.0}, "--model.reference.lr must be positive"),
        ({"momentum": 1.0}, r"--model.reference.momentum must be in \[0, 1\)"),
        ({"weight_decay": -1.0}, "--model.reference.weight_decay must be zero or positive"),
    ],
)
def test_bad_settings_are_named(settings, sentence):
    with pytest.raises(BaconError, match=sentence):
        Reference(**settings)


def test_a_budget_limits_what_is_trained_on_the_real_images_and_nothing_else() -> None:
    limit = Pretraining(count=3, epochs=4, network=OTHER)
    assert limit.limit(Reference()) == Reference(count=3, epochs=4, network=OTHER)
    assert limit.limit(Reference(count=2, epochs=1)) == Reference(count=2, epochs=1, network=OTHER)
    assert limit.limit(PairSettings(calibration=0.5)) == PairSettings(count=3, epochs=4, calibration=0.5)
    assert Pretraining().limit(Reference(count=100)) == Reference(count=100)
    with pytest.raises(BaconError, match="--model.pretraining.epochs must be at least 1, got 0"):
        Pretraining(epochs=0)


@pytest.mark.parametrize("method", ["iid", "ncfm", "idm"])
def test_the_small_budget_narrows_the_networks_of_the_methods_that_have_them(method: str) -> None:
    with silenced():
        module = Fit(["--config=cifar10/ipc10", f"--config=methods/{method}", "--config=budgets/small"]).model
    trained = {"iid": module.reference, "ncfm": module.pairs}.get(method)
    others = [part for part in (module.reference, module.pairs) if part is not trained]
    assert all(part is None for part in others)
    if trained is not None:
        made = (getattr(trained, "network", None) or module.network)(3, (32, 32), 10)
        assert (trained.count, trained.epochs, type(made), len(made.features[0].weight)) == (3, 4, ConvNet, 32)


@pytest.mark.parametrize("objective", [IID(), Combined([MeanMatching(), IID()])])
def test_one_image_of_a_class_is_too_few_for_its_terms(objective):
    with pytest.raises(BaconError, match=r"--model.ipc 1 with --model.factor 1 has 1 image .* need 2, tiles counted"):
        DistributionMatching(ipc=1, factor=1, objective=objective)
    DistributionMatching(ipc=1, factor=2, objective=objective)
    DistributionMatching(ipc=2, factor=1, objective=objective)
