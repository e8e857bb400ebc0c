"""Selection: real images as a set, by the same command and with the same life as every other method."""

import pytest
import torch

from bacon_pl.checkpoint_files import newest
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distillers import Selection
from bacon_pl.errors import BaconError
from bacon_pl.partition import assemble
from bacon_pl.selection import Start
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


def test_two_processes_choose_alike_and_a_finished_choice_is_resumed(tmp_path):
    flags = {"callbacks": [Checkpoints(1)]}
    alone = select(tmp_path / "a", ipc=1, rule="herding", flags=flags)
    shared = select(tmp_path / "b", ipc=1, rule="herding", flags={"devices": 2, "strategy": "ddp_spawn"})
    assert torch.equal(alone.images, shared.images)
    again = Selection(ipc=1, network=small, coreset_steps=10, rule="herding")
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
    ],
)
def test_bad_settings_are_one_sentence(tmp_path, settings, sentence):
    with pytest.raises(BaconError, match=sentence):
        distill(tmp_path, 1, module=Selection(**{"network": small, "coreset_steps": 1, **settings}))
