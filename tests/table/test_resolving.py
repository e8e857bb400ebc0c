"""``bacon table`` resolves its plan once for every cell, says so, and supports any family."""

import json
import re

import pytest

from bacon_pl.cli import main
from bacon_pl.commands.families import DEFAULT, class_path
from bacon_pl.commands.settings import settings_of
from bacon_pl.config_files import folder
from bacon_pl.errors import BaconError
from bacon_pl.table import Table, command
from bacon_pl.table.options import DEFAULT_METHODS
from bacon_pl.table.plan import budget_file, config_folder, of_seed, overlays, record

GIVEN = ["--datasets", "digits", "--ipcs", "1", "--budget", "small"]


@pytest.fixture(autouse=True)
def _nothing_is_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "run_all", lambda *_: None)


def test_settings_are_resolved_once_a_cell_and_said_so(capsys):
    asked = []

    def settings(name, args):
        asked.append((name, args))
        return settings_of(name, args)

    Table([*GIVEN, "--methods", "dm,idm", "--repeats", "3"], settings).run()
    out = capsys.readouterr().out
    assert out.startswith("resolving the settings of 2 cells …\n") and "6 runs, 0 of them there" in out
    assert [name for name, _ in asked] == ["fit", "eval"] * 2


def test_the_record_of_another_seed_differs_in_the_seed_alone():
    def resolved(seed):
        args = ["--config", "digits/ipc1", "--seed_everything", str(seed), "--trainer.default_root_dir", f"run{seed}"]
        return record(settings_of, {"fit": args, "eval": [*args, "--distilled", f"run{seed}"]})[0]

    assert of_seed(resolved(0), 5) == resolved(5) != resolved(0)


def test_a_family_for_every_run_reaches_the_distillation_alone(tmp_path, monkeypatch):
    jobs = []

    monkeypatch.setattr(command, "run_all", lambda all_jobs, *_: jobs.extend(all_jobs))
    for given in (["--model", DEFAULT.__name__], [f"--model.class_path={DEFAULT.__name__}"]):
        main(["table", *GIVEN, "--methods", "idm", "--repeats", "1", "--out", str(tmp_path / "out"), *given])
    assert len(jobs) == 2
    for job in jobs:
        assert any(DEFAULT.__name__ in word for word in job.arguments["fit"])
        assert not any(DEFAULT.__name__ in word for word in job.arguments["eval"])
        assert job.record["model"]["class_path"] == class_path(DEFAULT)
        json.dumps(job.record)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--model", "Selection"], "--model Selection would run Selection in the row of 'idm'"),
        (["--model.class_path=Selection"], "--model.class_path Selection would run Selection in the row of 'idm'"),
        (["--config", "mine.yaml"], "--config mine.yaml would run Selection in the row of 'idm'"),
        (["--config", "methods/dm"], "two methods are given, '.*idm.yaml' and 'methods/dm'"),
    ],
)
def test_another_family_than_the_rows_is_refused(tmp_path, capsys, given, said):
    (tmp_path / "mine.yaml").write_text("model: {class_path: Selection, rule: drawn}\n")
    with pytest.raises(SystemExit) as end:
        main(["table", *GIVEN, "--methods", "idm", "--repeats", "1", "--out", "out", *given])
    assert end.value.code == 2
    assert re.search(said, capsys.readouterr().err) and not (tmp_path / "out").exists()


def test_methods_and_budgets_are_names_of_configurations_or_files(tmp_path):
    configs = config_folder(None)
    assert configs == folder()
    found = overlays(["idm", "methods/dm", "ablation/no-ce"], configs)
    assert list(found) == ["idm", "dm", "no-ce"] and all(path.is_file() for path in found.values())
    assert len(overlays(["ablation"], configs)) > 5
    assert budget_file("small", configs) == budget_file("budgets/small", configs) == configs / "budgets/small.yaml"
    (tmp_path / "small").write_text("trainer: {max_steps: 1}")
    assert budget_file("small", configs).resolve() == tmp_path / "small"
    with pytest.raises(BaconError, match="unknown method 'dmm'.*Did you mean 'dm'"):
        overlays(["dmm"], configs)


def test_the_default_methods_are_there():
    assert overlays(DEFAULT_METHODS.split(","), config_folder(None))
