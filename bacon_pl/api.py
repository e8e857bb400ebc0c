"""One call from Python: distill images, evaluate a set. Both do what the commands ``fit`` and ``eval`` do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.seed import isolate_rng

from bacon_pl import config_files
from bacon_pl.commands.evaluate import Eval
from bacon_pl.commands.fit import Fit
from bacon_pl.commands.settings import silenced
from bacon_pl.data import CATALOG, DataModule, InMemoryData, labeled_images
from bacon_pl.data.catalog import find
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError, StoppedError, one_line
from bacon_pl.evaluation import Baseline, Results
from bacon_pl.opening import Opening
from bacon_pl.quiet import quietly

_SCHEDULE = 10
"""Images per class of the schedule that is taken where a dataset has none for the number that is asked for."""

_OF_FILES = ("root", "image_size", "mean", "std", "test_fraction", "val_fraction", "split_seed", "on_bad_image")
"""Settings of a dataset's files, which a set records."""


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
            :class:`~bacon_pl.data.DataModule`, which follows its dataset's schedule if that is in the catalog. All
            images in memory are trained on; of folders and catalog datasets the test images are left out.
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
        with _as_library(progress):
            command = Fit([*args, *(["--ckpt_path=last"] if resume else [])])
            _check_folder(command, out)
            if not progress:
                trainer: Any = command.trainer
                trainer.callbacks = [one for one in trainer.callbacks if not isinstance(one, Opening)]
            command.distill(images and images(command.config.data))
            return command.model.distilled()


def evaluate(
    distilled: DistilledSet | str | os.PathLike[str],
    data: Any = None,
    *,
    train: Any = None,
    root: str | os.PathLike[str] | None = None,
    networks: Sequence[str] = (),
    baselines: Sequence[Baseline] = (),
    num_networks: int | None = None,
    epochs: int | None = None,
    scores: bool = False,
    bound: bool = False,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
    settings: Mapping[str, Any] | None = None,
) -> Results:
    """Train fresh networks on a distilled set and test them on real images.

    It is what ``bacon eval`` does, with the same settings. The recipe is the one that the run's settings name, which
    the set records: that of its dataset's schedule and budget.

    Args:
        distilled: The set, its file or its run's folder.
        data: What it is tested on: a dataset's name in the catalog; a folder of pictures, as :func:`distill` takes it;
            test images and labels in memory, as :func:`bacon_pl.data.labeled_images` takes them; or a
            :class:`~bacon_pl.data.DataModule`. By default the dataset of the catalog, or the folder, that the set was
            made from.
        train: Training images in memory, which baselines, scores and the bound need, where ``data`` are test images in
            memory.
        root: Folder of a catalog dataset's files; by default the one that the set records.
        networks: Architectures by name; by default the recipe's.
        baselines: Real images to compare with: ``tiles``, ``random``, ``herding``, ``k_center``, ``whole``.
        num_networks: Networks trained on each set, if another number than the recipe's.
        epochs: Epochs of their training, if another number than the recipe's.
        scores: Compute DD-Ranking's robust scores.
        bound: Compute BACON's bound and the risk.
        seed: Seed of every draw.
        out: Folder for ``results.json``, ``results.md`` and logs. By default nothing is left on disk.
        overwrite: Replace the results in ``out``.
        progress: Say how the evaluation goes.
        settings: Any other settings of ``bacon eval``, as :func:`distill` takes them.

    Returns:
        The results.

    Raises:
        BaconError: A setting is wrong, or the data do not fit the set.

    Example:
        >>> import bacon_pl
        >>> distilled = bacon_pl.distill("digits", ipc=1, method="random", progress=False)
        >>> results = bacon_pl.evaluate(distilled, num_networks=1, epochs=1, progress=False)
        >>> len(results.per_network)
        1
    """
    given = distilled if isinstance(distilled, DistilledSet) else DistilledSet.load(distilled)
    own, images = _test_data(data, train, root, given)
    recipe = {name: value for name, value in (("num_networks", num_networks), ("epochs", epochs)) if value is not None}
    needy = [name for name, asked in (("scores", scores), ("bound", bound), ("baselines", bool(baselines))) if asked]
    in_memory = data is not None and images is not None and not isinstance(data, DataModule)
    if in_memory and train is None and (needy or given.config.get("evaluation", {}).get("soft_labels")):
        raise BaconError(
            f"{' and '.join(needy) or 'soft labels'} need real training images: give them as train=..., beside the "
            "test images."
        )
    with tempfile.TemporaryDirectory(prefix="bacon_pl-") as scratch:
        folder = Path(out) if out is not None else Path(scratch) / "evaluation"
        run_settings: dict[str, Any] = {
            "evaluation": {**(given.config.get("evaluation") or {}), **recipe},
            "trainer": {"enable_progress_bar": progress, **({} if out is not None else {"logger": False})},
        }
        source = "a set in memory" if isinstance(distilled, DistilledSet) else os.fspath(distilled)
        args = _words([*own], run_settings, settings)
        args += [f"--{name}={','.join(names)}" for name, names in (("networks", networks), ("baselines", baselines))]
        args += [f"--scores={scores}", f"--bound={bound}", f"--seed_everything={seed}", f"--overwrite={overwrite}"]
        with _as_library(progress):
            command = Eval([*args, f"--distilled={source}", f"--out={folder}"])
            _check_folder(command, out)
            command.talks = progress
            return command.evaluate(given, images and images(command.config.data))


