"""No iteration of any method makes a GPU wait: the lines at which one would are named, on a CPU."""

from functools import partial
from typing import ClassVar

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from bacon_pl import pretend
from bacon_pl.distillers import Distiller, GradientMatching, Selection
from bacon_pl.distillers.pixel_adamw import PixelAdamW
from bacon_pl.errors import BaconError
from bacon_pl.pace import Pace
from bacon_pl.progress import ProgressLines
from tests.distillers import trajectories
from tests.distillers.frames import FRAMES, GRADIENT_FRAMES, WHITENED, WHOLE
from tests.distillers.running import digits, matching, small
from tests.distillers.test_recovery import recovery

GRADIENTS = partial(GradientMatching, ipc=1, network=small)
EVERY = {
    **{name: (matching, settings) for name, settings in {**FRAMES, **WHITENED, **WHOLE}.items()},
    **{name: (GRADIENTS, settings) for name, settings in GRADIENT_FRAMES.items()},
    # Filler rows of small classes are counted out, and batch norm sees what is left.
    "small-classes": (GRADIENTS, {**GRADIENT_FRAMES["dsa-batch-norm"], "data": {"batch_real": 1000}}),
    **{
        f"trajectory-{name}": (trajectories.matching, trajectories.KINDS[name])
        for name in ("batches", "tesla", "tesla-direct", "datm")
    },
}
# Where networks are made, or read from their files.
BIRTHS = {"bacon_pl/distillers/base.py", "bacon_pl/distillers/pool.py", "bacon_pl/distillers/reference.py"}


@pytest.mark.parametrize(("make", "settings"), EVERY.values(), ids=EVERY)
def test_no_iteration_waits(make, settings):
    data = digits(**settings.get("data", {}))
    copies = pretend.check_iterations(
        make(**{name: value for name, value in settings.items() if name != "data"}), data, 3
    )
    assert {copy.where.partition(":")[0] for copy in copies} <= BIRTHS


def test_a_recovery_reads_the_device_at_its_end_alone(tmp_path):
    with pretend.PretendGPU() as gpu:
        gpu.trainer(max_steps=4, default_root_dir=tmp_path).fit(recovery(), datamodule=digits())
    assert gpu.copies == [] and {wait.step for wait in gpu.waits} == {3}


class Waits(Distiller):
    """A family that does one thing wrong in every iteration."""

    wrong: ClassVar = {
        "read": lambda self: self.images.sum().item(),
        "mask": lambda self: self.images[self.images > 0],
        "host": lambda self: self.images + torch.tensor([1.0], device=self.device),
        "mixed": lambda self: self.images + torch.ones(1),
    }

    def __init__(self, what, **kwargs):
        super().__init__(**kwargs)
        self.what = what

    def iterate(self, batch):
        self.wrong[self.what](self)


@pytest.mark.parametrize("what", Waits.wrong)
def test_a_line_that_waits_is_named(what):
    line = Waits.wrong[what].__code__.co_firstlineno
    with pytest.raises(
        BaconError, match=rf"^a GPU would wait, or refuse, at\n  distillers/test_waits.py:{line}: [^\n]*$"
    ):
        pretend.check_iterations(Waits(what, ipc=1), digits(), 3)


def test_the_device_is_read_where_numbers_are_shown_or_logged_alone(tmp_path, capsys):
    def run(folder, **flags):
        with pretend.PretendGPU() as gpu:
            gpu.trainer(max_steps=5, default_root_dir=folder, **flags).fit(matching(), datamodule=digits())
        return {wait.step for wait in gpu.waits}

    assert run(tmp_path / "a", logger=CSVLogger(tmp_path, flush_logs_every_n_steps=1), log_every_n_steps=2) == {3}

    class Third(Pace):
        def step(self, done):
            super().step(done)
            return done == 3

    assert run(tmp_path / "b", callbacks=[ProgressLines(pace=Third())], enable_progress_bar=True) == {2}
    shown = capsys.readouterr().out
    assert "iteration 3 of 5: loss " in shown and "pool/accuracy" in shown


@pytest.mark.parametrize("rule", ["herding", "k_center"])
def test_a_selection_runs_on_a_device(tmp_path, rule):
    with pretend.PretendGPU() as gpu:
        module = Selection(ipc=1, rule=rule, network=small, coreset_steps=1)
        gpu.trainer(first=0, max_steps=1, default_root_dir=tmp_path).fit(module, datamodule=digits())
    assert not [wait for wait in gpu.waits if "mixes" in wait.what]


@pytest.mark.parametrize("classes", [3, 20])  # one after another, and at once
def test_pixel_adamw_does_not_wait(classes):
    with pretend.PretendGPU() as gpu:
        images = torch.nn.Parameter(torch.rand(2 * classes, 1, 4, 4).to(gpu.device))
        optimizer = PixelAdamW(images, [0.5], [0.2], classes, 0.01)
        for _ in range(2):
            images.grad = torch.ones_like(images)
            with gpu.watch():
                optimizer.step()
    assert gpu.waits == []
