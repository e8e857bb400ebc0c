"""Writing a table as Markdown, as CSV and as a figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bacon_pl.evaluation import markdown_table, short_bytes, write_text
from bacon_pl.runtime import replacing
from bacon_pl.table.numbers import SCORES, Entry, mean_and_std
from bacon_pl.table.risk import SEEN_BY, risk_note

_FIELDS = (
    *("dataset", "ipc", "method", "mean", "std", "std_of_repeats", "repeats", "networks"),
    *("published", "difference", "tuned_from", "gain"),
    *("labels", "hard_mean", "hard_std", "storage_bytes", *SCORES),
    *(f"{number}_{view}" for view in SEEN_BY for number in ("bound", "risk")),
    "reason",
)
_COLORS = ("#c0504d", "#e3a23c", "#1b6ca8", "#7a9e3f", "#8064a2", "#4bacc6", "#666666", "#b8860b")


def write(out: Path, entries: Sequence[Entry], notes: Iterable[str], absent: Iterable[str]) -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.png``, each atomically.

    Args:
        out: Folder of the files.
        entries: Entries of the table.
        notes: Notes that explain the table.
        absent: Descriptions of combinations without an entry, with reasons.

    Returns:
        Paths of the files.
    """
    files = [
        write_text(out / "table.md", markdown(entries, notes, absent)),
        write_text(out / "table.csv", comma_separated(entries)),
    ]
    if any(entry.accuracies for entry in entries):
        with replacing(out / "table.png") as file:
            picture(entries).savefig(file, format="png")
        files.append(out / "table.png")
    return files


def markdown(entries: Sequence[Entry], notes: Iterable[str], absent: Iterable[str]) -> str:
    """Format the table as Markdown: the results, followed by a list of what was not run and why."""
    head, rows = _beside(entries) if any(entry.cell.tuned_from for entry in entries) else _plain(entries)
    parts = ["# Accuracy beside the published table", *notes]
    if rows:
        parts += [
            "Top-1 on the test set in percent: mean ± standard deviation over all networks of all repeats, where they "
            "are several. Published numbers are those of arXiv 2406.01112.",
            markdown_table(head, rows),
            *_labels_note(entries),
            *_scores_note(entries),
            *_beside_note(entries),
        ]
        if any(entry.accuracies for entry in entries):
            parts.append("![ours and published](table.png)")
    parts += risk_note(entries)
    missing = list(absent)
    for entry in entries:
        if entry.reason:
            how_many = f" ({len(entry.accuracies)} of {entry.wanted} repeats are there)" if entry.accuracies else ""
            missing.append(f"{_label(entry)}, {entry.cell.method}{how_many}: {entry.reason}")
    if missing:
        parts += ["## Not run", "\n".join(f"- {line}" for line in missing)]
    return "\n\n".join(parts) + "\n"