def _check_folder(command: Fit | Eval, out: Any) -> None:
    if command.trainer.world_size > 1 and out is None:
        raise BaconError("several processes need a folder that all of them know: give out=...")


def _test_data(data: Any, train: Any, root: Any, distilled: DistilledSet) -> tuple[list[Any], Any]:
    """Settings of the data that a set is tested on, and what makes their DataModule where the settings do not."""
    recorded = {k: v for k, v in (distilled.config.get("data") or {}).items() if k in _OF_FILES}
    meta = distilled.meta
    if train is not None and (data is None or isinstance(data, (str, os.PathLike, DataModule))):
        raise BaconError("train=... goes with test images in memory; other data bring their training images.")
    if isinstance(data, DataModule):
        return [], lambda given: data
    if data is None and not (meta.name in CATALOG and recorded):
        raise BaconError(f"the set was made from {one_line(meta.name, 40)}, whose files are not known: give the data.")
    if data is None or (isinstance(data, str) and (data in CATALOG or not Path(data).is_dir())):
        name = meta.name if data is None else find(data).name
        where = {} if root is None else {"root": os.fspath(root)}
        return [{"data": {**(recorded if name == meta.name else {}), "name": name, **where}}], None
    if isinstance(data, (str, os.PathLike)):
        there = recorded if meta.name == "folder" else {}
        return [{"data": {**there, "name": "folder", "root": os.fspath(data)}}], None
    test = labeled_images(data, meta.class_names)
    real = None if train is None else labeled_images(train, meta.class_names)
    return [], lambda given: InMemoryData(real, test, name=meta.name, meta=meta, eval_batch=given.eval_batch)


def _data(data: Any, root: Any, ipc: int) -> tuple[list[Any], Any]:
    """The schedule that goes with the data, and what makes their DataModule where the settings do not."""
    common = ["schedules/bacon", *(["schedules/one_image"] if ipc == 1 else [])]
    if isinstance(data, str) and (data in CATALOG or not Path(data).is_dir()):
        name = find(data).name
        where = {} if root is None else {"root": os.fspath(root)}
        return [*(_schedule(name, ipc) or common), {"data": {"name": name, **where}}], None
    if root is not None:
        raise BaconError("root=... is for datasets of the catalog: leave it out, the data say where they are.")
    if isinstance(data, (str, os.PathLike)):
        return [*common, {"data": {"name": "folder", "root": os.fspath(data)}}], None
    if isinstance(data, DataModule):
        return (_schedule(data.name, ipc) if data.name in CATALOG else []) or common, lambda given: data
    found = labeled_images(data)
    return common, lambda given: InMemoryData(found, **_of_memory(given))


def _schedule(name: str, ipc: int) -> list[Any]:
    """The configurations of a dataset of the catalog for a number of images per class; none where it has none."""
    there = [n for n in (ipc, _SCHEDULE, 1) if config_files.named(f"{name}/ipc{n}")]
    if not there:
        return []
    return [f"{name}/ipc{there[0]}", *(["schedules/one_image"] if there[0] != ipc == 1 else [])]


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
def _as_library(talks: bool) -> Iterator[None]:
    """Leave the caller's process as it was, and end an interrupt as Python ends it."""
    seeds = {name: os.environ.get(name) for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")}
    try:
        with isolate_rng(), quietly(), contextlib.nullcontext() if talks else silenced():
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
