"""The Python functions :func:`distill` and :func:`evaluate`, which correspond to the commands ``fit`` and ``eval``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.loggers import Logger

from bacon_pl import config_files
from bacon_pl.commands.evaluate import Eval
from bacon_pl.commands.fit import Fit
from bacon_pl.commands.from_python import (
    IN_MEMORY,
    arguments_of,
    as_library,
    check_kind,
    check_settings,
    check_unread,
    several,
)
from bacon_pl.data import CATALOG, DataModule, InMemoryData, labeled_images
from bacon_pl.data.catalog import find
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError, one_line
from bacon_pl.evaluation import Baseline, Labels, Results
from bacon_pl.settings_text import laid_over, names_in, nested
from bacon_pl.time_limit import check_no_lengths

_SCHEDULE = 10
"""Images per class of the schedule that is used if a dataset has none for the requested number."""

_OF_DISTILL = {
    "seed_everything": "seed", "overwrite": "overwrite", "ckpt_path": "resume", "model.ipc": "ipc", "data.name": "data",
    "trainer.default_root_dir": "out",
}  # fmt: skip
"""Settings that arguments of :func:`distill` are for."""

_OF_EVALUATE = {
    "seed_everything": "seed",
    **{name: name for name in ("distilled", "out", "networks", "baselines", "labels", "scores", "bound", "overwrite")},
}
"""Settings that arguments of :func:`evaluate` are for."""

_OF_RECIPE = {"evaluation.num_networks": "num_networks", "evaluation.epochs": "epochs"}
_ITERATIONS, _ROOT = {"trainer.max_steps": "iterations"}, {"data.root": "root"}

_SETTINGS = "settings by name, such as {'model.lr': 0.1}"

_OF_FILES = (
    "root", "image_size", "mean", "std", "test_fraction", "val_fraction", "split_seed", "on_bad_image", "whitening",
)  # fmt: skip
"""Settings of a dataset's files that are recorded in a set."""


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
    callbacks: Callback | Iterable[Callback] | None = None,
    logger: Logger | Iterable[Logger] | bool | None = None,
    settings: Mapping[str, Any] | None = None,
) -> DistilledSet:
    """Distill a dataset to a few synthetic images per class.

    This function does the same as ``bacon fit``: the same settings and seed give the same images. It does not change
    the random state of Python, NumPy and torch.

    Args:
        data: Name of a dataset in the catalog, such as ``"mnist"``, whose files are in ``root``; the path of a folder
            with one folder of pictures per class; images and labels in memory, in a form that
            :func:`bacon_pl.data.labeled_images` accepts (a torch dataset, or a pair of tensors); or a
            :class:`~bacon_pl.data.DataModule`, which follows the schedule of its dataset if that is in the catalog. Of
            folders and catalog datasets, only the training images are used; images in memory are all used.
        ipc: Images per class.
        method: Name of a configuration in ``methods/`` (see ``bacon configs``), or a YAML file.
        root: Folder with the files of a catalog dataset, ``data`` by default.
        budget: ``"small"``, which takes minutes on two CPU cores; ``"medium"``, an hour or two; ``"full"``, the
            published lengths; or a YAML file. By default what the schedule and the method say: 20,000 iterations for
            BACON, IDM and DM.
        iterations: Number of iterations; by default that of the schedule, method and budget.
        seed: Seed of every draw.
        out: Folder for the set, its picture, checkpoints and logs, as written by ``bacon fit``. By default no files
            are kept.
        resume: Continue from the last checkpoint in ``out``, if there is one.
        overwrite: Replace an existing run in ``out``.
        progress: Print the progress of the run.
        callbacks: Callback or callbacks of Lightning for the Trainer of the run, beside its own.
        logger: Logger or loggers of Lightning in place of TensorBoard's, or False for none.
        settings: Other settings of ``bacon fit``, nested as in YAML files or with dotted names:
            ``{"model.lr": 0.1, "trainer": {"devices": 2}}``.

    Returns:
        The distilled set.

    Raises:
        BaconError: A setting or the data is invalid, or the optimization diverged.
        KeyboardInterrupt: The run was interrupted. If ``out`` is given, it can be resumed.
        SystemExit: The process received another signal that ends it, such as SIGTERM.

    Example:
        >>> import bacon_pl
        >>> distilled = bacon_pl.distill("digits", ipc=1, iterations=2, progress=False)
        >>> distilled.ipc, len(distilled.meta.class_names)
        (1, 10)
    """
    check_kind("settings", settings, (Mapping, type(None)), _SETTINGS)
    check_kind("method", method, (str, os.PathLike), "the name of a method or a file")
    if resume and out is None:
        raise BaconError("resume=True needs out=..., the folder of the run that is to go on.")
    optional = _ITERATIONS | _ROOT
    given = {"iterations": iterations, "root": root}
    twice = {name: argument for name, argument in optional.items() if given[argument] is not None}
    check_settings(settings, _OF_DISTILL | twice)
    own, images = _data(data, root, ipc)
    if images is not None:
        check_unread(settings, data)
    with tempfile.TemporaryDirectory(prefix="bacon_pl-") as scratch:
        folder = Path(out) if out is not None else Path(scratch)
        run_settings: dict[str, Any] = {
            "model": {"ipc": ipc},
            "trainer": {
                "default_root_dir": str(folder),
                "enable_progress_bar": progress,
                **({} if out is not None and logger is not False else {"logger": False}),
                **({} if iterations is None else {"max_steps": iterations}),
            },
        }
        layers = [*own, *_overlay(method, "methods"), *(_overlay(budget, "budgets") if budget else ())]
        args = [*arguments_of(layers, run_settings, settings), f"--seed_everything={seed}", f"--overwrite={overwrite}"]
        with as_library(progress, out, _OF_DISTILL | optional):
            command = Fit([*args, *(["--ckpt_path=last"] if resume else [])])
            _check_folder(command, out)
            command.talks, command.keeps = progress, out is not None
            command.add(several(callbacks, Callback), several(logger, Logger))
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
    labels: Sequence[Labels] = (),
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
    """Train new networks on a distilled set and test them on real images.

    This function does the same as ``bacon eval`` with the same settings. The recipe is the one recorded in the set,
    from the schedule and the budget of its run.

    Args:
        distilled: The set, its file, or the folder of its run.
        data: Test data: the name of a dataset in the catalog; a folder of pictures as for :func:`distill`; test images
            and labels in memory, in a form that :func:`bacon_pl.data.labeled_images` accepts; or a
            :class:`~bacon_pl.data.DataModule`. By default the catalog dataset or folder from which the set was made.
        train: Training images in memory, needed for baselines, scores, the bound and soft labels of a teacher if
            ``data`` is test images in memory; other data bring their own.
        root: Folder with the files of a catalog dataset; by default the one recorded in the set.
        networks: Names of architectures; by default that of the recipe.
        baselines: Real images to compare with: ``tiles``, ``random``, ``herding``, ``k_center``, ``whole``.
        labels: With which labels the set and the baselines are evaluated: ``hard``, ``soft`` or both; by default as the
            recipe says.
        num_networks: Number of networks trained on each set; by default that of the recipe.
        epochs: Number of training epochs; by default that of the recipe.
        scores: Compute the robust scores of DD-Ranking.
        bound: Compute BACON's bound and the risk.
        seed: Seed of every draw.
        out: Folder for ``results.json``, ``results.md`` and logs. By default no files are kept.
        overwrite: Replace existing results in ``out``.
        progress: Print the progress of the evaluation.
        settings: Other settings of ``bacon eval``, in the same form as for :func:`distill`.

    Returns:
        The results.

    Raises:
        BaconError: A setting is invalid, or the data does not match the set.

    Example:
        >>> import bacon_pl
        >>> distilled = bacon_pl.distill("digits", ipc=1, method="random", progress=False)
        >>> results = bacon_pl.evaluate(distilled, num_networks=1, epochs=1, progress=False)
        >>> len(results.per_network)
        1
    """
    check_kind("distilled", distilled, (DistilledSet, str, os.PathLike), "a set, its file, or the folder of its run")
    check_kind("settings", settings, (Mapping, type(None)), _SETTINGS)
    recipe = {name: value for name, value in (("num_networks", num_networks), ("epochs", epochs)) if value is not None}
    check_settings(settings, _OF_EVALUATE | {name: given for name, given in _OF_RECIPE.items() if given in recipe})
    of_names = (("networks", networks), ("baselines", baselines), ("labels", labels))
    for kind, names in of_names:
        check_kind(kind, names, (str, Sequence), "names")
        for name in names:
            check_kind(kind, name, (str,), "names; a network of your own is settings={'evaluation.network': ...}")
    given = distilled if isinstance(distilled, DistilledSet) else DistilledSet.load(distilled)
    own, images = _test_data(data, train, root, given)
    if images is not None:
        check_unread(settings, data, ["eval_batch"])
    needy = [name for name, asked in (("scores", scores), ("bound", bound), ("baselines", bool(baselines))) if asked]
    in_memory = data is not None and images is not None and not isinstance(data, DataModule)
    if in_memory and train is None and (needy or _needs_teacher(given, labels, settings)):
        raise BaconError(
            f"{' and '.join(needy) or 'soft labels'} need real training images: give them as train=..., beside the "
            "test images."
        )
    with tempfile.TemporaryDirectory(prefix="bacon_pl-") as scratch:
        folder = Path(out) if out is not None else Path(scratch) / "evaluation"
        run_settings: dict[str, Any] = {
            "evaluation": {**_recorded(given, "evaluation"), **recipe},
            "trainer": {"enable_progress_bar": progress, **({} if out is not None else {"logger": False})},
        }
        source = "a set in memory" if isinstance(distilled, DistilledSet) else os.fspath(distilled)
        args = arguments_of([*own], run_settings, settings)
        args += [f"--{name}={','.join(names_in(names))}" for name, names in of_names]
        args += [f"--scores={scores}", f"--bound={bound}", f"--seed_everything={seed}", f"--overwrite={overwrite}"]
        with as_library(progress, out, _OF_EVALUATE | _OF_RECIPE | _ROOT):
            check_no_lengths(nested(settings or {}).get("trainer"))
            command = Eval([*args, f"--distilled={source}", f"--out={folder}"])
            _check_folder(command, out)
            command.talks, command.keeps = progress, out is not None
            return command.evaluate(given, images and images(command.config.data))


