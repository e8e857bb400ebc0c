"""The pretend GPU: it notes whatever would make a GPU wait, nothing else, and computes what a CPU computes."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bacon_pl import rng
from bacon_pl.networks.placing import place, placed
from bacon_pl.pretend import PretendGPU

X = torch.arange(6.0).view(2, 3)
LABELS = torch.tensor([2, 0])


@pytest.fixture
def gpu():
    with PretendGPU() as gpu:
        yield gpu


def noted(gpu, action):
    """What is noted of an action on X, there: the lines, and what is said."""
    x, labels = X.to(gpu.device), LABELS.to(gpu.device)
    mask = x > 2
    with gpu.watch():
        action(gpu, x, labels, mask)
    return gpu.waits


READS = {
    "item": lambda gpu, x, y, mask: x.sum().item(),
    "float": lambda gpu, x, y, mask: float(x[0, 0]),
    "int": lambda gpu, x, y, mask: range(int(y[0])),
    "truth": lambda gpu, x, y, mask: 1 if (x > 7).any() else 0,
    "format": lambda gpu, x, y, mask: f"{x.mean():.3f}",
    "tolist": lambda gpu, x, y, mask: y.tolist(),
    "numpy": lambda gpu, x, y, mask: x.numpy(),
    "cpu": lambda gpu, x, y, mask: x.cpu(),
    "to": lambda gpu, x, y, mask: x.to("cpu"),
    "equal": lambda gpu, x, y, mask: torch.equal(x, x),
    "allclose": lambda gpu, x, y, mask: torch.allclose(x, x),
}
SHAPES = {
    "mask": lambda gpu, x, y, mask: x[mask],
    "mask written": lambda gpu, x, y, mask: x.__setitem__(mask, torch.ones(3, device=gpu.device)),
    "nonzero": lambda gpu, x, y, mask: mask.nonzero(),
    "where": lambda gpu, x, y, mask: torch.where(mask),
    "masked_select": lambda gpu, x, y, mask: x.masked_select(mask),
    "unique": lambda gpu, x, y, mask: y.unique(),
    "bincount": lambda gpu, x, y, mask: y.bincount(minlength=3),
    "repeat_interleave": lambda gpu, x, y, mask: x.repeat_interleave(y, 0),
    "one_hot": lambda gpu, x, y, mask: F.one_hot(y),
    "eigh": lambda gpu, x, y, mask: torch.linalg.eigh(x @ x.T),
}
HOST_DATA = {
    "tensor": lambda gpu, x, y, mask: torch.tensor([1.0, 2.0], device=gpu.device),
    "as_tensor": lambda gpu, x, y, mask: torch.as_tensor([1.0], device=x.device),
    "tensor, then to": lambda gpu, x, y, mask: torch.tensor([1.0]).to(gpu.device),
    "from_numpy": lambda gpu, x, y, mask: torch.from_numpy(np.ones(3)).to(x.device),
    "cuda": lambda gpu, x, y, mask: torch.ones(3).cuda(),
    "to another": lambda gpu, x, y, mask: torch.ones(3).to(x),
    "new_tensor": lambda gpu, x, y, mask: x.new_tensor([1.0]),
    "a list as an index": lambda gpu, x, y, mask: x[[0, 1]],
    "an index of the host": lambda gpu, x, y, mask: x[LABELS // 2],
    "copy_": lambda gpu, x, y, mask: x.copy_(X),
    "a number in its place": lambda gpu, x, y, mask: x.__setitem__((0, 0), 1.0),
    "pageable": lambda gpu, x, y, mask: X.to(gpu.device, non_blocking=True),
    "blocking": lambda gpu, x, y, mask: X.pin_memory().to(gpu.device),
    "a network": lambda gpu, x, y, mask: torch.nn.Linear(3, 2).to(gpu.device),
}
MIXED = {
    "sum": lambda gpu, x, y, mask: x + X,
    "stack": lambda gpu, x, y, mask: torch.stack([x[0, 0], torch.zeros(())]),
    "where": lambda gpu, x, y, mask: torch.where(mask, x, X),
    "a weight": lambda gpu, x, y, mask: F.linear(x, X),
}
NOTHING = {
    "arithmetic": lambda gpu, x, y, mask: (2 * x + 1).clamp(0, 3).mean(0, keepdim=True).expand(4, -1),
    "where": lambda gpu, x, y, mask: torch.where(mask, x, 0.0).masked_fill(mask, 1.0),
    "a number of the host, 0-d": lambda gpu, x, y, mask: x * torch.tensor(2.0),
    "numbers at a mask": lambda gpu, x, y, mask: x.__setitem__(mask, 1.0),
    "indices": lambda gpu, x, y, mask: x[y[:1] // 2].topk(2).indices.sort().values,
    "a row": lambda gpu, x, y, mask: x.__setitem__(0, 1.0),
    "factories": lambda gpu, x, y, mask: (
        torch.zeros(2, device=gpu.device) + torch.full((2,), 3.0, device=x.device) + torch.arange(2, device="cuda")
    ),
    "like": lambda gpu, x, y, mask: torch.rand_like(x) + x.new_zeros(2, 3) + torch.ones_like(x),
    "one_hot": lambda gpu, x, y, mask: F.one_hot(y, 3).float() @ x.T,
    "loss": lambda gpu, x, y, mask: F.cross_entropy(x, y, label_smoothing=0.1),
    "known repeats": lambda gpu, x, y, mask: x.repeat_interleave(2, 0),
    "type": lambda gpu, x, y, mask: x.double().to(torch.float32),
    "already there": lambda gpu, x, y, mask: torch.as_tensor(x, device=gpu.device).to(gpu.device).cuda(),
    "the host alone": lambda gpu, x, y, mask: float(X.sum()) + X[X > 2].tolist()[0],
    "a network": lambda gpu, x, y, mask: place(torch.nn.Linear(3, 2), gpu.device),
    "pinned": lambda gpu, x, y, mask: placed(X, gpu.device, torch.float64),
}


@pytest.mark.parametrize(("kind", "word"), [(READS, "reads|host"), (SHAPES, "shape|reads"), (HOST_DATA, "host")])
def test_it_notes_what_waits(kind, word):
    for name, action in kind.items():
        with PretendGPU() as gpu:
            waits = noted(gpu, action)
            assert waits, name
            for wait in waits:
                assert wait.where == f"pretend/test_pretend.py:{action.__code__.co_firstlineno}"
                assert any(part in wait.what for part in word.split("|")), wait
    with PretendGPU() as gpu:
        action(gpu, X.to(gpu.device), LABELS.to(gpu.device), None)
    assert gpu.waits == []  # it is not watched


@pytest.mark.parametrize("action", MIXED.values(), ids=MIXED)
def test_it_notes_what_a_gpu_refuses(gpu, action):
    assert ["mixes tensors of the host and of the device" in wait.what for wait in noted(gpu, action)] == [True]


@pytest.mark.parametrize("action", NOTHING.values(), ids=NOTHING)
def test_it_notes_nothing_else(gpu, action):
    assert noted(gpu, action) == []


def test_a_copy_from_pinned_memory_is_counted(gpu):
    with gpu.watch():
        there = placed(X, gpu.device)
    assert [copy.where.rpartition(":")[0] for copy in gpu.copies] == ["pretend/test_pretend.py"]
    assert there.device == gpu.device and torch.equal(there.cpu(), X)


def test_it_computes_what_a_cpu_computes(gpu):
    def run(x, y, weight):
        def loss(w, x, y):
            return F.cross_entropy((x @ w).tanh(), y)

        each = torch.vmap(torch.func.grad(loss), (None, 0, 0))(weight, x[:, None], y[:, None])
        (first,) = torch.autograd.grad(loss(weight, x, y), weight, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weight)
        return each.sum(0) + second

    weight = torch.linspace(-1, 1, 12).view(3, 4).requires_grad_()
    there = weight.detach().to(gpu.device).requires_grad_()
    with gpu.watch():
        found = run(X.to(gpu.device), LABELS.to(gpu.device), there)
    assert found.device == gpu.device and found.is_cuda
    assert torch.equal(found.cpu(), run(X, LABELS, weight))
    assert all("copies" in wait.what for wait in gpu.waits)  # those of this test
    with torch.no_grad():
        view = there[0]
        view += 1
    assert torch.equal(there.detach().cpu()[0], weight.detach()[0] + 1)


def test_a_module_goes_there_and_back(gpu):
    network = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    before = {name: t.clone() for name, t in network.state_dict().items()}
    network.to(gpu.device)
    assert {p.device for p in [*network.parameters(), *network.buffers()]} == {gpu.device}
    network(X.to(gpu.device)).sum().backward()
    assert all(p.grad.device == gpu.device for p in network.parameters())
    network.eval().cpu()
    assert all(
        torch.equal(network.state_dict()[n], t) for n, t in before.items() if "running" not in n and "num" not in n
    )
    assert all(type(t) is torch.Tensor for t in network.state_dict().values())


def test_dropout_draws_from_its_coordinates(gpu):
    def drop(x):
        with rng.seeded(3, "dropout", device=x.device):
            return F.dropout(x)

    there = X.to(gpu.device)
    with gpu.watch():
        found = drop(there)
    assert gpu.waits == [] and torch.equal(found.cpu(), drop(X))


def test_the_message_names_the_lines(gpu):
    noted(gpu, READS["item"])
    with pytest.raises(Exception, match=r"a GPU would wait, or refuse, at\n  pretend/test_pretend.py:\d+: reads a num"):
        gpu.raise_if_any()


def test_afterwards_nothing_is_pretended():
    with PretendGPU() as gpu:
        gpu.waits.clear()
    assert torch.zeros(2).device.type == "cpu" and not torch.__future__.get_overwrite_module_params_on_conversion()
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(2, device=gpu.device)
