"""Blocks of classes, networks whose rows meet, and objectives that compare classes."""

from functools import partial

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bacon_pl.augment import Chain, NoAugmentation
from bacon_pl.checkpoint_files import in_folder
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.data import InMemoryData
from bacon_pl.distillers import Distiller, DistributionMatching
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet, Network
from bacon_pl.networks.cost import activation_bytes
from bacon_pl.objectives import Combined, MeanMatching, Objective
from bacon_pl.partition import expand
from tests.distillers.running import digits, distill, fit, matching, small

BATCH_NORM = partial(ConvNet, width=4, depth=2, norm="batch")


class Dropping(Network):
    """A network that drops units at random."""

    def __init__(self, channels, size, num_classes):
        super().__init__()
        self.features = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], 16), nn.Dropout(0.5))
        self.classifier = nn.Linear(16, num_classes)

    def embed(self, x):
        return self.features(x)


@pytest.mark.parametrize("network", [BATCH_NORM, Dropping])
def test_memory_settings_change_nothing_where_rows_meet(tmp_path, network):
    whole = distill(tmp_path, 3, network=network)
    chunked = distill(tmp_path, 3, network=network, real_chunk=3)
    assert torch.equal(whole.images, chunked.images)
    with pytest.raises(BaconError, match="all 10 classes have to be in one.*raise --model.memory_gib"):
        distill(tmp_path, 3, network=network, memory_gib=1e-6)


def test_augmentation_is_shared_by_real_and_synthetic_images(tmp_path):
    # If a class's only real images are its synthetic ones, their embeddings agree whatever is drawn.
    data = digits()
    data.setup()
    own = torch.cat([(data.train.labels == c).nonzero()[:2, 0] for c in range(10)])
    same = InMemoryData(data.train.subset(own), batch_real=2, pool_batch=8)
    found = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            found.append(float(trainer.callback_metrics["loss/match"]))

    settings = {"ipc": 2, "factor": 1, "objective": MeanMatching(), "cross_entropy": None, "lr": 1e-30}
    fit(matching(**settings, augment=Chain(["color", ["crop", "rotate"], "cutout"])), tmp_path, 3, Watch(), data=same)
    assert len(found) == 3 and max(found) < 1e-8  # and above 1 where draws differ


def test_matching_leaves_running_statistics_alone(tmp_path):
    module = distill(tmp_path, 2, network=BATCH_NORM)
    running = module.pool.buffers["features.1.running_mean"]
    trained = {module.pool.slot(k) for t in range(2) for k in module.pool.trained(t)}
    assert {slot for slot, row in enumerate(running) if row.any()} == trained


def test_batch_norm_sees_no_images_that_fill_up_small_classes(tmp_path):
    passed, seen = [], []

    class Watched(MeanMatching):
        def keep(self, trace):
            passed.append(trace.z.detach())
            return super().keep(trace)

        def terms(self, syn, real, mask=None):
            seen.append((real["z"], mask))
            return super().terms(syn, real, mask)

    distill(tmp_path, 1, network=BATCH_NORM, objective=Watched(), data={"batch_real": 1000})
    z, mask = next((z, mask) for z, mask in seen if mask is not None)
    assert not mask.all()  # the digits differ in number
    alone = next(rows for rows in passed if len(rows) == int(mask.sum()))
    assert torch.equal(z[mask], alone) and not z[~mask].any()
    assert max(map(len, passed)) == len(alone)


def test_dropout_is_drawn_from_seed_iteration_and_network(tmp_path):
    torch.manual_seed(1)
    first = distill(tmp_path / "a", 6, network=Dropping).images
    torch.manual_seed(2)
    saved = {"callbacks": [Checkpoints(2)]}
    again = distill(tmp_path / "b", 6, network=Dropping, flags=saved).images
    assert torch.equal(first, again)
    assert not torch.equal(first, distill(tmp_path / "c", 6, network=Dropping, seed=1).images)
    resumed = distill(tmp_path / "d", 6, network=Dropping, ckpt_path=in_folder(tmp_path / "b")[1])
    assert torch.equal(first, resumed.images)


class Apart(MeanMatching):
    """Compares no classes, but asks for all of them."""

    cross_class = True

    def terms(self, syn, real, mask=None):
        assert len(syn["z"]) == len(real["z"]) == 10
        return super().terms(syn, real, mask)


class Discrimination(Objective):
    """Real class means told apart by the synthetic ones."""

    cross_class = True

    def terms(self, syn, real, mask=None):
        weight = torch.ones(real["z"].shape[:2], dtype=real["z"].dtype) if mask is None else mask.to(real["z"].dtype)
        mean = (real["z"] * weight.unsqueeze(2)).sum(1) / weight.sum(1, keepdim=True)
        logits = mean @ syn["z"].mean(1).T
        return {"discrimination": F.cross_entropy(logits, torch.arange(len(logits)), reduction="none")}


class Hidden(MeanMatching):
    """Means of the first hidden activations, summed over channels."""

    def keep(self, trace):
        return {"maps": trace.hidden[0].mean(1).flatten(1), "z": trace.z}

    def terms(self, syn, real, mask=None):
        return {"maps": super().terms({"z": syn["maps"]}, {"z": real["maps"]}, mask)["match"]}


DOUBLE = {"flags": {"precision": "64-true"}}


