"""What may be tuned: how configurations say it, and that the package's own methods can be."""

import pytest
import yaml

from bacon_pl import config_files
from bacon_pl.commands.arguments import CommandLine
from bacon_pl.commands.settings import settings_of
from bacon_pl.errors import BaconError
from bacon_pl.settings_text import value_at
from bacon_pl.table.plan import knobs_of
from bacon_pl.tuning import SECTION, Knob, read_knobs
from bacon_pl.tuning.checks import fitting, own_places
from bacon_pl.tuning.shared_study import points

TUNED = [name for name in config_files.names() if SECTION in config_files.layers(name)[-1].settings]

SMALL = config_files.find("budgets/small")


def _knobs(file, method, dataset, ipc, budget=SMALL):
    return read_knobs(knobs_of(file, dataset, ipc, budget), f"the configuration of {method}")


def test_ranges_and_choices():
    found = read_knobs(
        {"model.lr": {"low": 1, "high": 10.0, "log": True}, "model.factor": {"choices": [1, 2, None]}}, "here"
    )
    assert found == [Knob("model.lr", 1.0, 10.0, True), Knob("model.factor", choices=(1, 2, None))]
    lr, factor = found
    assert (lr.place(0.2), lr.place(5), lr.value(5.0)) == (None, 5.0, 5.0)
    assert (factor.place(2), factor.place(3), factor.value(2)) == (1, None, None)


@pytest.mark.parametrize("log", [False, True])
def test_points_are_spread_evenly_and_follow_the_seed(log):
    pytest.importorskip("optuna", reason="the list is Optuna's")
    knob = Knob("model.lr", 1e-4, 1.0, log)

    def found(count, seed):
        return [trial.params["model.lr"] for trial in points([knob], {"model.lr": 0.1}, count, seed)]

    first = found(33, 0)
    assert first[0] == 0.1
    assert first[:5] == found(5, 0) != found(5, 1)
    below = sum(value < (1e-2 if log else 0.5) for value in first[1:])  # the middle of ratios, or of differences
    assert 12 <= below <= 20


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


@pytest.mark.parametrize("schedule", ["cifar10/ipc1", "cifar10/ipc10"])
@pytest.mark.parametrize("name", TUNED)
def test_a_methods_own_settings_are_among_those_it_can_have(name, schedule):
    if (name, schedule) == ("methods/iid-dm", "cifar10/ipc1"):
        pytest.skip("IID needs more than one image of a class, tiles counted")
    dataset, ipc = schedule.split("/ipc")
    knobs = _knobs(config_files.find(name), name, dataset, int(ipc))
    settings = settings_of("fit", [f"--config={schedule}", f"--config={name}", "--config=budgets/small"])
    assert own_places(knobs, settings, SMALL, (dataset, int(ipc), [name])).keys() == {knob.name for knob in knobs}


@pytest.mark.parametrize("budget", ["small", "full"])
@pytest.mark.parametrize("name", TUNED)
def test_so_are_those_that_configurations_give_for_any_data(name, budget):
    file, limits = config_files.find(name), config_files.find(f"budgets/{budget}")
    for schedule in config_files.names():
        dataset, _, ipc = schedule.partition("/ipc")
        if not ipc or (name, schedule) == ("methods/iid", "digits/ipc1"):  # the latter is refused: whole images
            continue
        line = CommandLine([f"--config={part}" for part in (schedule, name, f"budgets/{budget}")])
        for knob in _knobs(file, name, dataset, int(ipc), limits):
            section, _, rest = knob.name.partition(".")
            if (value := value_at(line.section(section), rest)) is not None:
                assert knob.place(value) is not None, (schedule, knob.name, value)


def test_tiles_that_are_too_many_for_the_images_are_left_out():
    knobs = [Knob("model.factor", choices=(1, 2, 3, 4, 6)), Knob("model.lr", 0.1, 1.0)]
    assert fitting(knobs, (8, 8)) == [Knob("model.factor", choices=(1, 2, 3, 4)), knobs[1]]
    assert fitting(knobs, (28, 28))[0].choices == (1, 2, 3, 4, 6) == fitting(knobs, None)[0].choices


def test_a_method_that_extends_another_has_its_knobs():
    found = [_knobs(config_files.find(f"methods/{method}"), method, "mnist", 10) for method in ("ncfm-sampler", "ncfm")]
    assert found[0] == found[1]


def test_a_files_knobs_replace_those_below_it_and_those_for_the_data_add_to_them(tmp_path):
    rate, tiles = {"low": 0.1, "high": 1.0}, {"choices": [1, 2]}
    more = {"ipc1": {"tune": {"model.factor": {"choices": [1, 2, 6]}}}, "mnist": {"tune": {"model.momentum": rate}}}
    below = {"extends": "methods/idm", "tune": {"model.lr": rate, "model.factor": tiles}, "for": more}
    (tmp_path / "below.yaml").write_text(yaml.safe_dump(below))
    (tmp_path / "above.yaml").write_text(yaml.safe_dump({"extends": "below.yaml", "tune": {"model.lr": rate}}))

    def knobs(file, dataset, ipc):
        return {knob.name: knob.choices for knob in _knobs(tmp_path / file, file, dataset, ipc)}

    assert knobs("below.yaml", "cifar10", 10) == {"model.lr": (), "model.factor": (1, 2)}
    assert knobs("below.yaml", "cifar10", 1) == {"model.lr": (), "model.factor": (1, 2, 6)}
    assert knobs("below.yaml", "mnist", 10) == {"model.lr": (), "model.factor": (1, 2), "model.momentum": ()}
    assert knobs("above.yaml", "mnist", 1) == {"model.lr": ()}


def test_knobs_for_a_budget_are_those_of_what_it_extends_too(tmp_path):
    for_small = {"budgets/small": {"tune": {"model.factor": {"choices": [1, 2, 4]}}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": "methods/idm", "for": for_small}))
    choices = {
        budget: next(
            knob.choices
            for knob in _knobs(tmp_path / "mine.yaml", "mine", "mnist", 10, config_files.find(f"budgets/{budget}"))
            if knob.name == "model.factor"
        )
        for budget in ("small", "medium", "full")
    }
    assert choices == {"small": (1, 2, 4), "medium": (1, 2, 4), "full": (1, 2, 3)}


@pytest.mark.parametrize(
    "name", ["dm", "idm", "bacon", "datadam", "iid", "m3d", "ncfm", "best", "idm+bacon", "dm+bacon"]
)
def test_all_methods_may_have_the_same_tiles_at_one_image_per_class(name):
    knobs = _knobs(config_files.find(f"methods/{name}"), name, "cifar10", 1)
    choices = (2, 3, 4, 6) if name == "iid" else (1, 2, 3, 4, 6)  # IID needs more than one image of a class
    assert Knob("model.factor", choices=choices) in knobs


def test_a_section_for_the_data_must_have_knobs_by_name(tmp_path):
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"extends": "methods/idm", "for": {"ipc1": {"tune": 3}}}))
    with pytest.raises(BaconError, match="names nothing to tune"):
        _knobs(tmp_path / "mine.yaml", "mine", "mnist", 1)


def test_all_optimizing_methods_can_be_tuned():
    assert {f"methods/{m}" for m in ("dm", "idm", "bacon", "datadam", "iid", "m3d", "ncfm")} <= set(TUNED)
