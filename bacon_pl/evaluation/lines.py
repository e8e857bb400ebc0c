"""The printed lines of an evaluation: its plan, the result of each training, and the summary."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import one_line
from bacon_pl.evaluation.comparison import Comparison, Run
from bacon_pl.evaluation.run_result import RunResult
from bacon_pl.evaluation.storage import short_bytes, storage_line
from bacon_pl.learners import spread

LABELS = {
    "distilled": "distilled",
    "tiles": "tiles",
    "random": "random real",
    "herding": "herding",
    "k_center": "k-center",
    "whole": "all real",
}
"""Names of the training sets in reports, in the order of the tables' columns."""

_VARIANTS = {"given": "", "hard": ", hard labels", "plain": ", not augmented", "fixed_lr": ", fixed learning rate"}


def set_line(path: str | os.PathLike[str], distilled: DistilledSet) -> str:
    """Describe the evaluated set in one line.

    Args:
        path: Path of the set as given by the user.
        distilled: The set.
    """
    tiles = f", each of {distilled.factor}×{distilled.factor} tiles" if distilled.factor > 1 else ""
    if distilled.upscaling != "bilinear":
        tiles += f" ({distilled.upscaling})"
    method = one_line(distilled.method or "unknown", 40)
    images = f"{distilled.counts_text} image{'s' * (max(distilled.counts) != 1)} per class{tiles}"
    space = "" if distilled.meta.whitening is None else f", {distilled.meta.whitening}"
    return f"{one_line(path)}: {method}, {images}{space}, checksum {distilled.checksum}"


def trainings_line(comparison: Comparison) -> str:
    """Describe in one line which networks are trained on which sets."""
    recipe, runs, sets = comparison.recipe, comparison.runs, []
    for name in dict.fromkeys(run.training_set for run in runs):
        other = name == "whole" and recipe.whole_epochs is not None
        sets.append(f"{LABELS[name]} ({recipe.whole_epochs} epochs)" if other else LABELS[name])
    each = " each" if len(runs) > 1 else ""
    names = ", ".join(one_line(name, 40) for name in comparison.networks)
    return (
        f"{_count(len(runs), 'training')} of {_count(recipe.num_networks, 'network')}{each}: {names} on "
        f"{', '.join(sets)}"
    )


def recipe_lines(r: Mapping[str, Any], seed: int, own: Mapping[str, Any], used: Mapping[str, Any]) -> list[str]:
    """Describe a recipe in one line, and in another where it is not the one that was meant for a set.

    Args:
        r: The recipe as returned by :meth:`bacon_pl.learners.Recipe.described`.
        seed: Seed of the evaluation.
        own: All settings, by name, of the recipe that was meant for the set; none if it is not known.
        used: All settings of the recipe that is used. In both, what is None may be missing.
    """
    free = ("acceleration", "num_networks")  # which change no accuracy beyond rounding and spread
    names = [name for name in dict.fromkeys([*own, *used]) if own and name not in free]
    differ = [_difference(name, own.get(name), used.get(name)) for name in names if own.get(name) != used.get(name)]
    other = [f"the run that made the set was meant for another recipe: {', '.join(differ)}"] if differ else []
    return [recipe_line(r, seed), *other]


def _difference(name: str, own: Any, used: Any) -> str:
    """Describe the difference of a setting of two recipes; of classes and groups by their names."""
    one, other = (one_line(_short(value), 40) for value in (own, used))
    return f"{name} with other settings" if one == other else f"{name} {one} (here {other})"


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        path = value.get("class_path")
        return path.rpartition(".")[2] if isinstance(path, str) else "given"
    return "none" if value is None else str(value)


def recipe_line(r: Mapping[str, Any], seed: int) -> str:
    """Describe a recipe in one line.

    Args:
        r: The recipe as returned by :meth:`bacon_pl.learners.Recipe.described`.
        seed: Seed of the evaluation.
    """
    augment = r["augment"] if r["mixing"] is None else f"{r['augment']} and {r['mixing']}"
    if r.get("label_source") == "folder":
        augment = f"augmented as stored (trainings without such labels: {augment})"
    decay = "" if r.get("decay_norms_and_biases", True) else " of matrices"
    canvases = "" if r.get("cut_tiles", True) else ", whole canvases"
    epochs = _count(r["epochs"], "epoch") + (f" of at most {r['epoch_steps']} steps" if r.get("epoch_steps") else "")
    flat = " in flat steps" if r.get("flat") else ""
    test = f", test images enlarged to {r['test_resize']} pixels" if r.get("test_resize") else ""
    return (
        f"{epochs}, batch {r['batch_size']}, {r['optimizer']}{flat}, learning rate {_rate(r['lr'])} "
        f"({_schedule(r)}), weight decay {r['weight_decay']:g}{decay}, {augment}{canvases}, {_labels(r)}{test}; "
        f"seed {seed}"
    )


def _rate(lr: float | str) -> str:
    return "of the set" if isinstance(lr, str) else f"{lr:g}"


def _schedule(r: Mapping[str, Any]) -> str:
    schedule = f"× {r['lr_drop']} half-way"
    if r["schedule"] == "cosine":
        stretch, by_epoch = r.get("cosine_stretch") or 1, r.get("lr_by_epoch")
        schedule = "cosine" if stretch == 1 else f"1/{stretch:g} of a cosine"
        schedule += " by epoch" if by_epoch else ""
    if r["schedule"] == "milestones":
        schedule = f"× {r['lr_drop']} at {', '.join(f'{share:.3g}' for share in r['milestones'])} of the epochs"
    if r.get("warmup"):
        schedule += f" after a warm-up over {r['warmup']:.3g} of the steps"
    return schedule


