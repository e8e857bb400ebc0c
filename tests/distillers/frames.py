"""Every objective in every frame that a method has, small: for tests of what holds for all of them.

As a program it runs all of them, one after another, as one process of several: ``python -m tests.distillers.frames
FOLDER``, with the environment that ``torchrun`` sets.
"""

import sys
from functools import partial
from pathlib import Path

import torch

from bacon_pl.augment import Chain, CutMix
from bacon_pl.distillers import PairSettings, PoolSettings, Reference
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import IID, M3D, NCFM, BaconObjective, Combined, DataDAM, MeanMatching, Sampler
from bacon_pl.selection import Start
from tests.distillers.running import distill

STEPS = 4

DM = {
    "pool": PoolSettings(initial=1, push_every=1, capacity=1, train_networks=0),
    "factor": 1, "ipc": 2, "cross_entropy": None, "lr": 1.0, "per_class_steps": False,
}  # fmt: skip
PIXELS = {
    "start": Start(scaling="nearest"), "cross_entropy": None, "augment": Chain(["color", "crop", "cutout"]),
    "space": "pixels", "clamp_pixels": True,
}  # fmt: skip
PAIRS = PairSettings(count=2, epochs=1, augment=Chain(["color", "crop"]), mixing=CutMix(probability=0.5))
NCFM_FRAME = {**PIXELS, "pairs": PAIRS, "optimizer": "adamw", "lr": 0.01, "weight_decay": 5e-4, "schedule": "plateau"}
REFERENCE = Reference(count=2, epochs=1, network=partial(ConvNet, width=6, depth=1))
SAMPLED = NCFM(frequencies=32, sampler=Sampler(lr=0.05))

FRAMES = {
    "bacon": {},
    "bacon-clip": {"objective": BaconObjective(clip="acting")},
    "idm": {"objective": MeanMatching()},
    "dm": {**DM, "objective": MeanMatching()},
    "idm+bacon": {"objective": Combined([MeanMatching(), BaconObjective()])},
    "datadam": {**DM, "objective": DataDAM()},
    "bacon-datadam": {"objective": DataDAM(power=1)},
    "iid": {"objective": IID(), "reference": REFERENCE},
    "iid-dm": {**DM, "objective": IID(0.01, 0.05), "reference": REFERENCE},
    "iid-alone": {"objective": IID(rows=2)},
    "m3d": {
        **PIXELS, "objective": M3D(), "lr": 10.0,
        "pool": PoolSettings(initial=1, push_every=5, capacity=1, train_networks=0),
    },
    "bacon-m3d": {"objective": M3D("polynomial")},
    "ncfm": {**NCFM_FRAME, "objective": NCFM(frequencies=32)},
    "ncfm-sgd": {**NCFM_FRAME, "objective": NCFM(frequencies=32), "optimizer": "sgd", "weight_decay": 0.0},
    "ncfm-sampler": {**NCFM_FRAME, "objective": SAMPLED},
    "bacon-ncfm": {"objective": NCFM(frequencies=32)},
    "bacon-ncfm-sampler": {"objective": SAMPLED, "schedule": "cosine"},
    "plug-in": {
        "objective": Combined([BaconObjective(), Combined([SAMPLED, IID()], [0.5, 1.0]), DataDAM(), M3D()]),
        "reference": REFERENCE,
    },
}  # fmt: skip

# The data of a frame.
WHITENED = {"whitened": {**DM, "objective": MeanMatching(), "data": {"whitening": "zca"}}}

# All classes are in one pass, so one of two processes has no work.
WHOLE = {"batch-norm": {"objective": SAMPLED, "network": partial(ConvNet, width=4, depth=2, norm="batch")}}


def run_all(folder: Path) -> None:
    """Run every frame on two processes and save the images of each."""
    for name, settings in {**FRAMES, **WHITENED, **WHOLE}.items():
        module = distill(folder / name, STEPS, flags={"devices": 2, "strategy": "ddp"}, **settings)
        assert module.trainer.world_size == 2
        if module.global_rank == 0:
            torch.save(module.images.detach(), folder / f"{name}.pt")


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
