"""Every objective in every frame that a method has, small: for tests of what holds for all of them.

As a program it runs all of them, one after another, as one process of several: ``python -m tests.distillers.frames
FOLDER``, with the environment that ``torchrun`` sets.
"""

import sys
from functools import partial
from pathlib import Path

import torch

from bacon_pl.augment import DSA, Chain, CutMix, NoAugmentation
from bacon_pl.distillers import GradientMatching, NetworkSettings, PairSettings, PoolSettings, Reference
from bacon_pl.networks import ConvNet
from bacon_pl.objectives import (
    IID,
    M3D,
    NCFM,
    AbsoluteError,
    BaconObjective,
    Combined,
    DataDAM,
    MeanMatching,
    Sampler,
)
from bacon_pl.selection import Start
from tests.distillers.running import distill, small

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

# Gradient matching. A network lives for three of the four iterations, so that a resumed run finds one in training.
GRADIENT_FRAMES = {
    "dc": {
        "start": Start("noise"), "augment": NoAugmentation(),
        "networks": NetworkSettings(renew_every=3, synthetic_epochs=2, batch_size=8),
    },
    "dsa": {"ipc": 2, "networks": NetworkSettings(renew_every=3, synthetic_epochs=2, batch_size=16, augment=DSA())},
    "idc": {
        "factor": 2, "start": Start(scaling="nearest"), "distance": AbsoluteError("convolutions"), "lr": 1e-3,
        "space": "pixels", "clamp_pixels": True, "per_class_steps": True, "synthetic_batch": 3,
        "augment": Chain(["color", "crop", "cutout"]),
        "networks": NetworkSettings(
            renew_every=3, synthetic_epochs=0, real_steps=2, momentum=0.9, weight_decay=5e-4,
            augment=Chain(["color", "crop"]), mixing=CutMix(probability=0.5),
        ),
    },
    "dsa-batch-norm": {
        "network": partial(ConvNet, width=4, depth=2, norm="batch"),
        "networks": NetworkSettings(renew_every=3, synthetic_epochs=1, momentum=0.5),
    },
}  # fmt: skip


def distill_gradients(root, steps=STEPS, *, flags=None, ckpt_path=None, **settings):
    """Run a small gradient matching on the digits; returns the module."""
    module = GradientMatching(**{"ipc": 1, "network": small, **settings})
    return distill(root, steps, module=module, flags=flags, ckpt_path=ckpt_path)


# All classes are in one pass, so one of two processes has no work.
WHOLE = {"batch-norm": {"objective": SAMPLED, "network": partial(ConvNet, width=4, depth=2, norm="batch")}}


def run_all(folder: Path) -> None:
    """Run every frame on two processes and save the images of each."""
    runs = [(name, distill, settings) for name, settings in {**FRAMES, **WHITENED, **WHOLE}.items()]
    runs += [(name, distill_gradients, settings) for name, settings in GRADIENT_FRAMES.items()]
    for name, run, settings in runs:
        module = run(folder / name, STEPS, flags={"devices": 2, "strategy": "ddp"}, **settings)
        assert module.trainer.world_size == 2
        if module.global_rank == 0:
            torch.save(module.images.detach(), folder / f"{name}.pt")


if __name__ == "__main__":
    run_all(Path(sys.argv[1]))