def _labels(r: Mapping[str, Any]) -> str:
    if r["labels"] == "hard":
        return "hard labels"
    if r.get("label_source") == "stored":
        whose = "soft labels of the set"
    elif r.get("label_source") == "folder":
        whose = "labels stored for every batch"
    else:
        many = r.get("teachers") or 1
        whose = "labels of a teacher" if many == 1 else f"labels of {many} teachers"
        whose += {"epoch": ", once per epoch", "never": ", once"}.get(r.get("relabel") or "", "")
    return f"{whose} ({r['soft_loss']}, temperature {r['temperature']:g})"


def training_name(run: Run | RunResult) -> str:
    """Return the name of a training, e.g. ``convnet on random real``."""
    return f"{one_line(run.architecture, 40)} on {LABELS[run.training_set]}{_VARIANTS[run.variant]}"


def run_line(run_result: RunResult) -> str:
    """Format the result of a training, e.g. ``convnet on random real: 52.0 ± 2.1 %``."""
    values = run_result.accuracies
    std = float(spread(values)) if len(values) > 1 else None
    return f"{training_name(run_result)}: {_with_spread({'mean': float(values.mean()), 'std': std})} %"


def summary(numbers: Mapping[str, Any]) -> str:
    """Format a table of accuracies with one line per architecture and one column per training set.

    Args:
        numbers: Results from :func:`~bacon_pl.evaluation.results`.
    """
    columns, rows = accuracy_cells(numbers["runs"])
    head = ["network", *columns]
    lines = [head, *([one_line(network, 40), *cells] for network, cells in rows.items())]
    first, *others = (max(len(line[i]) for line in lines) for i in range(len(head)))
    laid_out = ("  ".join([line[0].ljust(first), *map(str.rjust, line[1:], others)]).rstrip() for line in lines)
    rule = accuracy_rule(numbers)
    return "\n".join([f"{rule[0].upper()}{rule[1:]}:", *laid_out, *notes(numbers)])


def notes(numbers: Mapping[str, Any]) -> list[str]:
    """Say what a table of accuracies needs beside it: labels that are not hard, who made them, and what is stored.

    Args:
        numbers: Results from :func:`~bacon_pl.evaluation.results`; those of earlier versions need not have all this.
    """
    found = []
    if note := (numbers.get("labels") or {}).get("note"):
        found.append(f"labels: {note}")
    if teachers := numbers.get("teachers"):
        found.append(teacher_line(teachers))
    if parts := numbers.get("storage"):
        found.append(f"storage: {storage_line(parts)}")
    return found


def teacher_line(teachers: Sequence[Mapping[str, Any]]) -> str:
    """Describe teachers by their test accuracies and sizes, in one line."""
    accuracy = ", ".join(f"{teacher['test_accuracy']:.1f}" for teacher in teachers)
    size = sum(teacher["bytes"] for teacher in teachers)
    who = "teacher" if len(teachers) == 1 else f"{len(teachers)} teachers"
    return f"{who}: {accuracy} % on the test images, {short_bytes(size)}"


def accuracy_rule(numbers: Mapping[str, Any]) -> str:
    """Describe the numbers in a table of accuracies."""
    networks = len(numbers["accuracy"]["per_network"])
    of = "of one network" if networks == 1 else f"mean ± standard deviation of {networks} networks"
    return f"test accuracy in percent, {of}"


def accuracy_cells(runs: Sequence[Mapping[str, Any]]) -> tuple[list[str], dict[str, list[str]]]:
    """Arrange the accuracies in a table, with labels of every kind, but without those that are not augmented.

    Args:
        runs: The entry ``runs`` of the results.

    Returns:
        The heads of the columns, and one cell per column for each architecture. Cells of the other architectures are
        empty for trainings that were needed only for the scores.
    """
    found = {
        (run["network"], (run["training_set"], run["variant"])): run["accuracy"]
        for run in runs
        if run["variant"] != "plain"
    }
    networks = list(dict.fromkeys(network for network, _ in found))
    there = {column for _, column in found}
    columns = [(name, variant) for name in LABELS for variant in _VARIANTS if (name, variant) in there]
    soft = any(run.get("recipe", {}).get("labels") == "soft" for run in runs if run["variant"] == "given")
    own = ", soft labels" if soft and any(variant == "hard" for _, variant in columns) else ""
    heads = [f"{LABELS[name]}{own if variant == 'given' else _VARIANTS[variant]}" for name, variant in columns]
    return heads, {n: [_with_spread(found.get((n, column))) for column in columns] for n in networks}


def score_line(scores: Mapping[str, Any]) -> str:
    """Format scores as ``scores: LRS 0.312 | ARS 0.281 | HLR 0.112 | IOR 0.254``."""
    told = " | ".join(f"{name.upper()} {scores[name]:.3f}" for name in ("lrs", "ars", "hlr", "ior"))
    weights = scores.get("weights") or {}
    other = {name: value for name, value in weights.items() if value != 0.5}
    return f"scores: {told}" + "".join(f", {name} {value:g}" for name, value in other.items())


def _with_spread(accuracy: Mapping[str, Any] | None) -> str:
    if accuracy is None:
        return ""
    return f"{accuracy['mean']:.1f}" + ("" if accuracy["std"] is None else f" ± {accuracy['std']:.1f}")


def _count(number: int, one: str) -> str:
    return f"{number:,} {one}{'' if number == 1 else 's'}"
