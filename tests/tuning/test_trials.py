"""Trials: sets are distilled from the images that are kept, with the trial's settings, and judged by those held out."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import bacon_pl
from bacon_pl.data import DataModule
from bacon_pl.tuning.trials import Trials, hold_out

SIZES = {"batch_real": 8, "pool_batch": 8}


@pytest.fixture
def asked(monkeypatch):
    """What a distillation and an evaluation were asked for, in this order; neither takes place."""
    found = []

    def distill(*args, **more):
        found.append((args, more))
        return "a set"

    def evaluate(*args, **more):
        found.append((args, more))
        return SimpleNamespace(per_network=[50.0, 60.0])

    monkeypatch.setattr(bacon_pl, "distill", distill)
    monkeypatch.setattr(bacon_pl, "evaluate", evaluate)
    return found


def trials():
    split = hold_out("digits", "data", 0.25, {})
    return Trials(split, SIZES, 1, Path("method"), Path("budget"), 4, seed=5)


def rows(store):
    return sorted(map(bytes, store.images.flatten(1).numpy()))


def test_sets_are_of_the_kept_images_and_judged_by_the_others(asked):
    assert trials().accuracies({}) == [50.0, 60.0]
    ((learned, *_), _), ((made, judged), _) = asked
    whole = DataModule("digits")
    for data in (learned, judged, whole):
        data.setup()
    assert made == "a set"
    assert sorted(rows(learned.train) + rows(judged.test)) == rows(whole.train)
    assert judged.test.counts.tolist() == (whole.train.counts * 0.25).round().int().tolist()
    assert rows(judged.train) == rows(learned.train)
    assert learned.meta.train_bytes == learned.train.images.numel()


def test_all_has_the_settings_of_the_trial_and_the_seed(asked):
    trials().accuracies({"model.lr": 0.5, "data.batch_real": 4})
    ((data, *args), more), (_, evaluated) = asked
    assert (data.batch_real, data.pool_batch) == (4, 8)
    assert args == [1, Path("method")] and more["budget"] == Path("budget") and more["iterations"] == 4
    assert more["settings"] == {"model.lr": 0.5, "validation.every_n_steps": 0}
    assert more["seed"] == evaluated["seed"] == 5
