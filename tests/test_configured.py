"""What arguments are described by, so that no difference between two runs is missed, and a module is made again."""

from enum import Enum
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bacon_pl import checkpoints
from bacon_pl.checkpoint_files import newest
from bacon_pl.checkpoints import Checkpoints
from bacon_pl.configured import plain
from bacon_pl.distillers import Distiller, DistributionMatching
from bacon_pl.distillers.identity import difference
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import MeanMatching
from tests.distillers.running import fit, matching, resume, small


class Mode(str, Enum):
    SOFT = "soft"


class Scaled(MeanMatching):
    """An objective with arguments of every kind."""

    def __init__(self, *powers, weight=1.0, mode=Mode.SOFT, of=None):
        self.weight = weight

    def terms(self, syn, real, mask=None):
        return {"match": self.weight * super().terms(syn, real, mask)["match"]}


class Fixed(DistributionMatching):
    """A method that decides for its base, and hands on the rest."""

    def __init__(self, patience: int = 3, **kwargs):
        kwargs.setdefault("lr", 1.5)
        super().__init__(objective=MeanMatching(), factor=1, **kwargs)


def described(*args, **kwargs):
    return plain(Scaled(*args, **kwargs))


def test_numbers_of_numpy_and_enums_are_plain_ones(tmp_path):
    objective = Scaled(weight=np.float64(2.0), of=np.arange(3))
    module = fit(matching(seed=np.int64(3), lr=np.float32(0.5), objective=objective), tmp_path, 2, Checkpoints(2))
    assert type(module.seed) is int and type(module.hparams["lr"]) is float
    assert checkpoints.read(newest(tmp_path))["hyper_parameters"]["objective"]["init_args"]["mode"] == "SOFT"
    resume(matching(seed=3, lr=0.5, objective=objective), tmp_path, 4)
    with pytest.raises(BaconError, match="seed must be a whole number"):
        matching(seed=1.5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (described(1.0), described(2.0)),
        (described(weight=1.0), described(weight=2.0)),
        (described(of=torch.zeros(2)), described(of=torch.ones(2))),
        (described(of=SimpleNamespace(a=1)), described(of=SimpleNamespace(a=2))),
        (described(of=lambda x: x + 1), described(of=lambda x: x + 2)),
        (described(of=partial(small, 1)), described(of=partial(small, 2))),
        (described(of={1, 2}), described(of={1, 3})),
        (described(of=SimpleNamespace(f=[1]).f.append), described(of=SimpleNamespace(f=[2]).f.append)),
        (plain(partial(small, num_classes=3)), plain(partial(small, size=3))),
    ],
)
def test_different_arguments_are_described_differently(one, other):
    assert one != other
    assert difference({"init_args": {"of": one}}, {"init_args": {"of": other}})


def test_equal_arguments_are_described_alike():
    assert described(of={"b", "a", "c"}) == described(of={"c", "b", "a"})
    assert plain(ConvNet) == plain(partial(ConvNet, width=128))
    assert plain(partial(ConvNet, width=64)) != plain(ConvNet)


def test_what_a_subclass_decides_is_recorded_and_made_again(tmp_path):
    module = fit(Fixed(ipc=1, network=partial(ConvNet, width=4, depth=2)), tmp_path, 2, Checkpoints(2))
    recorded = module.settings()["model"]
    assert (recorded["lr"], recorded["factor"], recorded["patience"]) == (1.5, 1, 3)
    assert recorded["objective"]["class_path"].endswith("MeanMatching")
    assert (recorded["pool"]["push_every"], recorded["ipc"]) == (30, 1)
    again = Fixed.load_from_checkpoint(newest(tmp_path))
    assert (again.lr, again.factor, again.network(1, (8, 8), 10).features[0].out_channels) == (1.5, 1, 4)
    with pytest.raises(BaconError, match="--model.lr was 1.5, now 0.7"):
        resume(Fixed(ipc=1, network=partial(ConvNet, width=4, depth=2), lr=0.7), tmp_path)


class Changing(Distiller):
    """Makes a network of its argument, under the argument's name, and lowers its rate as it goes."""

    def __init__(self, network=small, rate: float = 1.0, **kwargs):
        super().__init__(**kwargs)
        self.network, self.rate = network(1, (8, 8), 10), rate

    def iterate(self, batch):
        self.images.data.add_(self.rate)
        self.rate /= 2
        self.network.classifier.bias.data.add_(1)


def test_what_changes_while_a_run_goes_on_is_no_setting(tmp_path):
    fit(Changing(ipc=1), tmp_path, 4, Checkpoints(2))
    resume(Changing(ipc=1), tmp_path)
    with pytest.raises(BaconError, match="--model.rate was 1.0, now 3.0"):
        resume(Changing(ipc=1, rate=3.0), tmp_path, 8)


def test_what_cannot_be_made_again_is_told(tmp_path):
    fit(matching(network=lambda *shape: small(*shape)), tmp_path, 2, Checkpoints(2))
    with pytest.raises(BaconError, match="cannot make a DistributionMatching .* such as network="):
        DistributionMatching.load_from_checkpoint(newest(tmp_path))
    assert DistributionMatching.load_from_checkpoint(newest(tmp_path), network=small).iteration == 2
