"""What several processes log: the numbers of one, wherever the classes or batches were computed."""

import lightning.pytorch as pl
import pytest
import torch

from bacon_pl.distillers import GradientMatching
from tests.distillers.running import distill, small
from tests.distillers.test_pairs import NCFM_FRAME
from tests.distillers.test_recovery import recover


class Note(pl.Callback):
    """Writes down what the first process has logged, since that of forked ones is lost."""

    def __init__(self, path):
        self.path = path

    def on_train_end(self, trainer, pl_module):
        if trainer.is_global_zero:
            kept = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("loss", "teacher"))}
            torch.save(kept, self.path)


KINDS = {
    "distribution": lambda root, flags: distill(root, 1, flags=flags),
    "calibration": lambda root, flags: distill(root, 1, flags=flags, **NCFM_FRAME),
    "gradient": lambda root, flags: distill(root, 1, flags=flags, module=GradientMatching(ipc=1, network=small)),
    "recovery": lambda root, flags: recover(root, 1, ipc=3, flags=flags),
}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_two_processes_log_the_terms_of_one(tmp_path, kind):
    kind(tmp_path / "a", {"callbacks": [Note(tmp_path / "one")]})
    kind(tmp_path / "b", {"callbacks": [Note(tmp_path / "two")], "devices": 2, "strategy": "ddp_fork"})
    alone = torch.load(tmp_path / "one")
    assert "loss" in alone and torch.load(tmp_path / "two") == pytest.approx(alone, rel=1e-5)
