"""Tables of an evaluation in Markdown, made from the content of ``results.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bacon_pl.evaluation import (
    LABELS,
    VIEWS,
    accuracy_rule,
    accuracy_table,
    escaped,
    markdown_table,
    notes,
    radius,
    recipe_line,
    with_error,
)

_ROWS = 20
"""Number of rows above which the table of classes is split into blocks side by side."""
_MOST_COLUMNS = 12
"""Maximum number of columns of a table that is split into blocks."""


def markdown(numbers: Mapping[str, Any]) -> str:
    """Format the results of an evaluation as a page of tables.

    Args:
        numbers: Results from :func:`bacon_pl.evaluation.results`.

    Returns:
        Markdown with the evaluated set and the recipe, accuracies by architecture and training set, the robust scores
        and the bound and the risk if they were computed, and accuracies by class.
    """
    size = f"{numbers['storage_bytes']:,} bytes of pixels"
    if numbers["storage_share"] is not None:
        size += f", {100 * numbers['storage_share']:.2g} % of the training set"
    upscaling = numbers.get("upscaling", "bilinear")  # results of earlier versions do not name it
    factor = f"{numbers['factor']}" + (f" ({upscaling})" if upscaling != "bilinear" else "")
    parts = [
        f"# {escaped(numbers['dataset'])}, {numbers['ipc']} image{'s' * (numbers['ipc'] > 1)} per class",
        f"Method {escaped(numbers['method'] or 'unknown')}, factor {factor}: {numbers['train_images']} "
        f"training images ({size}). {_which(numbers['distilled'])}",
        f"Recipe: {recipe_line(numbers['runs'][0]['recipe'], numbers['runs'][0]['seed'])}.",
        "## Accuracy",
        f"Top-1 {accuracy_rule(numbers)}.",
        accuracy_table(numbers["runs"]),
        *(f"{note[0].upper()}{note[1:]}." for note in notes(numbers)),
    ]
    if numbers["scores"] is not None:
        parts += ["## Robust scores", _scores(numbers["scores"], numbers["network"])]
    if numbers["bound"] is not None:
        parts += ["## Bound and risk", _bound(numbers["bound"], numbers["network"])]
    parts += ["## Accuracy by class", f"{escaped(numbers['network'])}, in percent.", _classes(numbers)]
    return "\n\n".join(parts) + "\n"


def _which(distilled: Mapping[str, Any]) -> str:
    where = "" if distilled["path"] is None else f" from {escaped(distilled['path'])}"
    return f"The set has the checksum {distilled['checksum']}{where}."


def _scores(scores: Mapping[str, Any], network: str) -> str:
    a, weights = scores["accuracies"], scores.get("weights") or {}
    w, gamma = (weights.get(name, 0.5) for name in ("w", "gamma"))
    weighted = "from IOR and HLR, weighted alike" if w == 0.5 else f"{w:g} IOR - {1 - w:g} HLR"
    shares = "" if gamma == 0.5 else f" (weight {gamma:g})"
    rows = [
        ["hard-label recovery (HLR)", f"{scores['hlr']:.3f}", f"{a['real_hard']:.3f} - {a['syn_hard']:.3f}"],
        ["improvement over random (IOR)", f"{scores['ior']:.3f}", f"{a['syn_any']:.3f} - {a['random_any']:.3f}"],
        ["label-robust score (LRS)", f"{scores['lrs']:.3f}", weighted],
        [
            "augmentation-robust score (ARS)",
            f"{scores['ars']:.3f}",
            f"{a['syn_aug']:.3f} - {a['random_aug']:.3f} augmented{shares}, {a['syn_plain']:.3f} - "
            f"{a['random_plain']:.3f} not",
        ],
    ]
    heading = f"DD-Ranking's scores on {escaped(network)}, from mean accuracies in [0, 1]."
    return f"{heading}\n\n{markdown_table(['score', 'value', 'from'], rows)}"


def _bound(bound: Mapping[str, Any], network: str) -> str:
    settings = bound["settings"]
    own = "the median distance of two real embeddings of a class" if settings["epsilon"] is None else "given"
    heading = (
        f"Bound: of the logarithm of the probability that a real embedding lies within ε of a synthetic one, in nats, "
        f"from below (λ {settings['tv_weight']:g}, clip {settings['clip']}, {settings['samples']} draws). Risk: the "
        f"share of pairs of a real and a synthetic embedding that are further apart than ε ({settings['real_images']} "
        f"real images a class at most). Means over classes ± standard errors; {escaped(network)}; ε is {own}."
    )
    rows = [
        [VIEWS[name], with_error(n, "bound", 1), with_error(n, "risk", 3), radius(n)]
        for name, n in bound["networks"].items()
    ]
    return f"{heading}\n\n{markdown_table(['weights', 'bound', 'risk', 'ε'], rows)}"


def _classes(numbers: Mapping[str, Any]) -> str:
    runs = [r for r in numbers["runs"] if r["network"] == numbers["network"] and r["variant"] == "given"]
    cells = []
    for c, name in enumerate(numbers["classes"]):
        values = (run["per_class"]["mean"][c] for run in runs)
        cells.append([escaped(name), *("" if value is None else f"{value:.1f}" for value in values)])
    head = ["class", *(LABELS[run["training_set"]] for run in runs)]
    columns = max(1, min(-(-len(cells) // _ROWS), _MOST_COLUMNS // len(head)))
    rows = -(-len(cells) // columns)
    cells += [[""] * len(head)] * (rows * columns - len(cells))
    return markdown_table(head * columns, ([part for row in cells[r::rows] for part in row] for r in range(rows)))
