"""The gradient of trajectory matching against golden numbers in float64, and its ways against each other."""

import pytest
import torch

from bacon_pl.errors import BaconError
from bacon_pl.networks import ConvNet, FlatNetwork, TorchvisionModel
from bacon_pl.objectives import Slopes, Student, label_loss, match_trajectory
from bacon_pl.objectives.trajectory import trajectory_loss

PROBLEMS = {"rgb": (3, (16, 16), 2), "gray": (1, (28, 28), 3)}
every_problem = pytest.mark.parametrize("prefix", PROBLEMS)


def close(found, wanted):
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


def problem(golden, prefix, **slopes):
    data = {key.removeprefix(f"{prefix}_"): value for key, value in golden("mtt_loss").items()}
    channels, size, depth = PROBLEMS[prefix]
    network = FlatNetwork(ConvNet(channels, size, 3, width=4, depth=depth).double())
    made = Slopes(lambda weights, x, y: label_loss(network.logits(weights, x), y), **slopes)
    batches = [row[row >= 0] for row in data["indices"]]
    return data, Student(made, batches), network


def run(way, data, student, **changed):
    given = {name: data[name] for name in ("start", "target", "images", "labels")} | {"step_size": data["lr"]}
    return match_trajectory(way, student, **(given | changed))


@every_problem
def test_a_vector_of_weights_is_in_the_published_order(golden, prefix):
    data, student, _ = problem(golden, prefix)
    path = student.path(data["start"], data["images"], data["labels"], data["lr"])
    close(torch.stack(path), data["thetas"])
    losses = [
        student.slopes.loss(w, data["images"][b], data["labels"][b])
        for w, b in zip(path, student.batches, strict=False)
    ]
    close(torch.stack(losses), data["ce"])
    close(trajectory_loss(path[-1], path[0], data["target"]), data["loss"])


@every_problem
@pytest.mark.parametrize("way", ["exact", "graph"])
def test_loss_and_gradients_are_the_published_ones(golden, prefix, way):
    data, student, _ = problem(golden, prefix)
    found = run(way, data, student)
    close(found.loss, data["loss"])
    close(found.images, data["grad_images"])
    close(found.step_size, data["grad_lr"])
    assert found.labels is None
    soft = run(way, data, student, labels=data["soft_labels"])
    close(soft.loss, data["soft_loss"])
    close(soft.images, data["soft_grad_images"])
    close(soft.labels, data["soft_grad_labels"])
    close(soft.step_size, data["soft_grad_lr"])


@every_problem
def test_two_whole_iterations(golden, prefix):
    data, student, _ = problem(golden, prefix)
    images, step_size = (data[name].clone().requires_grad_() for name in ("images", "lr"))
    optimizers = [torch.optim.SGD([images], 5, momentum=0.5), torch.optim.SGD([step_size], 1e-3, momentum=0.5)]
    losses = []
    for _ in range(2):
        found = run("exact", data, student, images=images, step_size=step_size)
        images.grad, step_size.grad = found.images, found.step_size
        for optimizer in optimizers:
            optimizer.step()
        losses.append(found.loss)
    close(torch.stack(losses), data["two_losses"])
    close(images.detach(), data["two_images"])
    close(step_size.detach(), data["two_lr"])


@every_problem
def test_tesla_is_what_its_code_computes_and_no_gradient(golden, prefix):
    data, student, _ = problem(golden, prefix)
    told = golden("tesla_grad")
    published, direct = run("tesla", data, student), run("tesla_direct", data, student)
    close(published.loss, told[f"{prefix}_tesla_loss"])
    for found, name in ((published, "tesla"), (direct, "direct")):
        close(found.images, told[f"{prefix}_{name}_grad_images"])
        close(found.step_size, told[f"{prefix}_{name}_grad_lr"])
    off = (direct.images - data["grad_images"]).abs().max() / data["grad_images"].abs().max()
    assert off > 0.2


def augmented(images, step):
    return images.flip(3) * torch.linspace(0.5, 1.5, images.shape[-1], dtype=images.dtype) + step / 10


@every_problem
def test_exact_is_graph_with_augmentation_and_tesla_is_exact_for_one_step(golden, prefix):
    data, student, _ = problem(golden, prefix)
    student = Student(student.slopes, student.batches, augmented)
    for labels in (data["labels"], data["soft_labels"]):
        exact, graph = (run(way, data, student, labels=labels) for way in ("exact", "graph"))
        for a, b in zip(exact, graph, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                close(a, b)
    one = Student(student.slopes, student.batches[:1], augmented)
    exact, direct = (run(way, data, one) for way in ("exact", "tesla_direct"))
    close(direct.images, exact.images)
    close(direct.step_size, exact.step_size)


def kept_for_backward(way, student, data):
    """Largest number of numbers that graphs hold at once."""
    held, most = {}, 0

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor
            held[id(self)] = tensor.numel()
            nonlocal most
            most = max(most, sum(held.values()))

        def __del__(self):
            held.pop(id(self), None)

    with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
        run(way, data, student)
    return most


def test_memory_does_not_grow_with_the_number_of_steps(golden):
    data, student, _ = problem(golden, "rgb")
    short, long = (Student(student.slopes, [student.batches[0]] * steps) for steps in (2, 8))
    for way in ("exact", "tesla", "tesla_direct"):
        assert kept_for_backward(way, long, data) == kept_for_backward(way, short, data)
    assert kept_for_backward("graph", long, data) > 3 * kept_for_backward("graph", short, data)


def test_a_traced_step_is_the_plain_one(golden, monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda run, **options: compile_(run, backend="aot_eager", **options))
    data, plain, _ = problem(golden, "rgb")
    _, traced, _ = problem(golden, "rgb", compiled=True)
    plain, traced = (Student(s.slopes, [s.batches[0]] * 2) for s in (plain, traced))
    found, wanted = (run("exact", data, s, labels=data["soft_labels"]) for s in (traced, plain))
    for a, b in zip(found, wanted, strict=True):
        close(a, b)


def test_what_cannot_be_matched_is_refused(golden):
    data, student, _ = problem(golden, "rgb")
    with pytest.raises(BaconError, match="unknown way to a trajectory's gradient 'exakt'.*exact"):
        run("exakt", data, student)
    with pytest.raises(BaconError, match="TorchvisionModel draws at random.*dropout"):
        FlatNetwork(TorchvisionModel(3, (32, 32), 2, name="mobilenet_v2"))
