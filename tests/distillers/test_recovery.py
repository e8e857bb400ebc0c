"""Recovery: whose images are recovered how, on any number of processes, and what it refuses."""

import math
from functools import partial

import pytest
import torch

from bacon_pl.augment import Views
from bacon_pl.checkpoints import Checkpoints, in_folder
from bacon_pl.commands.settings import settings_of
from bacon_pl.distillers import Recovery, Squeeze
from bacon_pl.distillers.recovery import batches
from bacon_pl.distillers.squeeze import Squeezed
from bacon_pl.errors import BaconError
from bacon_pl.learners import Pretraining, trained_networks
from bacon_pl.networks import ConvNet, ModifiedResNet18
from bacon_pl.objectives.recovery import image_l2, tv_l2
from bacon_pl.selection import Start
from tests.distillers.running import digits, distill

BATCHED = partial(ConvNet, width=6, depth=2, norm="batch")
TEACHER = Squeeze(epochs=2, batch_size=64, network=BATCHED, augment=None)
VIEWS = Views(roll=(-1, 1), curriculum="cosine")


def recovery(**settings):
    return Recovery(**{"ipc": 2, "batch_size": 10, "iterations": 6, "teacher": TEACHER, "views": VIEWS, **settings})


def recover(root, steps=6, *, data=None, flags=None, ckpt_path=None, **settings):
    return distill(root, steps, data=data, flags=flags, ckpt_path=ckpt_path, module=recovery(**settings))


def by_hand(steps, total, seed=0, tv=0.0, l2=0.0):
    """The images after some of the iterations, each batch optimized by itself as the paper does."""
    data = digits()
    data.setup()
    network = BATCHED(1, (8, 8), 10)
    recipe = TEACHER.recipe(BATCHED, "off")
    network.load_state_dict(trained_networks(data.train, data.meta, recipe).state(0))
    teacher = Squeezed(network.double(), 10.0)
    module = recovery(seed=seed)
    module.synthetic.initialize(data.train, data.meta, seed)  # noise is drawn before a run's precision applies
    images = module.images.detach().double()
    low, high = (data.meta.normalize(torch.full((1, 1, 1), v, dtype=torch.uint8), torch.float64) for v in (0, 255))
    for k, rows in enumerate(batches(10, 2, 10)):
        x = torch.nn.Parameter(images[rows])
        adam = torch.optim.Adam([x], betas=(0.5, 0.9))
        for t in range(steps):
            adam.param_groups[0]["lr"] = 0.25 * (1 + math.cos(math.pi * t / total)) / 2
            shown = VIEWS.draw((8, 8), t / total, seed, "view", k, t)(x)
            logits, gap = teacher(shown)
            loss = torch.nn.functional.cross_entropy(logits, rows // 2) + 0.01 * gap
            loss = loss + tv * tv_l2(shown) + l2 * image_l2(shown)
            adam.zero_grad()
            loss.backward()
            adam.step()
            x.data.clamp_(low, high)
        images[rows] = x.detach()
    return images


@pytest.mark.parametrize("extra", [{}, {"tv_weight": 0.01, "l2_weight": 0.1}])
def test_it_is_every_batch_by_itself(tmp_path, extra):
    module = recover(tmp_path, 4, flags={"precision": "64-true"}, iterations=5, **extra)
    expected = by_hand(4, 4, tv=extra.get("tv_weight", 0.0), l2=extra.get("l2_weight", 0.0))
    assert torch.equal(module.images.detach(), expected)


def test_it_ends_by_itself_with_valid_pixels_and_tells_what_the_teacher_knows(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("bacon_pl.distillers.recovery.rank_zero_info", told.append)
    module = recover(tmp_path, 100, iterations=40, views=Views(min_area=None, flip=False, roll=(0, 0)))
    assert module.iteration == 40
    pixels = module.meta.pixels(module.images.detach())
    assert pixels.min() > -1e-6 and pixels.max() < 1 + 1e-6
    assert module.images.detach().std() > 0.1
    (sentence,) = told
    share = float(module.trainer.callback_metrics["teacher/images"])
    assert sentence == f"The teacher recognizes {share:.1f} % of the recovered images."
    logits, _ = module._teacher[0](module.images.detach())
    assert share == pytest.approx(100 * (logits.argmax(1) == module.synthetic.labels).float().mean())
    assert share > 50  # chance is 10
    first, last = recover(tmp_path / "a", 1, iterations=40), module
    metrics = [m.trainer.callback_metrics for m in (first, last)]
    assert {"loss", "loss/ce", "loss/statistics", "teacher/views"} <= set(metrics[0])
    assert metrics[1]["loss"] < metrics[0]["loss"]


def test_a_resumed_run_ends_in_the_same_bits_and_another_seed_in_others(tmp_path):
    whole = recover(tmp_path / "a", flags={"callbacks": [Checkpoints(3)]})
    resumed = recover(tmp_path / "b", ckpt_path=in_folder(tmp_path / "a")[1])
    assert torch.equal(whole.images, resumed.images)
    assert not torch.equal(whole.images, recover(tmp_path / "c", seed=1).images)
    other = Squeeze(epochs=1, batch_size=64, network=BATCHED, augment=None)
    with pytest.raises(BaconError, match=r"--model.teacher.epochs was 2, now 1"):
        recover(tmp_path / "d", 9, ckpt_path=in_folder(tmp_path / "a")[1], teacher=other, iterations=9)


@pytest.mark.timeout(300)
def test_two_processes_end_in_the_same_bits(tmp_path):
    alone = recover(tmp_path / "a", 4, ipc=3).images
    shared = recover(tmp_path / "b", 4, ipc=3, flags={"devices": 2, "strategy": "ddp_fork"}).images
    assert torch.equal(alone, shared)


def test_what_cannot_be_recovered_is_refused(tmp_path):
    with pytest.raises(BaconError, match="the teacher, ConvNet, has no batch norm"):
        recover(tmp_path / "a", teacher=Squeeze(network=partial(ConvNet, width=4, depth=1)))
    with pytest.raises(BaconError, match="clamps the pixels .* leave --data.whitening out"):
        recover(tmp_path / "b", data={"whitening": "zca"})
    assert not any((tmp_path / name / "distilled.safetensors").exists() for name in "ab")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"factor": 2}, "set --model.factor 1"),
        ({"iterations": 0}, "--model.iterations must be at least 1"),
        ({"lr": 0.0}, "--model.lr must be positive"),
        ({"betas": (0.5, 1.0)}, "--model.betas must be two numbers"),
        ({"statistics_weight": -1.0}, "--model.statistics_weight must be zero or positive"),
        ({"first_weight": math.inf}, "--model.first_weight"),
        ({"batch_size": 0}, "--model.batch_size"),
    ],
)
def test_odd_settings_are_refused(settings, sentence):
    with pytest.raises(BaconError, match=sentence):
        Recovery(**settings)
    with pytest.raises(BaconError, match=r"--model.teacher.count must be 1"):
        Squeeze(count=2)