def _needs_teacher(distilled: DistilledSet, labels: Sequence[Labels], settings: Mapping[str, Any] | None) -> bool:
    """Return whether an evaluation of the set alone needs a teacher, and so real training images."""
    if labels and "soft" not in labels:
        return False
    recorded = {"evaluation": _recorded(distilled, "evaluation")}
    recipe = laid_over(recorded, nested(settings or {})).get("evaluation")
    soft = recipe.get("soft_labels") if isinstance(recipe, Mapping) else None
    if not isinstance(soft, Mapping):  # none, or a text that only the command reads, which checks once more
        return "soft" in labels and distilled.soft_labels is None
    return soft.get("source") not in ("stored", "folder")


def _recorded(distilled: DistilledSet, section: str) -> Mapping[str, Any]:
    """Return a section of the settings that a set records; none if its maker has put something else there."""
    found = distilled.config.get(section)
    return found if isinstance(found, Mapping) else {}


def _check_folder(command: Fit | Eval, out: Any) -> None:
    if command.trainer.world_size > 1 and out is None:
        raise BaconError("several processes need a folder that all of them know: give out=...")


def _test_data(data: Any, train: Any, root: Any, distilled: DistilledSet) -> tuple[list[Any], Any]:
    """Return settings of the test data, and a function that makes its DataModule, or None if the settings suffice."""
    recorded = {k: v for k, v in _recorded(distilled, "data").items() if k in _OF_FILES}
    meta = distilled.meta
    if train is not None and (data is None or isinstance(data, (str, os.PathLike, DataModule))):
        raise BaconError("train=... goes with test images in memory; other data bring their training images.")
    if isinstance(data, DataModule):
        return [], lambda given: data
    if data is None and not (meta.name in CATALOG and recorded):
        raise BaconError(f"the set was made from {one_line(meta.name, 40)}, whose files are not known: give the data.")
    if data is None or (isinstance(data, str) and (data in CATALOG or not Path(data).is_dir())):
        name = meta.name if data is None else _named(data)
        where = {} if root is None else {"root": os.fspath(root)}
        return [{"data": {**(recorded if name == meta.name else {}), "name": name, **where}}], None
    if isinstance(data, (str, os.PathLike)):
        there = recorded if meta.name == "folder" else {}
        return [{"data": {**there, "name": "folder", "root": os.fspath(data)}}], None
    if root is not None:
        raise BaconError("root=... is for datasets of the catalog: leave it out, the images are in memory.")
    test = labeled_images(data, meta.class_names, every_class=False)
    real = None if train is None else labeled_images(train, meta.class_names)
    return [], lambda given: InMemoryData(real, test, name=meta.name, meta=meta, eval_batch=given.eval_batch)


