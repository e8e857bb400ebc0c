"""However many architectures an evaluation has, none of its passes stops being compiled."""

import json
from pathlib import Path

import torch
from torch._dynamo import config
from torch._dynamo.utils import counters

from bacon_pl.cli import main
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import DistilledSet
from tests.paths import evaluation_in

ROOT = Path(__file__).parents[2]
LIMIT = 11


def test_nothing_stops_being_compiled(tmp_path, monkeypatch):
    compile_slowly = torch.compile
    # The programs are what counts, not what is done with them: without a compiler this takes seconds.
    monkeypatch.setattr(torch, "compile", lambda f, **settings: compile_slowly(f, backend="eager", **settings))
    monkeypatch.setattr("bacon_pl.networks.stateless.MOST_PROGRAMS", LIMIT)
    torch.compiler.reset()
    counters.clear()
    data = DataModule(name="digits")
    data.setup()
    DistilledSet(torch.randn(20, 1, 8, 8), torch.arange(10).repeat_interleave(2), data.meta, factor=2).save(tmp_path)
    arguments = [
        "eval", "--config", str(ROOT / "configs/digits/ipc1.yaml"), "--distilled", str(tmp_path), "--networks",
        "mlp,convnet", "--baselines", "[random, herding, whole]", "--scores", "true",
        "--evaluation.network", "ConvNet", "--evaluation.network.width", "8", "--evaluation.soft_labels", "{steps: 5}",
        "--evaluation.coreset_steps", "5", "--evaluation.epochs", "2", "--evaluation.whole_epochs", "1",
        "--evaluation.batch_size", "48", "--evaluation.num_networks", "2", "--evaluation.acceleration", "on",
        "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", "--trainer.logger", "false",
        "--trainer.default_root_dir", str(tmp_path), "--data.val_fraction", "0",
    ]  # fmt: skip
    # Not by monkeypatch, which takes settings away for good that torch keeps in a way of its own.
    with config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True):
        main(arguments)
    assert len(json.loads((evaluation_in(tmp_path) / "results.json").read_text())["runs"]) == 12
    assert counters["stats"]["unique_graphs"] > LIMIT  # so they would not have fitted all at once
    torch.compiler.reset()
