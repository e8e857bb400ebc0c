"""Figures of an evaluation. Every function returns a matplotlib figure that is not registered with pyplot."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from bacon_pl import rng
from bacon_pl.evaluation import LABELS, Embedded, RunResult, of_main
from bacon_pl.learners import spread
from bacon_pl.lettering import lettering

_COLORS = dict(zip(LABELS, ("#1b6ca8", "#8064a2", "#c0504d", "#e3a23c", "#7a9e3f", "#666666"), strict=True))
_FEW_CLASSES = 15
_NAMED_CLASSES = 100
_CLASSES_A_ROW = 75  # classes per row of bars, if there are too many for one row
_LONGEST_NAME = 24


def figures(
    run_results: Sequence[RunResult], class_names: Sequence[str], embedded: Embedded, seed: int = 0
) -> dict[str, Figure]:
    """Draw all figures of an evaluation.

    Args:
        run_results: Results of all runs; that of the main architecture on the distilled set comes first.
        class_names: Names in label order.
        embedded: Embeddings of images in the feature space of the main architecture.
        seed: Seed of the projection of the embeddings.

    Returns:
        Figures by name; the names can be used as file names.
    """
    main = of_main(run_results)
    return {
        "accuracy": accuracy_figure(run_results),
        "curves": curves_figure(main),
        "per_class": per_class_figure(main, class_names),
        "confusion": confusion_figure(run_results[0].confusion.sum(0), class_names),
        "embedding": embedding_figure(embedded, class_names, seed),
    }


def accuracy_figure(run_results: Sequence[RunResult]) -> Figure:
    """Draw the accuracy of each architecture on each training set: means, with standard deviations if there are any."""
    given = {(o.architecture, o.training_set): o.accuracies for o in run_results if o.variant == "given"}
    architectures = list(dict.fromkeys(architecture for architecture, _ in given))
    sets = [name for name in LABELS if any((architecture, name) in given for architecture in architectures)]
    figure, axes = _figure(2 + 1.2 * len(architectures) * max(2, len(sets)) / 2, 3.6)
    for i, name in enumerate(sets):
        there = [n for n, architecture in enumerate(architectures) if (architecture, name) in given]
        found = [given[architectures[n], name] for n in there]
        axes.bar(
            [n + (i - (len(sets) - 1) / 2) * 0.8 / len(sets) for n in there],
            [float(accuracies.mean()) for accuracies in found],
            0.8 / len(sets),
            yerr=[float(spread(accuracies)) for accuracies in found] if len(found[0]) > 1 else None,
            label=LABELS[name],
            color=_COLORS[name],
            capsize=3,
        )
    texts, families = _plain(architectures)
    axes.set_xticks(range(len(architectures)), texts, family=families)
    axes.set_ylabel("test accuracy (%)")
    _legend(figure, axes)
    return figure


def curves_figure(run_results: Sequence[RunResult]) -> Figure:
    """Draw training loss and test accuracy over the epochs: a line per training set with a band of ± one deviation."""
    figure = Figure(figsize=(9, 3.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    loss, accuracy = figure.subplots(1, 2)
    for o in run_results:
        lines = [(loss, range(1, o.loss.shape[1] + 1), o.loss), (accuracy, o.curve_epochs, o.curve)]
        for axes, epochs, values in lines:
            if not values.shape[1]:
                continue
            mean, doubt = values.mean(0).numpy(), spread(values).numpy()
            axes.plot(epochs, mean, label=LABELS[o.training_set], color=_COLORS[o.training_set])
            if len(values) > 1:
                axes.fill_between(epochs, mean - doubt, mean + doubt, color=_COLORS[o.training_set], alpha=0.2, lw=0)
    loss.set_yscale("log")
    loss.set(xlabel="epoch", ylabel="training loss")
    accuracy.set(xlabel="epoch", ylabel="test accuracy (%)")
    _legend(figure, loss)
    return figure


def per_class_figure(run_results: Sequence[RunResult], class_names: Sequence[str]) -> Figure:
    """Draw the accuracy of every class with one bar per training set, in several rows if there are many classes.

    A class without test images has no bar.
    """
    classes = len(class_names)
    rows = 1 if classes <= _NAMED_CLASSES else -(-classes // _CLASSES_A_ROW)
    per_row = -(-classes // rows)
    width = 2 + min(40, 0.12 * per_row * (1 + len(run_results)))
    figure = Figure(figsize=(width, 3.6 * rows), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    for number, axes in enumerate(figure.subplots(rows, squeeze=False)[:, 0]):
        part = slice(number * per_row, (number + 1) * per_row)
        names = class_names[part]
        places = np.arange(len(names))
        for i, o in enumerate(run_results):
            axes.bar(
                places + (i - (len(run_results) - 1) / 2) * 0.8 / len(run_results),
                o.per_class.mean(0).nan_to_num().numpy()[part],
                0.8 / len(run_results),
                label=LABELS[o.training_set],
                color=_COLORS[o.training_set],
            )
        if rows > 1:
            axes.set(xlim=(-1, per_row), ylim=(0, 100))
        _name_classes(axes.set_xticks, names, upright=True)
        axes.set_ylabel("test accuracy (%)")
    _legend(figure, figure.axes[0])
    return figure


def confusion_figure(confusion: Tensor, class_names: Sequence[str]) -> Figure:
    """Draw a confusion matrix in percent of each true class.

    Args:
        confusion: (C, C), number of images of class i (row) classified as class j (column).
        class_names: Names in label order.

    Returns:
        The figure.
    """
    percent = (100 * confusion / confusion.sum(1, keepdim=True).clamp(min=1)).numpy()
    side = 2.5 + min(12, 0.4 * len(class_names))
    figure, axes = _figure(side + 0.8, side)
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="% of the true class", shrink=0.8)
    if len(class_names) <= _FEW_CLASSES:
        for i, row in enumerate(percent):
            for j, value in enumerate(row):
                axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value > 50 else "black")
    _name_classes(axes.set_xticks, class_names, upright=True)
    _name_classes(axes.set_yticks, class_names)
    axes.set(xlabel="taken for", ylabel="true class")
    return figure


def embedding_figure(embedded: Embedded, class_names: Sequence[str], seed: int = 0) -> Figure:
    """Draw a two-dimensional t-SNE projection of real embeddings (dots) and synthetic embeddings (crosses)."""
    # Imported here: scikit-learn takes a while to import.
    from sklearn.manifold import TSNE

    points = torch.cat([embedded.real, embedded.synthetic]).float().numpy()
    perplexity = min(30.0, (len(points) - 1) / 3)
    projection = TSNE(perplexity=perplexity, init="pca", random_state=rng.derive(seed, "t-SNE") % 2**32)
    plane = projection.fit_transform(points)
    real, synthetic = plane[: len(embedded.real)], plane[len(embedded.real) :]
    figure, axes = _figure(6.4, 5.2)
    marks = ((real, embedded.real_labels, 24, ".", 0.5), (synthetic, embedded.synthetic_labels, 60, "X", 1.0))
    for where, labels, size, marker, alpha in marks:
        axes.scatter(
            where[:, 0],
            where[:, 1],
            s=size,
            c=labels.numpy(),
            marker=marker,
            alpha=alpha,
            edgecolors="black" if marker == "X" else "none",
            linewidths=0.6,
            cmap="tab10" if len(class_names) <= 10 else "turbo",
            vmin=0,
            vmax=max(9, len(class_names) - 1),
        )
    axes.set(xticks=[], yticks=[], title="t-SNE of embeddings: real (dots) and synthetic (crosses)")
    if len(class_names) <= _FEW_CLASSES:
        colors = axes.collections[0].to_rgba(np.arange(len(class_names)))
        texts, families = _plain(class_names)
        for color, text in zip(colors, texts, strict=True):
            axes.scatter([], [], s=30, color=color, label=text)
        _legend(figure, axes, families)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _legend(figure: Figure, axes: Axes, families: Sequence[str] | None = None) -> None:
    font = {"size": "small"} if families is None else {"size": "small", "family": list(families)}
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, prop=font)


def _name_classes(set_ticks: Callable[..., object], class_names: Sequence[str], upright: bool = False) -> None:
    if len(class_names) <= _NAMED_CLASSES:
        names, families = _plain(class_names)
        rotation = 90 if upright and max(map(len, names)) > 2 else 0
        set_ticks(range(len(names)), names, rotation=rotation, fontsize="small", family=families)


def _plain(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return displayable texts and font families for names from files, shortened and without mathtext."""
    shown = lettering(names, _LONGEST_NAME)
    return [text.replace("$", r"\$") for text in shown.texts], list(shown.families)