def _data(data: Any, root: Any, ipc: int) -> tuple[list[Any], Any]:
    """Return the schedule for the data, and a function that makes its DataModule, or None if the settings suffice."""
    common = ["schedules/bacon", *(["schedules/one_image"] if ipc == 1 else [])]
    if isinstance(data, str) and (data in CATALOG or not Path(data).is_dir()):
        name = _named(data)
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


def _named(data: str) -> str:
    """Return the name of a dataset of the catalog, or say that there is neither such a dataset nor such a folder."""
    if Path(data).name != data:
        raise BaconError(f"there is no folder '{one_line(data, 80)}': give one with a folder of images for each class.")
    try:
        return find(data).name
    except BaconError as error:
        raise BaconError(f"{error} A folder of that name is not there, either.") from error


def _schedule(name: str, ipc: int) -> list[Any]:
    """The configurations of a dataset of the catalog for a number of images per class; none where it has none."""
    there = [n for n in (ipc, _SCHEDULE, 1) if config_files.named(f"{name}/ipc{n}")]
    if not there:
        return []
    return [f"{name}/ipc{there[0]}", *(["schedules/one_image"] if there[0] != ipc == 1 else [])]


def _of_memory(given: Any) -> dict[str, Any]:
    """Return the settings of the data that also apply to images in memory."""
    return {name: given[name] for name in IN_MEMORY}


def _overlay(given: str | os.PathLike[str], group: str) -> list[str]:
    name = os.fspath(given)
    return [str(config_files.overlay(name, group) or f"{group}/{name}")]
