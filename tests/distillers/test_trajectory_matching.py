"""Trajectory matching: what its options do, and what must not change a result."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from bacon_pl.augment import DSA, NoAugmentation
from bacon_pl.checkpoints import Checkpoints, in_folder
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.distillers import Expansion, ExpertSettings, TrajectoryMatching
from bacon_pl.distillers.experts import Segments, drawn_expert
from bacon_pl.distillers.recognized import agreed, recognized
from bacon_pl.errors import BaconError
from bacon_pl.learners import Pretraining
from bacon_pl.selection import Start
from tests.distillers.running import small
from tests.distillers.trajectories import EXPERTS, KINDS, content, matching, run
from tests.paths import ROOT
from tests.patience import PATIENCE

every_kind = pytest.mark.parametrize("name", KINDS)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with what every kind has learned on two processes."""
    folder = tmp_path_factory.mktemp("shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    cache = str(tmp_path_factory.getbasetemp() / "cache of two")  # experts, too, are trained by two
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distillers.trajectories", folder], cwd=ROOT, text=True,
            stderr=subprocess.PIPE, stdout=subprocess.PIPE,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "BACON_CACHE": cache, "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "frames", "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    return folder


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a.keys() | b.keys())


def tensors(module):
    return {name: t for name, t in content(module).items() if isinstance(t, torch.Tensor)}


@every_kind
def test_two_processes_and_a_resumed_run_end_in_the_same_bits(tmp_path, shared, name):
    alone = tensors(run(tmp_path / "a", flags={"callbacks": [Checkpoints(2)]}, **KINDS[name]))
    assert all(t.isfinite().all() for t in alone.values())
    assert same(alone, torch.load(shared / f"{name}.pt"))
    assert same(alone, tensors(run(tmp_path / "b", ckpt_path=in_folder(tmp_path / "a")[1], **KINDS[name])))


def test_another_seed_ends_in_other_bits(tmp_path):
    assert not torch.equal(run(tmp_path / "a", 1).images, run(tmp_path / "b", 1, seed=1).images)


def test_what_is_learned_is_in_the_set(tmp_path):
    made = run(tmp_path / "a")
    found = DistilledSet.load(tmp_path / "a")
    assert found.step_size == pytest.approx(float(made.synthetic.step_size.detach())) and found.step_size != 0.05
    assert found.soft_labels is None
    assert torch.equal(found.images, made.images.detach())
    datm = run(tmp_path / "b", **KINDS["datm"])
    found = DistilledSet.load(tmp_path / "b")
    assert found.label_kind == "logits" and torch.equal(found.soft_labels, datm.synthetic.soft_labels.detach().half())
    tiles = run(tmp_path / "c", **KINDS["tiles"])
    found = DistilledSet.load(tmp_path / "c")
    assert found.soft_labels.shape == (10, 4, 10)
    assert torch.equal(found.soft_labels[:, 2], tiles.synthetic.soft_labels[20:30].detach().half())


def test_averaged_images_are_the_set_and_follow_the_others(tmp_path):
    whole = run(tmp_path / "a", 1, average=0.9)
    raw, start = run(tmp_path / "b", 1).images.detach(), run(tmp_path / "c", 1, lr=1e-30).images.detach()
    assert torch.equal(whole.images, raw)
    torch.testing.assert_close(DistilledSet.load(tmp_path / "a").images, 0.9 * start + 0.1 * raw)


def test_iterations_above_the_threshold_change_nothing(tmp_path):
    kept, moved = run(tmp_path / "a", threshold=1e-9), run(tmp_path / "b", threshold=1e9)
    start = run(tmp_path / "c", lr=1e-30).images
    assert torch.equal(kept.images, start) and not torch.equal(moved.images, start)
    assert float(kept.synthetic.step_size.detach()) == pytest.approx(0.05)


def test_the_step_size_keeps_above_its_bound(tmp_path):
    # Far too long steps: the gradient shortens them by far too much.
    module = run(tmp_path, 1, step_size=1.0, lr_step_size=1e6, min_step_size=0.04)
    assert float(module.synthetic.step_size.detach()) == pytest.approx(0.04)


