"""Small trajectory matchings of every kind, for tests of what holds for all of them.

As a program it runs all of them, one after another, as one process of several: ``python -m
tests.distillers.trajectories FOLDER``, with the environment that ``torchrun`` sets.
"""

import sys
from pathlib import Path

import torch

from bacon_pl.augment import DSA
from bacon_pl.distillers import Expansion, ExpertSettings, TrajectoryMatching
from bacon_pl.learners import FlatStep
from tests.distillers.running import distill, small

STEPS = 4
EXPERTS = {"count": 3, "epochs": 4, "lr": 0.05, "epoch_steps": 3, "augment": DSA(["crop", "scale"])}

KINDS = {
    "mtt": {},
    "batches": {"inner_batch": 3, "inner_steps": 5, "experts_together": 2},
    "tesla": {"way": "tesla", "labels": "expert"},
    "tesla-direct": {"way": "tesla_direct"},
    "ftd": {"average": 0.9, "experts": ExpertSettings(**EXPERTS, flat=FlatStep(), storage="bfloat16")},
    "datm": {
        "labels": "learned", "matched_start": True, "expansion": Expansion(1, 4), "threshold": 1.0,
        "experts_together": 3, "ipc": 2,
    },
    "tiles": {"factor": 2, "labels": "learned", "threshold": 1e-9},
    "whitened": {"data": {"whitening": "zca"}},
}  # fmt: skip


def matching(**settings):
    """A small trajectory matching."""
    given = {"ipc": 1, "network": small, "augment": DSA(["crop", "scale"]), "inner_steps": 3, "max_start": 3}
    given |= {"lr": 100.0, "lr_step_size": 1e-3, "step_size": 0.05, "experts": ExpertSettings(**EXPERTS)}
    return TrajectoryMatching(**{**given, **settings})


def run(folder, steps=STEPS, *, data=None, flags=None, ckpt_path=None, **settings):
    """Run one on the digits."""
    module = matching(**settings)
    return distill(folder, steps, module=module, data=data, flags=flags, ckpt_path=ckpt_path)


def content(module):
    """All that a run has learned, and what it hands over."""
    made = module.distilled()
    return {**module.synthetic.state_dict(), "made": made.images, "made soft": made.soft_labels}


def run_all(folder: Path) -> None:
    """Run every kind on two processes and save what each has learned."""
    for name, settings in KINDS.items():
        module = run(folder / name, flags={"devices": 2, "strategy": "ddp"}, **settings)
        assert module.trainer.world_size == 2
        if module.global_rank == 0:
            tensors = {k: t for k, t in content(module).items() if isinstance(t, torch.Tensor)}
            torch.save(tensors, folder / f"{name}.pt")


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
