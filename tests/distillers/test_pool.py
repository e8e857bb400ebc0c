"""The pool of networks (docs/methods/frame.md): who is in it when, and that its training is torch's."""

import pytest
import torch

from bacon_pl.distillers import NetworkPool, PoolSettings
from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet


def small(channels, size, num_classes):
    return ConvNet(channels, size, num_classes, width=4, depth=2)


def make_pool(seed=0, **settings):
    return NetworkPool(PoolSettings(**settings), lambda: small(1, (8, 8), 3), seed)


def test_pool_membership_follows_the_schedule():
    pool = make_pool(initial=3, push_every=30, capacity=100)
    assert [len(pool.active(t)) for t in (0, 29, 30, 31, 2880, 2910, 20_000)] == [4, 4, 5, 5, 100, 100, 100]
    assert pool.active(20_000)[-1] == 3 + 20_000 // 30
    for t in range(200):
        trained = pool.trained(t)
        assert len(set(trained)) == 2
        assert set(trained) | {pool.matched(t)} <= set(pool.active(t))
    matched = [pool.matched(t) for t in range(3000, 6000)]
    assert len(set(matched)) > 90


def test_network_weights_depend_on_seed_and_id_alone():
    early, late = make_pool(initial=2, push_every=1, capacity=3), make_pool(initial=2, push_every=1, capacity=3)
    for t in range(6):
        early.advance(t)
    late.advance(5)
    for network_id in early.active(5):
        for name, stack in early.weights.items():
            assert torch.equal(stack[early.slot(network_id)], late.weights[name][late.slot(network_id)])
    other = make_pool(seed=1, initial=2, push_every=1, capacity=3)
    other.advance(5)
    name = "features.0.weight"
    assert not torch.equal(other.weights[name], late.weights[name])


def test_pool_training_is_torch_sgd(golden):
    pool = make_pool(lr=0.05, momentum=0.9, weight_decay=5e-2)
    pool.advance(0)
    network_id = 2
    reference = small(1, (8, 8), 3)
    reference.load_state_dict({name: w[pool.slot(network_id)].clone() for name, w in pool.weights.items()})
    untouched = pool.weights["classifier.weight"][0].clone()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-2)
    torch.manual_seed(0)
    hits = 0
    for _ in range(2):  # momentum is kept between the visits
        images, labels = torch.randint(0, 256, (3, 5, 1, 8, 8), dtype=torch.uint8), torch.randint(0, 3, (3, 5))
        batches = {network_id: (images, labels), 1: (images.flip(0), labels.flip(0))}
        pool.train([1, network_id], batches.__getitem__, lambda x: x / 255, 0)
        for x, y in zip(images / 255, labels, strict=True):
            logits = reference(x)[1]
            hits += int((logits.argmax(1) == y).sum())
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(logits, y).backward()
            optimizer.step()
    for name, parameter in reference.named_parameters():
        torch.testing.assert_close(pool.weights[name][pool.slot(network_id)], parameter.detach())
    assert pool.accuracy(network_id).item() == pytest.approx(100 * hits / 30)
    assert torch.equal(pool.weights["classifier.weight"][0], untouched)
    assert pool.accuracy(0).item() == 0
    pool.reset_meters()
    assert pool.accuracy(network_id).item() == 0


def test_networks_trained_as_one_batched_program_end_as_those_trained_alone():
    """The path of GPUs, in float64 on a CPU."""
    torch.manual_seed(0)
    batches = {
        b: (torch.randint(0, 256, (3, 5, 1, 8, 8), dtype=torch.uint8), torch.randint(0, 3, (3, 5))) for b in (0, 2)
    }
    pools = []
    for groups in ([[0, 2]], [[0], [2]]):
        pool = NetworkPool(PoolSettings(lr=0.1), lambda: small(1, (8, 8), 3), 0, dtype=torch.float64)
        pool.model.way = "batched" if len(groups) == 1 else "in turn"
        pool.advance(0)
        for _ in range(2):
            for together in groups:
                pool.train(together, batches.__getitem__, lambda x: x.double() / 255, 0)
        pools.append(pool)
    for kind in ("weights", "velocity"):
        for name, stack in getattr(pools[0], kind).items():
            torch.testing.assert_close(stack, getattr(pools[1], kind)[name], atol=1e-10, rtol=0)
    assert torch.equal(pools[0].meters, pools[1].meters)
    assert pools[0].meters[:, 1].tolist() == [30, 0, 30, 0]


def test_networks_of_a_pool_differ():
    pool = make_pool(initial=2)
    pool.advance(0)
    first = [pool.state(k)["features.0.weight"] for k in pool.active(0)]
    assert len({tuple(w.flatten().tolist()) for w in first}) == 3


def test_a_network_in_a_used_slot_begins_like_any_other():
    def made(trained_for):
        pool = make_pool(initial=1, push_every=1, capacity=2)
        generator = torch.Generator().manual_seed(0)
        for t in range(3):  # networks 0 and 1; then 2 in the place of 0; then 3 in that of 1
            pool.advance(t)
            if t < trained_for:
                images = torch.randint(0, 256, (2, 5, 1, 8, 8), generator=generator, dtype=torch.uint8)
                labels = torch.randint(0, 3, (2, 5), generator=generator)
                pool.train(list(pool.active(t)), lambda _, batches=(images, labels): batches, lambda x: x / 255, t)
        return pool

    used, fresh = made(2), made(0)
    slot = fresh.slot(3)
    assert 3 in used.active(2) and used.meters[used.slot(2)].any()  # that of 2 was trained
    for kind in ("weights", "velocity"):
        for name, stack in getattr(fresh, kind).items():
            assert torch.equal(getattr(used, kind)[name][slot], stack[slot]), (kind, name)
    assert used.meters[slot].tolist() == [0, 0]


def test_a_checkpoint_of_another_architecture_is_refused():
    pool = make_pool()
    pool.advance(0)
    other = NetworkPool(PoolSettings(), lambda: ConvNet(1, (8, 8), 3, width=8, depth=2), 0)
    with pytest.raises(BaconError, match=r"another architecture \('classifier.weight' is \(3, 36\), here \(3, 72\)\)"):
        other.load_state_dict(pool.state_dict())
    deeper = NetworkPool(PoolSettings(), lambda: ConvNet(1, (8, 8), 3, width=4, depth=1), 0)
    with pytest.raises(BaconError, match="another architecture"):
        deeper.load_state_dict(pool.state_dict())