def test_ways_agree_where_they_should(tmp_path):
    def images(way, **more):
        return run(tmp_path / way, 2, way=way, flags={"precision": "64-true"}, lr=1.0, **more).images.detach()

    exact = images("exact")
    torch.testing.assert_close(exact, images("graph"), rtol=0, atol=1e-10)
    assert (exact - images("tesla_direct")).abs().max() > 1e-8
    one = images("exact", inner_steps=1)
    torch.testing.assert_close(one, images("tesla_direct", inner_steps=1), rtol=0, atol=1e-10)


def test_a_budget_shortens_experts_and_students(tmp_path):
    most = Pretraining(count=2, epochs=2, epoch_steps=2, student_steps=2, student_batch=4)
    module = matching(pretraining=most, inner_steps=6, max_start=3)
    assert (module.experts.count, module.experts.epochs, module.experts.epoch_steps) == (2, 2, 2)
    assert module.steps == 2 and float(module.synthetic.step_size.detach()) == pytest.approx(0.15)
    assert module.segments == Segments(0, 1, 2)
    module = run(tmp_path, pretraining=most)
    assert [len(part) for part in module._batches(0, 0)] == [2, 4]
    assert module._experts[0].trained.snapshots == (0, 2)


def test_every_expert_comes_once_before_the_next_round_and_every_image_once_a_pass(tmp_path):
    order = [drawn_expert(5, 3, t, place, 2) for t in range(10) for place in range(2)]
    assert all(sorted(order[i : i + 5]) == list(range(5)) for i in range(0, 20, 5))
    assert order[:5] != order[5:10]
    module = run(tmp_path, 1, inner_batch=4, inner_steps=6)
    batches = module._batches(0, 0)
    assert [len(part) for part in batches] == [2, 4, 4, 2, 4, 4]
    assert sorted(torch.cat(batches[:3]).tolist()) == sorted(torch.cat(batches[3:]).tolist()) == list(range(10))


def test_experts_of_one_iteration_are_averaged(tmp_path):
    def found(together):
        """Of the same segment of the same expert, so that all students are alike."""
        experts = ExpertSettings(**{**EXPERTS, "count": 1})
        module = run(
            tmp_path / str(together), 1, experts_together=together, experts=experts, max_start=1,
            augment=NoAugmentation(), labels="learned", flags={"precision": "64-true"},
        )  # fmt: skip
        synthetic = module.synthetic
        loss = module.trainer.callback_metrics["loss"]
        return [loss, *(learned.grad for learned in (module.images, synthetic.step_size, synthetic.soft_labels))]

    for alone, averaged in zip(found(1), found(3), strict=True):
        assert alone.abs().max() > 0
        torch.testing.assert_close(averaged, alone)


def test_learned_labels_have_a_momentum_of_their_own(tmp_path):
    module = run(tmp_path, 1, labels="learned", momentum=0.25)
    assert [o.param_groups[0]["momentum"] for o in module.trainer.optimizers] == [0.25, 0.25, 0.9]


def test_labels_of_an_expert_are_those_of_its_target(tmp_path):
    module = run(tmp_path, 1, way="tesla", labels="expert", lr=1e-30)
    number, epoch = module._drawn(0, 0)
    images = module.synthetic.expanded()[0].detach()
    told = module._experts[0].logits(number, epoch + module.expert_epochs, images)
    torch.testing.assert_close(module.synthetic.soft_labels.detach(), told)


def test_start_epochs():
    segments = Segments(1, 10, 2, Expansion(3, 70))
    assert [segments.bound(t) for t in (0, 9, 10, 69, 70, 1000)] == [3, 3, 4, 9, 10, 10]
    assert {segments.drawn(0, t, 0) for t in range(9)} == {1, 2}
    assert {segments.drawn(0, t, 0) for t in range(100, 300)} == set(range(1, 10))
    assert segments.epochs == list(range(1, 12))
    assert Segments(0, 2, 5).epochs == [0, 1, 5, 6]
    assert segments.within(4) == Segments(1, 3, 2, Expansion(3, 70))
    assert segments.within(2) == Segments(0, 1, 2, Expansion(1, 70))