def test_it_may_start_from_real_images(tmp_path):
    start = Start("whole")
    assert not torch.equal(recover(tmp_path / "a", 1, start=start).images, recover(tmp_path / "b", 1).images)


def test_a_budget_limits_the_teacher_and_names_it():
    module = Recovery(pretraining=Pretraining(epochs=3, network=ConvNet, teacher=BATCHED))
    assert (module.teacher.epochs, module.teacher.network) == (3, BATCHED)
    kept = Recovery(pretraining=Pretraining(epochs=500, network=ConvNet)).teacher
    assert (kept.epochs, kept.network) == (200, ModifiedResNet18)


PUBLISHED = {  # iterations, lr, weight of the statistics, smallest crop, curriculum, flip, roll
    ("sre2l", "cifar100"): (1000, 0.25, 0.01, None, None, False, [0, 4]),
    ("sre2l", "cifar10"): (1000, 0.25, 0.01, None, None, False, [0, 4]),
    ("sre2l", "tiny_imagenet"): (4000, 0.1, 1.0, 0.08, None, True, [-4, 4]),
    ("cda", "cifar100"): (4000, 0.25, 0.01, 0.08, "cosine", True, [0, 4]),
    ("cda", "tiny_imagenet"): (4000, 0.4, 0.05, 0.08, "cosine", True, [0, 4]),
    ("cda", "mnist"): (4000, 0.25, 0.01, 0.08, "cosine", False, [0, 4]),
}


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
@pytest.mark.parametrize(("method", "name"), PUBLISHED)
def test_configurations_are_the_papers_frames(method, name):
    configs = [f"--config={name}/ipc10", f"--config=methods/{method}"]
    model = settings_of("fit", configs)["model"]
    views, teacher = model["views"], model["teacher"]
    found = model["iterations"], model["lr"], model["statistics_weight"]
    assert (*found, *(views.get(key) for key in ("min_area", "curriculum", "flip", "roll"))) == PUBLISHED[method, name]
    assert (model["factor"], model["ipc"], model["start"]["images"], model["method"]) == (1, 10, "noise", method)
    assert teacher["network"]["class_path"].endswith("ModifiedResNet18")
    trained = (50, 256, 0.2, 1e-4) if name == "tiny_imagenet" else (200, 128, 0.1, 5e-4)
    assert tuple(teacher[key] for key in ("epochs", "batch_size", "lr", "weight_decay")) == trained
    if name == "tiny_imagenet":
        assert teacher["augment"]["class_path"].endswith("ResizedCrop") and teacher["warmup"] == 0.1
    else:
        assert teacher["augment"]["init_args"]["groups"] == (["crop"] if name == "mnist" else ["crop", "flip"])
    small = settings_of("fit", [*configs, "--config=budgets/small"])
    assert small["trainer"]["max_steps"] == 200
    assert small["model"]["pretraining"]["teacher"]["init_args"]["norm"] == "batch"
