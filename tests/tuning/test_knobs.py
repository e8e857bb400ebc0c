"""What may be tuned: how configurations say it, and that the package's own methods can be."""

import pytest

from bacon_pl import config_files
from bacon_pl.commands.settings import settings_of
from bacon_pl.errors import BaconError
from bacon_pl.tuning import SECTION, Knob, read_knobs
from bacon_pl.tuning.command import _knobs

TUNED = [name for name in config_files.names() if SECTION in config_files.layers(name)[-1].settings]


def test_ranges_and_choices():
    found = read_knobs(
        {"model.lr": {"low": 1, "high": 10.0, "log": True}, "model.factor": {"choices": [1, 2, None]}}, "here"
    )
    assert found == [Knob("model.lr", 1.0, 10.0, True), Knob("model.factor", choices=(1, 2, None))]
    lr, factor = found
    assert (lr.place(0.2), lr.place(5), lr.value(5.0)) == (None, 5.0, 5.0)
    assert (factor.place(2), factor.place(3), factor.value(2)) == (1, None, None)


@pytest.mark.parametrize(
    "given",
    [
        None,
        {},
        {"model.lr": 3},
        {"model.lr": {"low": 1}},
        {"model.lr": {"low": 2, "high": 1}},
        {"model.lr": {"low": 0, "high": 1, "log": True}},
        {"model.lr": {"low": 0, "high": 1, "step": 2}},
        {"model.lr": {"low": True, "high": 2}},
        {"model.lr": {"choices": [1]}},
        {"evaluation.lr": {"low": 1, "high": 2}},
    ],
    ids=str,
)
def test_others_are_refused(given):
    with pytest.raises(BaconError, match="here.*low"):
        read_knobs(given, "here")


@pytest.mark.parametrize("name", TUNED)
def test_a_methods_own_settings_are_among_those_it_can_have(name):
    knobs = read_knobs(config_files.layers(name)[-1].settings[SECTION], name)
    settings = settings_of("fit", ["--config=cifar10/ipc10", f"--config={name}", "--config=budgets/small"])
    for knob in knobs:
        value = settings
        for part in knob.name.split("."):
            value = value[part]
        assert knob.place(value) is not None, knob.name


def test_a_method_that_extends_another_has_its_knobs():
    found = [_knobs(config_files.find(f"methods/{method}"), method) for method in ("ncfm-sampler", "ncfm")]
    assert found[0] == found[1]


def test_all_optimizing_methods_can_be_tuned():
    assert {f"methods/{m}" for m in ("dm", "idm", "bacon", "datadam", "iid", "m3d", "ncfm")} <= set(TUNED)
