"""Schedules of the images' learning rate: torch's own rules, in runs that resume."""

import math

import lightning.pytorch as pl
import pytest
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from bacon_pl.checkpoints import Checkpoints, in_folder
from bacon_pl.distillers import schedules
from bacon_pl.distillers.schedules import Plateau, scheduled
from bacon_pl.errors import BaconError
from tests.distillers.running import distill, matching

OPTIMIZERS = {
    "sgd": {"lr": 0.2},
    "adamw": {"optimizer": "adamw", "lr": 0.01, "weight_decay": 5e-4, "space": "pixels"},
}


class Rates(pl.Callback):
    """Records the learning rate of every iteration."""

    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, *_):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def images():
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.4)


def test_plateau_is_torchs_rule_a_little_later():
    generator = torch.Generator().manual_seed(0)
    losses = 3 * 0.999 ** torch.arange(4000).clamp(max=700) + 0.01 * torch.rand(4000, generator=generator)
    theirs, ours = images(), images()
    rule, late = ReduceLROnPlateau(theirs, factor=0.5, patience=500, threshold=1e-4), Plateau(ours)
    looks = 0
    for number, loss in enumerate(losses, start=1):
        rule.step(loss)
        late.observe(loss)
        late.step()
        if number % schedules.LOOK_EVERY == 0:
            looks += 1
            assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    assert looks == 80 and ours.param_groups[0]["lr"] < 0.2


@pytest.mark.parametrize("stop", [20, 50, 730])
def test_plateau_goes_on_from_its_state(stop):
    losses = 1 + torch.rand(1200, generator=torch.Generator().manual_seed(1)) + torch.arange(1200) / 100
    whole, half, rest = images(), images(), images()
    one = Plateau(whole)
    for loss in losses:
        one.observe(loss)
        one.step()
    first, second = Plateau(half), Plateau(rest)
    for loss in losses[:stop]:
        first.observe(loss)
        first.step()
    rest.load_state_dict(half.state_dict())
    second.load_state_dict(first.state_dict())
    for loss in losses[stop:]:
        second.observe(loss)
        second.step()
    assert whole.param_groups[0]["lr"] == rest.param_groups[0]["lr"] < 0.4
    assert one.state_dict() == second.state_dict()


def test_plateau_sees_the_logged_loss(tmp_path, monkeypatch):
    seen, logged = [], []
    monkeypatch.setattr(Plateau, "observe", lambda self, loss: seen.append(loss.item()))

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            logged.append(trainer.callback_metrics["loss"].item())

    distill(tmp_path, 4, schedule="plateau", flags={"callbacks": [Record()]})
    assert seen == pytest.approx(logged) and len(set(seen)) == 4


@pytest.mark.parametrize("settings", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_resumed_runs_end_in_the_same_bits(tmp_path, settings, schedule, monkeypatch):
    monkeypatch.setattr(schedules, "LOOK_EVERY", 3)
    monkeypatch.setattr(Plateau.__init__, "__defaults__", (0.5, 0, 0.5))  # a loss must be half the best one
    settings = {**settings, "schedule": schedule}
    rates, again = Rates(), Rates()
    whole = distill(tmp_path / "a", 6, flags={"callbacks": [Checkpoints(2), rates]}, **settings)
    path = in_folder(tmp_path / "a")[1]
    assert path.stem.endswith("=4")
    resumed = distill(tmp_path / "b", 6, ckpt_path=path, flags={"callbacks": [again]}, **settings)
    assert torch.equal(whole.images, resumed.images)
    assert rates.rates[4:] == again.rates and len(set(rates.rates)) > 1


def test_cosine_ends_at_zero_and_the_step_per_class_stays_exact(tmp_path):
    found = {}
    for per_class in (False, True):
        rates = Rates()
        settings = {"lr": 0.2, "momentum": 0.5, "schedule": "cosine", "per_class_steps": per_class}
        module = distill(tmp_path, 5, flags={"callbacks": [rates]}, **settings)
        found[per_class] = rates.rates
        assert module.trainer.optimizers[0].param_groups[0]["lr"] == 0
    wanted = [0.2 * (1 + math.cos(math.pi * t / 5)) / 2 for t in range(5)]
    assert found[False] == pytest.approx(wanted)
    assert found[True] == pytest.approx([rate * (1 - 0.5**10) / 0.5 for rate in wanted])


def test_without_a_schedule_there_is_none():
    optimizer = images()
    assert scheduled(optimizer, None, 10) is optimizer
    assert matching().schedule is None


def test_cosine_needs_the_length_of_the_run(tmp_path):
    with pytest.raises(BaconError, match="--model.schedule cosine ends with the run"):
        distill(tmp_path, -1, schedule="cosine")


def test_an_unknown_schedule_is_named():
    with pytest.raises(BaconError, match="Did you mean 'plateau'"):
        matching(schedule="platau")
