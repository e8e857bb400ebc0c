"""One call from Python: distill images, evaluate a set. Both do what the commands ``fit`` and ``eval`` do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng

from bacon_pl import config_files
from bacon_pl.commands.fit import Fit
from bacon_pl.data import CATALOG, DataModule, InMemoryData, labeled_images
from bacon_pl.data.catalog import find
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError, StoppedError

_SCHEDULE = 10
"""Images per class of the schedule that is taken where a dataset has none for the number that is asked for."""


def distill(
    data: Any,
    ipc: int = 10,
    method: str | os.PathLike[str] = "bacon",
    *,
    root: str | os.PathLike[str] | None = None,
    budget: str | os.PathLike[str] | None = None,
    iterations: int | None = None,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> DistilledSet:
    """Distill images to a few synthetic ones per class.

    It is what ``bacon fit`` does, with the same settings, and the same seed gives the same images. The random state of
    Python, numpy and torch is left as it was.

    Args:
        data: A dataset's name in the catalog, such as ``"mnist"``, whose files are in ``root``; the path of a folder
            that holds a folder of pictures for every class; images and labels in memory, as
            :func:`bacon_pl.data.labeled_images` takes them (a torch dataset, or a pair of tensors); or a
            :class:`~bacon_pl.data.DataModule`. Images in memory are all trained on; of folders and catalog datasets
            the test images are left out.
        ipc: Images per class.
        method: Name of a configuration in ``methods/`` (``bacon configs`` lists them), or a YAML file.
        root: Folder of a catalog dataset's files, ``data`` by default.
        budget: ``"small"``, minutes on two CPU cores; or a YAML file. By default the published schedule is followed,
            20,000 iterations for most datasets.
        iterations: Number of iterations, if another than the schedule's or the budget's.
        seed: Seed of every draw.
        out: Folder for the set, its picture, checkpoints and logs, as ``bacon fit`` writes them. By default nothing is
            left on disk.
        resume: Go on from the last checkpoint in ``out``, if there is one.
        overwrite: Replace the run in ``out``.
        progress: Say how the run goes.
        settings: Any other settings of ``bacon fit``, nested as in its YAML or with dotted names:
            ``{"model.lr": 0.1, "trainer": {"devices": 2}}``.

    Returns:
        The distilled set.

    Raises:
        BaconError: A setting or the data are wrong, or the images became infinite.
        KeyboardInterrupt: The run was interrupted. With ``out``, the iterations so far can be resumed.

    Example:
        >>> import bacon_pl
        >>> distilled = bacon_pl.distill("digits", ipc=1, iterations=2, progress=False)
        >>> distilled.ipc, len(distilled.meta.class_names)
        (1, 10)
    """
    if resume and out is None:
        raise BaconError("resume=True needs out=..., the folder of the run that is to go on.")
    own, images = _data(data, root, ipc)
    with tempfile.TemporaryDirectory(prefix="bacon_pl-") as scratch:
        folder = Path(out) if out is not None else Path(scratch)
        run_settings: dict[str, Any] = {
            "model": {"ipc": ipc},
            "trainer": {
                "default_root_dir": str(folder),
                "enable_progress_bar": progress,
                **({} if out is not None else {"logger": False}),
                **({} if iterations is None else {"max_steps": iterations}),
            },
        }
        layers = [*own, *_overlay(method, "methods"), *(_overlay(budget, "budgets") if budget else ())]
        args = [*_words(layers, run_settings, settings), f"--seed_everything={seed}", f"--overwrite={overwrite}"]
        with _as_library():
            command = Fit([*args, *(["--ckpt_path=last"] if resume else [])])
            if command.trainer.world_size > 1 and out is None:
                raise BaconError("several processes need a folder that all of them know: give out=...")
            command.distill(images and images(command.config.data))
            return command.model.distilled()


def _data(data: Any, root: Any, ipc: int) -> tuple[list[Any], Any]:
    """The schedule that goes with the data, and what makes their DataModule where the settings do not."""
    common = ["schedules/bacon", *(["schedules/one_image"] if ipc == 1 else [])]
    if isinstance(data, str) and (data in CATALOG or not Path(data).is_dir()):
        name = find(data).name
        there = [n for n in (ipc, _SCHEDULE, 1) if config_files.named(f"{name}/ipc{n}")]
        schedule = [f"{name}/ipc{there[0]}"] if there else common
        if there and there[0] != ipc == 1:
            schedule.append("schedules/one_image")
        where = {} if root is None else {"root": os.fspath(root)}
        return [*schedule, {"data": {"name": name, **where}}], None
    if root is not None:
        raise BaconError("root=... is for datasets of the catalog: leave it out, the data say where they are.")
    if isinstance(data, (str, os.PathLike)):
        return [*common, {"data": {"name": "folder", "root": os.fspath(data)}}], None
    if isinstance(data, DataModule):
        return common, lambda given: data
    found = labeled_images(data)
    return common, lambda given: InMemoryData(found, **_of_memory(given))


def _of_memory(given: Any) -> dict[str, Any]:
    """The settings of the data that hold for images in memory, too."""
    names = ("mean", "std", "val_fraction", "batch_real", "pool_batch", "eval_batch", "split_seed")
    return {name: given[name] for name in names}


def _overlay(given: str | os.PathLike[str], group: str) -> list[str]:
    name = os.fspath(given)
    return [name if Path(name).is_file() else f"{group}/{name}"]


def _words(layers: list[Any], *more: Mapping[str, Any] | None) -> list[str]:
    """Layers of settings as words of a command line: names of configurations, and settings as YAML."""
    texts = [layer if isinstance(layer, str) else json.dumps(_nested(layer)) for layer in layers]
    texts += [json.dumps(_nested(part)) for part in more if part]
    return [f"--config={text}" for text in texts]


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with dotted names as nested ones."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        value = _nested(value) if isinstance(value, Mapping) and not {"class_path"} & value.keys() else value
        for part in reversed(name.split(".")):
            value = {part: value}
        found = dict(config_files.laid_over(found, value))
    return found


@contextlib.contextmanager
def _as_library() -> Iterator[None]:
    """Leave the caller's process as it was, and end an interrupt as Python ends it."""
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        with isolate_rng():
            yield
    except StoppedError as stop:
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt from stop
        raise
    finally:
        for name, value in seeds.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
