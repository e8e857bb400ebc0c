"""Selection: real images as a set, by the same command and with the same life as every other method."""

import pytest
import torch

from bacon_pl.checkpoint_files import newest
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.data.draw import draw_real
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distillers import Selection
from bacon_pl.distillers.selection import Observer
from bacon_pl.errors import BaconError
from bacon_pl.learners import Pretraining, Teacher
from bacon_pl.networks import ConvNet
from bacon_pl.partition import assemble
from bacon_pl.selection import Crops, Start, rded
from tests.distillers.running import digits, distill, matching, small, trainer


def select(root, *, steps=5, flags=None, **settings):
    return distill(root, steps, module=Selection(network=small, coreset_steps=10, **settings), flags=flags)


def test_tiles_are_what_a_run_starts_from(tmp_path):
    first = {}

    class Keep(type(matching())):
        def on_train_start(self):
            first["images"] = self.images.detach().clone()

    distill(tmp_path / "bacon", 1, module=Keep(ipc=2, network=small, seed=3))
    tiles = select(tmp_path / "tiles", ipc=2, factor=2, seed=3)
    assert torch.equal(tiles.images, first["images"])
    nearest = select(tmp_path / "nearest", ipc=2, factor=2, seed=3, start=Start(scaling="nearest"))
    assert not torch.equal(tiles.images, nearest.images)


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("rule", ["herding", "k_center"])
def test_chosen_images_are_real_ones_of_their_class(tmp_path, rule, factor):
    module = select(tmp_path, ipc=2, factor=factor, rule=rule)
    assert module.iteration == 1  # of five that were allowed
    data = digits()
    data.setup()
    real = data.normalize(data.train.images)
    found = module.images.detach()
    for i in range(20):
        mine = real[data.train.labels == i // 2]
        if factor == 1:
            assert (mine == found[i]).flatten(1).all(1).any()
        else:  # the first tile is one of them, scaled down
            tile = found[i, :, :4, :4]
            small_ones = torch.stack([assemble(x.expand(4, -1, -1, -1), 2)[0, :, :4, :4] for x in mine])
            assert (small_ones == tile).flatten(1).all(1).any()
    assert torch.equal(select(tmp_path / "again", ipc=2, factor=factor, rule=rule).images, module.images)
    assert not torch.equal(select(tmp_path / "other", ipc=2, factor=factor, rule=rule, seed=1).images, module.images)


OBSERVER = Observer(epochs=3, batch_size=64)


@pytest.mark.parametrize("tiles", [1, 2])
def test_crops_are_those_that_the_observer_finds_easy(tmp_path, monkeypatch, tiles):
    monkeypatch.setenv("BACON_CACHE", str(tmp_path / "cache"))
    crops = Crops(images=40, tiles=tiles)
    module = select(tmp_path / "a", ipc=2, rule="rded", crops=crops, observer=OBSERVER, seed=3)
    assert module.iteration == 1
    data = digits()
    data.setup()
    observer = Teacher(OBSERVER.recipe(small, "auto"), data.train, data.meta)
    with monkeypatch.context() as patch:
        patch.setattr("bacon_pl.learners.training.Training.run", None)  # it is that which the run has made
        observer.prepare("cpu")
    found = rded(data.train, data.meta, 2, crops, observer.logits, 3).flatten(0, 1)
    assert torch.equal(found, module.images)
    labels = module.synthetic.labels
    worse = data.normalize(data.train.images)[draw_real(data.train, 2, 1, 0, "test").flatten()]
    scores = [torch.nn.functional.cross_entropy(observer.logits(x), labels) for x in (found, worse)]
    assert tiles == 2 or scores[0] < 0.7 * scores[1]  # a canvas of several crops is nothing that was scored
    # Whole canvases are trained on, whatever is on them.
    saved = DistilledSet.load(tmp_path / "a")
    assert saved.factor == 1 and len(saved.expanded()[0]) == 20


def test_the_observer_keeps_to_a_budget_and_may_be_a_file(tmp_path):
    limit = Pretraining(count=3, epochs=2, network=ConvNet, teacher=small)
    limited = Selection(rule="rded", observer=Observer(epochs=9), pretraining=limit).observer
    assert (limited.epochs, limited.count, limited.network) == (2, 1, small)
    named = Observer(file="mine.safetensors")
    assert Selection(rule="rded", observer=named, pretraining=limit).observer == named
    with pytest.raises(BaconError, match="the teacher 'mine.safetensors' cannot be read"):
        select(tmp_path, ipc=1, rule="rded", observer=named)
    with pytest.raises(BaconError, match="--model.observer.count must be 1"):
        Observer(count=2)
    with pytest.raises(BaconError, match=r"--model\.observer\.epochs must be at least 1"):
        Observer(epochs=0)


@pytest.mark.parametrize("rule", ["herding", "rded"])
def test_two_processes_choose_alike_and_a_finished_choice_is_resumed(tmp_path, rule):
    flags = {"callbacks": [Checkpoints(1)]}
    more = {"observer": OBSERVER} if rule == "rded" else {}
    alone = select(tmp_path / "a", ipc=1, rule=rule, flags=flags, **more)
    shared = select(tmp_path / "b", ipc=1, rule=rule, flags={"devices": 2, "strategy": "ddp_fork"}, **more)
    assert torch.equal(alone.images, shared.images)
    again = Selection(ipc=1, network=small, coreset_steps=10, rule=rule, **more)
    trainer(tmp_path / "a", 5).fit(again, datamodule=digits(), ckpt_path=newest(tmp_path / "a"))
    assert torch.equal(again.images, alone.images)
    assert DistilledSet.load(tmp_path / "a").method == "selection"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"rule": "hearding"}, "unknown rule of Selection 'hearding'. Did you mean 'herding'"),
        ({"coreset_steps": 0}, "--model.coreset_steps must be at least 1"),
        ({"ipc": 1000}, "more images per class"),
        ({"ipc": 100, "factor": 2, "rule": "herding"}, "more images per class"),
        (
            {"ipc": 60, "rule": "rded", "crops": Crops(tiles=2), "observer": OBSERVER},
            "lower --model.ipc or --model.crops",
        ),
        ({"rule": "rded", "factor": 2}, "--model.factor 2 does not go with the rule rded.*--model.crops.tiles"),
        ({"rule": "herding", "crops": Crops()}, "--model.crops is for the rule rded, and the rule is herding"),
        ({"observer": Observer()}, "--model.observer is for the rule rded, and the rule is drawn"),
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, settings, sentence):
    with pytest.raises(BaconError, match=sentence):
        distill(tmp_path, 1, module=Selection(**{"network": small, "coreset_steps": 1, **settings}))


def test_what_rded_cannot_do_is_said_before_its_observer_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(Teacher, "prepare", None)
    with pytest.raises(BaconError, match="--model.crops.images is 3: raise it"):
        select(tmp_path, ipc=4, rule="rded", crops=Crops(images=3))