@pytest.mark.parametrize("batch_real", [8, 1000])  # 1000: no class has so many, so rows are masked
def test_classes_together_give_what_classes_apart_give(tmp_path, batch_real):
    data = {"batch_real": batch_real}
    apart = distill(tmp_path, 3, objective=MeanMatching(), data=data, **DOUBLE)
    together = distill(tmp_path, 3, objective=Apart(), data=data, **DOUBLE)
    torch.testing.assert_close(apart.images, together.images, atol=1e-12, rtol=0)


@pytest.mark.parametrize("objective", [Discrimination(), Combined([MeanMatching(), Discrimination(), Hidden()])])
def test_passes_that_do_not_fit_the_memory_are_run_again_with_the_same_bits(tmp_path, objective):
    kept = distill(tmp_path, 3, objective=objective)
    assert kept.matching.fits >= 10
    per_class = 4 * activation_bytes(small(1, (8, 8), 10), (1, 8, 8), objective.read)
    # Two classes fit, so that the blocks are those of the default and the bits can be compared.
    again = distill(tmp_path, 3, objective=objective, memory_gib=2.5 * per_class / 2**30)
    assert again.matching.fits == 2 and kept.matching.block_rows == again.matching.block_rows == 2
    assert torch.equal(kept.images, again.images)
    one = distill(tmp_path, 3, objective=objective, memory_gib=1.5 * per_class / 2**30)
    assert one.matching.block_rows == 1
    torch.testing.assert_close(kept.images, one.images, atol=1e-4, rtol=0)


def test_the_gradient_across_classes_is_that_of_the_whole_loss(tmp_path):
    """One iteration's gradient against plain autograd over all classes at once."""
    found = {}

    class Spy(DistributionMatching):
        def iterate(self, batch):
            self.pool.advance(0)
            network_id = self.pool.matched(0)
            _, found["gradient"] = self.matching.match(batch, network_id, self.pool.accuracy(network_id))
            real = self.normalize(batch.matching()[0])
            z_real = self.pool.forward(network_id, real.flatten(0, 1))[0].unflatten(0, real.shape[:2])
            x = expand(self.images.unflatten(0, (10, 2)), self.synthetic.factor)
            z_syn = self.pool.forward(network_id, x.flatten(0, 1))[0].unflatten(0, x.shape[:2])
            (term,) = self.objective.terms({"z": z_syn}, {"z": z_real.detach()}).values()
            (found["whole"],) = torch.autograd.grad(term.sum(), self.images)

    module = Spy(ipc=2, network=small, objective=Discrimination(), cross_entropy=None, augment=NoAugmentation())
    distill(tmp_path, 1, module=module, **DOUBLE)
    assert found["whole"].abs().max() > 1e-6
    torch.testing.assert_close(found["gradient"], found["whole"], atol=1e-12, rtol=1e-10)


def test_objectives_that_share_a_pass_keep_their_own(tmp_path):
    both = Combined([MeanMatching(), Hidden()])
    assert not both.cross_class and not both.keeps_embeddings_alone
    model = small(1, (8, 8), 10)
    kept, logits = both.read(model, torch.randn(3, 1, 8, 8))
    assert set(kept) == {"0.z", "1.maps", "1.z"} and logits.shape == (3, 10)
    module = distill(tmp_path, 2, objective=both)
    assert torch.isfinite(module.images).all()
    assert Combined([MeanMatching(), Discrimination()]).cross_class


class Malformed(MeanMatching):
    def __init__(self, kind="none"):
        self.kind = kind

    def keep(self, trace):
        kept = super().keep(trace)
        return {**kept, "hits": trace.logits.argmax(1)} if self.kind == "integers" else kept

    def terms(self, syn, real, mask=None):
        term = super().terms(syn, real, mask)["match"]
        return {
            "none": {}, "0-d": {"a": term.sum()}, "matrix": {"a": term[:, None].expand(-1, 2)}, "ce": {"ce": term},
        }.get(self.kind, {"match": term})  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("none", r"at least one term.*shape \(2,\) here; it gives none"),
        ("0-d", r"it gives 'a' of shape \(\)"),
        ("matrix", r"it gives 'a' of shape \(2, 2\)"),
        ("ce", "calls a term 'ce', which is the cross-entropy's name"),
        ("integers", "keeps 'hits' of shape .*int64.*must be floating-point"),
    ],
)
def test_malformed_terms_are_one_sentence(tmp_path, kind, sentence):
    with pytest.raises(BaconError, match=sentence):
        distill(tmp_path, 1, objective=Malformed(kind))


def test_bound_and_risk_are_logged_of_embeddings_wherever_they_are_kept(tmp_path):
    for objective, name in ((Hidden(), "z"), (Combined([Hidden(), MeanMatching()]), "0.z"), (Maps(), None)):
        assert distill(tmp_path, 1, objective=objective).matching.embeddings == name


class Maps(Hidden):
    """Keeps no embeddings."""

    def keep(self, trace):
        return {"maps": super().keep(trace)["maps"]}


class Functional(Dropping):
    """Drops by a function, which no module tells of."""

    def embed(self, x):
        return F.dropout(self.features[:2](x), 0.5, self.training)


def test_dropout_by_a_function_is_found_by_trying(tmp_path):
    whole, chunked = (distill(tmp_path, 2, network=Functional, real_chunk=chunk) for chunk in (512, 3))
    assert torch.equal(whole.images, chunked.images)


def test_the_base_class_is_abstract():
    with pytest.raises(TypeError, match="iterate"):
        Distiller()
