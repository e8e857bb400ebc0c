"""Learners: snapshots, accuracies, and passes whose random draws follow from seed, network and step."""

import os
import socket

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from bacon_pl.augment import NoAugmentation
from bacon_pl.data import DataModule
from bacon_pl.errors import BaconError
from bacon_pl.learners import Learners, Recipe, SoftLabels, Teacher, TrainingSet
from bacon_pl.networks import ConvNet, Network, by_name


class Dropping(Network):
    """Drops units at random."""

    def __init__(self, channels, size, num_classes):
        super().__init__()
        self.hidden = nn.Linear(channels * size[0] * size[1], 12)
        self.drop = nn.Dropout(0.5)
        self.classifier = nn.Linear(12, num_classes)

    def embed(self, x):
        return self.drop(self.hidden(x.flatten(1)).relu())


class Kept(Dropping):
    """The same without."""

    def embed(self, x):
        return self.hidden(x.flatten(1)).relu()


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


@pytest.fixture(scope="module")
def data():
    module = DataModule(name="digits")
    module.setup()
    return module


def learners(data, seed=0, teacher=None, **settings):
    recipe = Recipe(**{"network": Dropping, "num_networks": 3, "epochs": 3, "batch_size": 16,
                       "augment": NoAugmentation(), "lr": 0.1, **settings})  # fmt: skip
    real = TrainingSet.random(data.train, ipc=2, draws=3, seed=0)
    return Learners(real, recipe, data.meta, seed, teacher)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.networks.parameters()])


def test_dropped_units_follow_from_the_seed_whatever_the_global_generator_does(data):
    def trained(start, **settings):
        torch.manual_seed(start)
        state = torch.random.get_rng_state()
        found = weights(learners(data, **settings).fit())
        assert torch.equal(torch.random.get_rng_state(), state)
        return found

    once = trained(1)
    assert torch.equal(trained(2), once)
    assert not torch.equal(trained(1, seed=1), once)
    assert not torch.equal(trained(1, network=Kept), once)


def test_every_network_and_step_drops_units_of_its_own(data):
    module = learners(data)
    for network in module.networks[1:]:
        network.load_state_dict(module.networks[0].state_dict())
    for name in ("images", "labels", "index"):  # the same batch everywhere
        same = getattr(module, name)
        setattr(module, name, same[:1].expand_as(same) if name == "index" else torch.zeros_like(same))
    losses = [module.losses(step).detach() for step in (0, 0, 1)]
    assert torch.equal(losses[0], losses[1])
    assert len({*losses[0].tolist(), *losses[2].tolist()}) == 6