def _plain(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table without tuned settings."""
    more = _more(entries)
    rows = [
        [_label(e), e.cell.method, _ours(e), *(cell(e) for cell in more.values()), _count(e), _number(e.published),
         _signed(e.difference)]
        for e in entries
        if e.accuracies
    ]  # fmt: skip
    return ["dataset", "method", "ours", *more, "repeats × networks", "published", "difference"], rows


def _more(entries: Sequence[Entry]) -> dict[str, Callable[[Entry], str]]:
    """Columns beside the accuracies, by head: those with hard labels and what is stored, where either is known."""
    found: dict[str, Callable[[Entry], str]] = {}
    if any(entry.hard for entry in entries):
        found["with hard labels"] = lambda e: _mean_and_std(e.hard)
    if any(entry.storage is not None for entry in entries):
        found["storage"] = lambda e: "–" if e.storage is None else short_bytes(e.storage)
    if any(entry.scores for entry in entries):
        found |= {name.upper(): partial(_score, name=name) for name in ("lrs", "ars")}
    return found


def _score(entry: Entry, name: str) -> str:
    value = entry.score(name)
    return "–" if value is None else f"{value:.3f}"


def _scores_note(entries: Sequence[Entry]) -> list[str]:
    """Say what the robust scores are, where there are any."""
    if not any(entry.scores for entry in entries):
        return []
    return [
        "LRS and ARS are the label-robust and the augmentation-robust score of DD-Ranking (see `bacon eval --scores`), "
        "in [0, 1]; means over the repeats. A set that is as good as random images has an ARS of 0.269."
    ]


def _labels_note(entries: Sequence[Entry]) -> list[str]:
    """Say which accuracies were reached with soft labels; nothing if none were."""
    soft = [entry for entry in entries if entry.accuracies and "soft" in entry.labels]
    if not soft:
        return []
    where = "All" if len(soft) == len([e for e in entries if e.accuracies]) else ", ".join(
        dict.fromkeys(entry.cell.method for entry in soft)
    )  # fmt: skip
    beside = (
        "" if all(entry.hard for entry in soft) else "; --labels hard,soft shows those with hard labels beside them"
    )
    return [f"{where}: networks learned from soft labels{beside}. Storage holds the teacher where it makes them."]


def _beside(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table in which each row has the results of a method's own settings and of the tuned ones."""
    tuned = {_row(entry): entry for entry in entries if entry.cell.tuned_from}
    rows, more = [], _more(entries)
    for entry in entries:
        other = tuned.get(_row(entry))
        if entry.cell.tuned_from or not (entry.accuracies or (other and other.accuracies)):
            continue
        both = [entry] if other is None else [entry, other]
        count = ", ".join(dict.fromkeys(_count(e) for e in both if e.accuracies))
        gain = None if other is None else gain_of(other, entries)
        columns = (" / ".join(dict.fromkeys(column(e) for e in both)) for column in more.values())
        rows.append([_label(entry), entry.cell.method, _ours(entry), "–" if other is None else _ours(other),
                     _signed(gain), *columns, count, _number(entry.published), _signed(entry.difference)])  # fmt: skip
    head = ["dataset", "method", "its own settings", "tuned", "gain"]
    return [*head, *more, "repeats × networks", "published", "difference"], rows


def _beside_note(entries: Sequence[Entry]) -> list[str]:
    """Say whose the two values in one column are, where there may be two."""
    both = any(entry.cell.tuned_from for entry in entries) and _more(entries)
    return ["Of two values in a column, the second is that of the tuned settings."] if both else []


def gain_of(entry: Entry, entries: Sequence[Entry]) -> float | None:
    """What tuned settings gain over the method's own, in percentage points; None unless there are results of both."""
    own = next((e for e in entries if not e.cell.tuned_from and _row(e) == _row(entry)), None)
    if not entry.cell.tuned_from or own is None or own.mean is None or entry.mean is None:
        return None
    return entry.mean - own.mean


def comma_separated(entries: Sequence[Entry]) -> str:
    """Format the table as CSV; missing numbers are empty fields, and the column ``reason`` explains them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_FIELDS)
    for entry in entries:
        numbers = (entry.mean, entry.std, entry.std_of_repeats)
        networks = sum(map(len, entry.accuracies))
        writer.writerow(
            [entry.cell.dataset, entry.cell.ipc, entry.cell.method]
            + ["" if number is None else f"{number:.3f}" for number in numbers]
            + [len(entry.accuracies), networks]
            + ["" if number is None else f"{number:.3f}" for number in (entry.published, entry.difference)]
            + [entry.cell.tuned_from, "" if (gain := gain_of(entry, entries)) is None else f"{gain:.3f}"]
            + [entry.labels, *_csv_spread(entry.hard), "" if entry.storage is None else entry.storage]
            + ["" if (value := entry.score(name)) is None else f"{value:.4f}" for name in SCORES]
            + [
                "" if (value := entry.seen(view, number)) is None else f"{value:.5g}"
                for view in SEEN_BY
                for number in ("bound", "risk")
            ]
            + [entry.reason]
        )
    return text.getvalue()


def picture(entries: Sequence[Entry]) -> Figure:
    """Draw our accuracies as bars with standard deviations and the published ones as diamonds, by dataset and ipc.

    A method's tuned settings have its color, hatched.
    """
    groups = list(dict.fromkeys((e.cell.dataset, e.cell.ipc) for e in entries if e.accuracies))
    methods = {e.cell.method: e.cell.tuned_from for e in entries if e.accuracies}
    own_names = list(dict.fromkeys(tuned_from or method for method, tuned_from in methods.items()))
    width = 0.8 / len(methods)
    figure = Figure(figsize=(2.5 + len(groups) * max(1.2, 0.3 * len(methods)), 3.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for i, (method, tuned_from) in enumerate(methods.items()):
        own = [e for e in entries if e.cell.method == method and e.accuracies]
        at = [groups.index((e.cell.dataset, e.cell.ipc)) + (i - (len(methods) - 1) / 2) * width for e in own]
        spreads = [math.nan if e.std is None else e.std for e in own]
        color = _COLORS[own_names.index(tuned_from or method) % len(_COLORS)]
        hatch = "///" if tuned_from else None
        axes.bar(at, [e.mean or 0 for e in own], width, yerr=spreads, capsize=2, label=method, color=color, hatch=hatch,
                 edgecolor="white" if hatch else None, linewidth=0)  # fmt: skip
        known = [(x, e.published) for x, e in zip(at, own, strict=True) if e.published is not None]
        axes.scatter([x for x, _ in known], [y for _, y in known], marker="D", s=22, color="black", zorder=3)
    axes.scatter([], [], marker="D", s=22, color="black", label="published")
    axes.set_xticks(range(len(groups)), [f"{dataset}\nipc {ipc}" for dataset, ipc in groups])
    axes.set_ylabel("test accuracy (%)")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize="small")
    return figure


def _label(entry: Entry) -> str:
    return f"{entry.cell.dataset}, ipc {entry.cell.ipc}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}".removesuffix("0")


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.1f}"


def _ours(entry: Entry) -> str:
    return _mean_and_std(entry.accuracies)


def _mean_and_std(repeats: Sequence[Sequence[float]]) -> str:
    mean, std = mean_and_std(repeats)
    return "–" if mean is None else f"{mean:.1f}" + ("" if std is None else f" ± {std:.1f}")


def _csv_spread(repeats: Sequence[Sequence[float]]) -> list[str]:
    return ["" if number is None else f"{number:.3f}" for number in mean_and_std(repeats)]


def _count(entry: Entry) -> str:
    repeats = len(entry.accuracies)
    return f"{repeats} × {sum(map(len, entry.accuracies)) // repeats}" if repeats else "–"


def _row(entry: Entry) -> tuple[str, int, str]:
    return entry.cell.dataset, entry.cell.ipc, entry.cell.tuned_from or entry.cell.method
