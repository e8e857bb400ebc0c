"""The description of a distillation that is printed before its first iteration: data, method, run and result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from rich.filesize import decimal

from bacon_pl.configured import plain
from bacon_pl.data import DataModule
from bacon_pl.distilled_set import FILE_NAME
from bacon_pl.distillers import Distiller
from bacon_pl.errors import one_line
from bacon_pl.progress import planned

_INDENT = " " * 8


class Opening(Callback):
    """Prints the description of a run before it starts."""

    names_files = True
    """Whether the file of the set is named."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the description, after the data is loaded and a checkpoint has been read."""
        if trainer.is_global_zero and isinstance(pl_module, Distiller):
            print(opening(trainer, pl_module, self.names_files), flush=True)


def opening(trainer: pl.Trainer, module: Distiller, names_files: bool = True) -> str:
    """Describe a run before it starts.

    Args:
        trainer: The Trainer of the run.
        module: The distiller, whose data has been set up.
        names_files: Whether the file of the set is named.

    Returns:
        A few lines, each with a label.
    """
    lines = {
        "data": describe_data(module.data),
        "method": [_method(module)],
        "run": [_run(trainer, module)],
        **({"result": [str(Path(trainer.default_root_dir) / FILE_NAME)]} if names_files else {}),
    }
    return laid_out(lines)


def laid_out(lines: Mapping[str, Sequence[str]]) -> str:
    """Arrange lines in two columns: labels and texts."""
    return "\n".join(f"{name:<{len(_INDENT)}}" + f"\n{_INDENT}".join(parts) for name, parts in lines.items())


def describe_data(data: DataModule) -> list[str]:
    """Describe data that has been set up, with one line about its content and one about its location."""
    meta = data.meta
    height, width = meta.size
    kind = {1: "gray", 3: "RGB"}.get(meta.channels, f"{meta.channels} channels")
    held = [f"{len(data.val):,} more held out for validation"] if data.val is not None else []
    parts = [
        f"{one_line(meta.name, 40)}: {len(data.train):,} training images of {meta.num_classes} classes",
        f"{height}×{width} pixels, {kind}{'' if meta.whitening is None else f', {meta.whitening}'}",
        *held,
        f"{len(data.test):,} for testing",
    ]
    where = []
    if data.folder is not None and data.folder.exists():
        where.append(f"in {data.folder}")
    where += [f"decoded in the cache, {path} ({_size(path)})" for path in data.cache_files]
    return [", ".join(parts), *(["; ".join(where)] if where else [])]


def _method(module: Distiller) -> str:
    """Describe the method with its parts, and the set to be made."""
    objective = getattr(module, "objective", None)
    names = [type(module).__name__, *([] if objective is None else [type(objective).__name__])]
    tiles = f", each of {module.factor}×{module.factor} tiles" if module.factor > 1 else ""
    parts = [
        f"{one_line(module.method, 40)} ({', '.join(names)}): {module.ipc:,} image{'s' * (module.ipc > 1)} "
        f"per class{tiles}, starting from {_start(module)}"
    ]
    # If images are drawn at random, the network is not used.
    if (network := getattr(module, "network", None)) is not None and getattr(module, "rule", "") != "drawn":
        parts.append(_network(network))
    return ", ".join([*parts, f"seed {module.seed}"])


def _start(module: Distiller) -> str:
    known = {"tiles": "real images", "whole": "whole real images", "noise": "noise"}
    return known.get(module.start.images, f"the set {one_line(module.start.images)}")


def _network(factory: Any) -> str:
    """Return the name of an architecture with its sizes."""
    described = plain(factory)
    if not isinstance(described, dict):
        return str(described).rpartition(".")[2].partition(":")[0]
    sizes = [f"{k} {v}" for k, v in described.get("init_args", {}).items() if type(v) is int]
    name = str(described.get("class_path", type(factory).__name__)).rpartition(".")[2]
    return f"{name} ({', '.join(sizes)})" if sizes else name


def _run(trainer: Any, module: Distiller) -> str:
    """Describe the number of iterations, the device, and the checkpoint from which the run is resumed."""
    total, done = planned(trainer, module), module.iteration
    device = trainer.strategy.root_device
    threads = torch.get_num_threads()
    place = f"the CPU ({threads} thread{'s' * (threads > 1)})"
    if device.type == "cuda":
        place = torch.cuda.get_device_name(device)
    elif device.type != "cpu":
        place = device.type
    many = f"{trainer.world_size} processes, each on " if trainer.world_size > 1 else ""
    parts = [f"{total:,} iteration{'s' * (total != 1)} on {many}{place}", f"precision {trainer.precision}"]
    if trainer.ckpt_path:
        parts.append(f"going on after iteration {done:,} ({trainer.ckpt_path})")
    return ", ".join(parts)


def _size(path: Path) -> str:
    try:
        return decimal(path.stat().st_size)
    except OSError:
        return "not there any more"