def test_alexnet_of_torchvision_repeats(data):
    meta = type(data.meta)("noise", ("a", "b"), 3, (64, 64), (0.5,) * 3, (0.5,) * 3)
    images = torch.rand(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    real = TrainingSet("noise", images, torch.arange(8) % 2, torch.arange(8)[None], 0)
    recipe = Recipe(network=by_name("torchvision.alexnet"), num_networks=1, epochs=2, augment=NoAugmentation())
    found = []
    for start, seed in ((1, 0), (2, 0), (1, 1)):
        torch.manual_seed(start)
        module = Learners(real, recipe, meta)
        module.seed = seed
        found.append(weights(module.fit()))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_snapshots_are_the_states_after_epochs(data):
    module = learners(data, network=small)
    start = {name: t.clone() for name, t in module.networks[1].state_dict().items()}
    assert module.fit(snapshots=(0, 2, 3)) is module
    assert list(module.snapshots) == [0, 2, 3]
    assert all(torch.equal(t, start[name]) for name, t in module.snapshots[0][1].items())
    shorter = learners(data, network=small)  # the first two epochs, by hand
    optimizer = shorter.optimizer()
    for step in range(2 * shorter.steps_per_epoch):
        shorter.schedule(optimizer, step)
        shorter.descend(step)
        optimizer.step()
    for k, network in enumerate(shorter.networks):
        for name, t in network.state_dict().items():
            assert torch.equal(module.snapshots[2][k][name], t)
            assert torch.equal(module.snapshots[3][k][name], module.networks[k].state_dict()[name])
            assert not torch.equal(module.snapshots[2][k][name], module.snapshots[3][k][name])
    other = small(1, (8, 8), 10)
    other.load_state_dict(module.snapshots[2][0])  # whole states


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps(data):
    module = learners(data, network=small)
    optimizer, losses = module.optimizer(), []
    for step in range(module.total_steps):
        module.schedule(optimizer, step)
        losses.append(module.descend(step))
        optimizer.step()
    assert module.steps_per_epoch == 2
    torch.testing.assert_close(module.epoch_loss, torch.stack(losses, 1).unflatten(1, (3, 2)).mean(2))


@pytest.mark.parametrize("snapshots", [(0, 4), (-1,), (1.5,), ("1",), "12", 3, None])
def test_a_snapshot_that_does_not_come_is_named(data, snapshots):
    with pytest.raises(BaconError, match=r"asked for, the training has 3: give a list of whole numbers from 0 to 3"):
        learners(data).fit(snapshots=snapshots)


def test_misuse_is_one_sentence(data):
    module = learners(data)
    with pytest.raises(BaconError, match=r"have not been trained: call fit\(\) before accuracies"):
        module.accuracies(data.test.images, data.test.labels)
    module.fit(snapshots=np.arange(2))
    before = weights(module)
    with pytest.raises(BaconError, match=r"have been trained, and fit\(\) starts from fresh ones: make new"):
        module.fit()
    assert torch.equal(weights(module), before)
    other = learners(data, seed=1)
    other.load_state_dict(module.state_dict())  # trained elsewhere
    assert other.accuracies(data.test.images, data.test.labels).shape == (3,)
    with pytest.raises(BaconError, match="a teacher is needed where"):
        learners(data, soft_labels=SoftLabels())
    with pytest.raises(BaconError, match="unknown coreset 'hering'. Did you mean 'herding'"):
        TrainingSet.coreset("hering", data.train, 1, [])


@pytest.mark.parametrize("batch_size", [7, 500])
def test_accuracies_by_hand(data, batch_size):
    module = learners(data, epochs=20).fit()
    images, labels = data.test.images[:100], data.test.labels[:100]
    found = module.accuracies(images, labels, batch_size)
    by_hand = [100 * (n.eval()(data.normalize(images))[1].argmax(1) == labels).float().mean() for n in module.networks]
    torch.testing.assert_close(found, torch.stack(by_hand))
    assert found.min() > 30 and len(found.unique()) > 1


def test_modes_are_not_training(data):
    """Modules have a method ``train`` for their mode: it must go on being that."""
    module = learners(data)
    before = weights(module)
    assert module.train(False) is module and not module.networks[0].training
    assert module.train().networks[0].training
    assert torch.equal(weights(module), before)


def process(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(rank)
    torch.save(everything(), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def everything():
    """Weights, snapshots and accuracies of networks that drop units, taught by one that does, too."""
    data = DataModule(name="digits")
    data.setup()
    soft = SoftLabels(steps=5)
    teacher = Teacher(Recipe(network=Dropping, soft_labels=soft), data.train, data.meta, 0)
    module = learners(data, teacher=teacher, soft_labels=soft).fit(snapshots=(0, 1))
    kept = [t for epochs in module.snapshots.values() for state in epochs for t in state.values()]
    return [*kept, weights(module), module.accuracies(data.test.images, data.test.labels)]


def test_two_processes_do_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(process, (port, tmp_path), nprocs=2, start_method="fork")  # quick: nothing is imported
    alone = everything()
    assert len(alone) == 2 * 3 * 4 + 2
    for rank in range(2):
        together = torch.load(tmp_path / f"{rank}.pt")
        assert all(torch.equal(a, b) for a, b in zip(together, alone, strict=True))


def test_networks_are_sent_in_the_same_order_by_every_process(data, monkeypatch):
    """A set of types has another order in every process, which would then wait for different messages."""

    class Mixed(Kept):
        def __init__(self, channels, size, num_classes):
            super().__init__(channels, size, num_classes)
            for number, dtype in enumerate(types[1:]):
                self.register_buffer(f"counted_{number}", torch.zeros(2, dtype=dtype))

    types = [torch.float32, torch.int64, torch.uint8, torch.float64, torch.int16, torch.bool, torch.int32]
    sent = []
    monkeypatch.setattr("bacon_pl.learners.learners.broadcast", lambda tensors, _: sent.append(tensors[0].dtype))
    learners(data, network=Mixed, num_networks=2).broadcast_networks()
    assert sent == 2 * types