def test_recognized_images_come_first(tmp_path):
    data = run(tmp_path, 1).data.train
    wrong = torch.nn.functional.one_hot((data.labels + 1) % 10, 10)
    right = torch.nn.functional.one_hot(data.labels, 10)
    few = data.labels.new_zeros(len(data), dtype=torch.bool)
    few[[int((data.labels == c).nonzero()[5]) for c in range(10)]] = True  # one image of each class
    first, second = torch.where(few[:, None], right, wrong), right
    chosen = recognized(data, 3, lambda k: (first, second)[k], 2, 0, "test")
    assert all(len(set(row)) == 3 for row in chosen.tolist()) and bool(few[chosen[:, 0]].all())
    assert torch.equal(data.labels[chosen], torch.arange(10)[:, None].expand(10, 3))
    assert recognized(data, 3, lambda k: wrong, 2, 0, "test").shape == (10, 3)
    logits = torch.tensor([[[1.0, 0], [0, 2]], [[3.0, 0], [4, 0]]])
    assert agreed(logits, torch.tensor([0, 1])).tolist() == [[2, 0], [0, 2]]
    assert agreed(logits, torch.tensor([1, 0])).tolist() == [[2, 0], [4, 0]]
    one, other = (recognized(data, 3, lambda _: right, 1, seed, "test") for seed in (0, 1))
    assert not torch.equal(one, other)


def test_a_matched_start_has_the_labels_on_which_all_experts_agree(tmp_path):
    module = run(tmp_path, 1, matched_start=True, labels="learned", average=0.5, lr=1e-30, lr_labels=1e-30)
    images, labels = module.synthetic.expanded()
    told = torch.stack([module._experts[0].logits(number, 4, images.detach()) for number in range(3)])
    torch.testing.assert_close(module.synthetic.soft_labels.detach(), agreed(told, labels))
    # The average begins at the chosen images, too.
    torch.testing.assert_close(module.synthetic.average, module.images.detach(), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"way": "exactly"}, "unknown --model.way 'exactly'"),
        ({"labels": "soft"}, "unknown --model.labels 'soft'"),
        ({"inner_steps": 0}, "--model.inner_steps must be at least 1"),
        ({"inner_batch": 0}, "--model.inner_batch must be at least 1"),
        ({"lr": 0.0}, "--model.lr must be positive"),
        ({"lr_step_size": -1.0}, "lr_step_size must be zero or positive"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\)"),
        ({"step_size": 1e-5}, "below --model.min_step_size"),
        ({"max_start": 4}, "within the experts' --model.experts.epochs: got 0, 4 and 2 with 4"),
        ({"min_start": 3}, "students start from epochs"),
        ({"expansion": Expansion(4, 10)}, "expansion.first must be above --model.min_start"),
        ({"matched_start": True, "start": Start("noise")}, "leave it or --model.start out"),
        ({"average": 1.0}, "decay of averaged images must be between 0 and 1"),
        ({"threshold": 0.0}, "threshold must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, says):
    with pytest.raises(BaconError, match=says):
        matching(**settings)


def test_settings_that_make_no_sense_are_refused():
    for made, says in (
        (lambda: ExpertSettings(epoch_steps=0), "experts.epoch_steps must be at least 1"),
        (lambda: ExpertSettings(storage="float8"), "experts.storage 'float8'"),
        (lambda: Expansion(0, 1), "expansion.first must be at least 1"),
    ):
        with pytest.raises(BaconError, match=says):
            made()


def test_a_checkpoint_makes_the_module(tmp_path):
    made = run(tmp_path, 2, flags={"callbacks": [Checkpoints(2)]}, **KINDS["ftd"] | {"labels": "learned"})
    found = TrajectoryMatching.load_from_checkpoint(in_folder(tmp_path)[-1], network=small)
    assert same(tensors(made), tensors(found))
    assert found.experts.flat == made.experts.flat and found.experts.storage == "bfloat16"
    assert isinstance(found.augment, DSA) and found.labels == "learned"
