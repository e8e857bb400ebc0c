"""What format 2 adds to a distilled set: soft labels, unequal numbers of images, whitening, rows in any order."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from bacon_pl.data.images import DatasetMeta, denormalize
from bacon_pl.data.whitening import Whitening
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.partition import expand, expand_labels
from tests.distilled_set.making import META, description_of, make

WHITENED = replace(META, whitening=Whitening("zca", 0.1, "abcdef"))
COUNTS = (3, 1, 2)


def soft(kind: str, *shape: int, seed: int = 3) -> torch.Tensor:
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 3
    return (numbers if kind == "logits" else numbers.softmax(-1)).half()


def unequal(factor: int = 2, kind: Any = None, meta: DatasetMeta = META) -> DistilledSet:
    labels = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    images = torch.randn(6, 3, 8, 12, generator=torch.Generator().manual_seed(9))
    labeled = None if kind is None else soft(kind, 6, factor**2, 3)
    return DistilledSet(images, labels, meta, factor=factor, soft_labels=labeled, label_kind=kind, version="1")


# ---- soft labels


@pytest.mark.parametrize("kind", ["logits", "probabilities"])
@pytest.mark.parametrize("shape", [(6, 3), (6, 4, 3)], ids=["per canvas", "per tile"])
def test_soft_labels_come_back_bit_for_bit(kind: Any, shape: tuple[int, ...], tmp_path: Path) -> None:
    given_labels = soft(kind, *shape)
    distilled = make(soft_labels=given_labels, label_kind=kind)
    again = DistilledSet.load(distilled.save(tmp_path))
    assert again.soft_labels is not None and again.soft_labels.dtype == torch.float16
    assert torch.equal(again.soft_labels.view(torch.int16), given_labels.view(torch.int16))
    assert (again.label_kind, again, again.checksum) == (kind, distilled, distilled.checksum)
    assert description_of(tmp_path / "distilled.safetensors")["label_kind"] == kind


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_expanded_soft_labels_are_aligned_with_the_images(factor: int) -> None:
    n, tiles = 6, factor**2
    number = torch.arange(n * tiles).view(n, tiles)
    # Every pixel of a tile, which are numbered column by column, is the number of its label.
    row, column = torch.arange(8) // (8 // factor), torch.arange(12) // (12 // factor)
    canvases = number[:, column * factor + row[:, None]].float()[:, None].expand(-1, 3, -1, -1)
    labeled = torch.stack([number, -number, number % 7], -1).half()
    labels = torch.arange(3).repeat_interleave(2)
    distilled = DistilledSet(canvases, labels, META, factor=factor, soft_labels=labeled, label_kind="logits")
    images, labels = distilled.expanded()
    rows = distilled.expanded_soft_labels()
    assert rows is not None and rows.shape == (n * tiles, 3)
    assert torch.equal(rows[:, 0].float(), images[:, 0, 0, 0])
    assert distilled.with_soft_labels(rows, "logits") == distilled  # rows in the order of expanded()
    per_canvas = distilled.with_soft_labels(labeled[:, 0], "logits").expanded_soft_labels()
    assert per_canvas is not None
    for column in range(3):
        assert torch.equal(per_canvas[:, column], expand_labels(labeled[:, 0, column], factor))
    assert torch.equal(labels, expand_labels(distilled.labels, factor))
    assert isinstance(distilled[0][1], int) and distilled[0][1] == 0  # indexing gives the class


def test_a_copy_with_other_soft_labels() -> None:
    plain = make(step_size=0.1)
    labeled = plain.with_soft_labels(soft("logits", 6, 3).double(), "logits")
    assert plain.soft_labels is None and torch.equal(labeled.soft_labels, soft("logits", 6, 3))
    assert labeled.with_soft_labels(None, None) == plain
    assert (labeled.config, labeled.step_size, labeled.commit) == (plain.config, 0.1, "abc")
    others = [
        plain,
        labeled,
        plain.with_soft_labels(soft("probabilities", 6, 3), "logits"),
        plain.with_soft_labels(soft("probabilities", 6, 3), "probabilities"),
        plain.with_soft_labels(soft("logits", 6, 3)[:, None].expand(-1, 4, -1), "logits"),
        plain.with_soft_labels(torch.zeros(6, 3), "logits"),
        plain.with_soft_labels(-torch.zeros(6, 3), "logits"),
    ]
    assert len(set(others)) == len({s.checksum for s in others}) == len(others)
    assert copy.deepcopy(labeled) == labeled


def test_one_tile_is_the_canvas(tmp_path: Path) -> None:
    rows = soft("logits", 6, 3)
    distilled = make(factor=1, soft_labels=rows[:, None], label_kind="logits")
    assert distilled == make(factor=1, soft_labels=rows, label_kind="logits")
    assert DistilledSet.load(distilled.save(tmp_path)) == distilled


def test_the_sets_own_soft_labels_are_a_copy() -> None:
    rows = torch.zeros(6, 3, dtype=torch.float16)
    distilled = make(soft_labels=rows, label_kind="logits")
    rows += 1
    assert distilled.soft_labels is not None and not distilled.soft_labels.any()


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 10_000), classes=st.integers(1, 1000), sharp=st.sampled_from([0.01, 1.0, 30.0]))
def test_what_a_softmax_gives_is_taken(seed: int, classes: int, sharp: float) -> None:
    meta = DatasetMeta("toy", tuple(map(str, range(classes))), 1, (1, 1), (0.5,), (0.25,))
    logits = torch.randn(classes, classes, generator=torch.Generator().manual_seed(seed)) * sharp
    for probabilities in (logits.softmax(1), logits.double().softmax(1).half()):
        DistilledSet(
            torch.zeros(classes, 1, 1, 1),
            torch.arange(classes),
            meta,
            soft_labels=probabilities,
            label_kind="probabilities",
        )


NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (torch.zeros(6, 3), None, "must be said whether the soft labels are logits or probabilities"),
        (torch.zeros(6, 3), "scores", "must be said whether"),
        (None, "logits", "without soft labels"),
        (torch.zeros(6, 4), "logits", r"shape \(6, 4\) where \(6, 3\).* or \(6, 4, 3\)"),
        (torch.zeros(6, 3, 3), "logits", "shape"),
        (torch.zeros(6, 1, 3), "logits", "shape"),  # of four tiles
        (torch.zeros(4, 6, 3), "logits", "shape"),
        (torch.zeros(()), "logits", "shape"),
        (torch.full((6, 3), NAN), "logits", "not finite numbers of float16"),
        (torch.full((6, 3), INFINITE), "logits", "not finite"),
        (torch.full((6, 3), 1e5), "logits", "not finite numbers of float16, which ends at 65,504"),
        (torch.tensor([1.5, -0.5, 0]).expand(6, 3), "probabilities", "negative"),
        (torch.full((6, 3), 0.25), "probabilities", r"do not sum to 1 \(one row sums to 0.75\)"),
        (torch.full((6, 4, 3), 0.335), "probabilities", "do not sum to 1"),
        (torch.zeros(6, 3), "probabilities", "do not sum to 1"),
        (torch.full((6, 3), NAN), "probabilities", "not finite"),
        (torch.ones(6, 3, dtype=torch.int64), "logits", "must be floating-point numbers, got torch.int64"),
        (torch.zeros(6, 3, dtype=torch.complex64), "logits", "must be floating-point numbers"),
        ([[0.0] * 3] * 6, "logits", "soft_labels must be a tensor, got list"),
    ],
)
def test_soft_labels_that_make_no_sense(labels: Any, kind: Any, message: str) -> None:
    with pytest.raises(BaconError, match=message) as error:
        make(soft_labels=labels, label_kind=kind)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


# ---- unequal numbers and order


def test_numbers_per_class_may_differ(tmp_path: Path) -> None:
    distilled = unequal(kind="logits")
    assert (distilled.counts, distilled.ipc, len(distilled)) == (COUNTS, 2, 24)
    assert make().counts == (2, 2, 2)
    assert DistilledSet(distilled.images[:5], torch.tensor([0, 0, 0, 1, 2]), META).ipc == 2  # 5/3, rounded up
    assert "3 classes × 1 to 3 images" in repr(distilled) and "soft labels: logits per tile" in repr(distilled)
    again = DistilledSet.load(distilled.save(tmp_path))
    assert again == distilled and again.counts == COUNTS


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 0, 1, 1, 1, 1]), r"class 2 \('cat'\) has no image"),
        (torch.tensor([0, 0, 1, 1, 2, 3]), "labels run from 0 to 3"),
        (torch.tensor([0, 0, 1, 1, 2, 2.5]), "must be whole numbers"),
        (torch.tensor([0, 0, 1, 1, 2, NAN]), "must be whole numbers"),
        ([0, 0, 1, 1, 2, 2], "labels must be a tensor, got list"),
    ],
)
def test_labels_that_make_no_sense(labels: Any, message: str) -> None:
    with pytest.raises(BaconError, match=message):
        DistilledSet(make().images, labels, META)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(6)), kind=st.sampled_from([None, "logits", "probabilities"]))
def test_images_in_any_order_are_sorted_stably_with_their_labels(order: list[int], kind: Any) -> None:
    distilled = unequal(kind=kind)
    stable = sorted(range(6), key=lambda i: int(distilled.labels[order[i]]))
    wanted = [order[i] for i in stable]
    labels = None if distilled.soft_labels is None else distilled.soft_labels[order]
    shuffled = DistilledSet(
        distilled.images[order], distilled.labels[order], META, factor=2, soft_labels=labels, label_kind=kind
    )
    assert torch.equal(shuffled.images, distilled.images[wanted])
    assert torch.equal(shuffled.labels, distilled.labels)
    if distilled.soft_labels is not None:
        assert shuffled.soft_labels is not None
        assert torch.equal(shuffled.soft_labels, distilled.soft_labels[wanted])


@pytest.mark.parametrize("checksum", [True, False])
@pytest.mark.parametrize("distilled", [unequal(), unequal(kind="logits"), make()], ids=["hard", "soft", "format 1"])
def test_rows_of_a_file_may_be_in_any_order(distilled: DistilledSet, checksum: bool, tmp_path: Path) -> None:
    path = distilled.save(tmp_path / "a.safetensors")
    tensors = safetensors.torch.load_file(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    if not checksum:
        metadata["bacon_pl"] = metadata["bacon_pl"].replace('"checksum"', '"comment"')
    order = [i for label in (2, 0, 1) for i in range(6) if distilled.labels[i] == label]
    safetensors.torch.save_file({name: t[order].contiguous() for name, t in tensors.items()}, path, metadata=metadata)
    assert DistilledSet.load(path) == distilled


def test_pictures_of_unequal_numbers(tmp_path: Path) -> None:
    distilled = unequal()
    for expanded, copies in ((False, 1), (True, 4)):
        rows = distilled.pixels_by_class(expanded=expanded)
        assert [len(row) for row in rows] == [copies * count for count in COUNTS]
        for label, row in enumerate(rows):
            canvases = distilled.images[distilled.labels == label]
            wanted = expand(canvases, 2) if expanded else canvases
            assert torch.equal(row, denormalize(wanted, META.mean, META.std))
        padded = distilled.pixels(expanded=expanded)
        assert padded.shape == (3, 3 * copies, 3, 8, 12)
        for row, images in zip(padded, rows, strict=True):
            assert torch.equal(row[: len(images)], images) and (row[len(images) :] == 1).all()
        distilled.export_png(tmp_path / f"png{copies}", expanded=expanded)
        names = [len(list((tmp_path / f"png{copies}" / name).iterdir())) for name in ("ant", "bee", "cat")]
        assert names == [copies * count for count in COUNTS]
    assert distilled.grid_tensor()[:, 12:20, 16:].eq(1).all()  # beside the only bee
    distilled.save_grid(tmp_path / "grid.png")
    html = distilled._repr_html_()
    assert html.count("<tr>") == 3 and "Shown" not in html


def test_the_html_tells_what_it_leaves_out() -> None:
    images = torch.zeros(14, 3, 8, 12)
    distilled = DistilledSet(images, torch.tensor([0] * 12 + [1, 2]), META)
    assert "Shown: the first 10 of 1 to 12 images of a class." in distilled._repr_html_()


# ---- whitening


def test_the_whitened_space_is_stored(tmp_path: Path) -> None:
    distilled = unequal(meta=WHITENED)
    path = distilled.save(tmp_path / "a.safetensors")
    assert description_of(path)["whitening"] == {"kind": "zca", "epsilon": 0.1, "fingerprint": "abcdef"}
    again = DistilledSet.load(path)
    assert again.meta.whitening == WHITENED.whitening and again == distilled
    others = [unequal(), unequal(meta=replace(META, whitening=Whitening("zca", 0.2, "abcdef")))]
    assert len({distilled, *others}) == len({s.checksum for s in (distilled, *others)}) == 3
    assert "whitening=zca" in repr(distilled)
    assert description_of(make(WHITENED).save(tmp_path / "b"))["format_version"] == 2


# ---- storage


def test_storage_is_counted_whole() -> None:
    plain = make()
    assert (plain.label_bytes, plain.step_size_bytes) == (6, 0)
    assert plain.total_bytes == plain.pixel_bytes + 6
    labeled = make(soft_labels=soft("logits", 6, 4, 3), label_kind="logits", step_size=0.1)
    assert labeled.pixel_bytes == plain.pixel_bytes and labeled.storage_bytes == plain.storage_bytes
    assert labeled.label_bytes == 6 + 2 * 6 * 4 * 3
    assert labeled.step_size_bytes == 4
    assert labeled.total_bytes == labeled.pixel_bytes + labeled.label_bytes + 4
    assert labeled.share == plain.share


@pytest.mark.parametrize(("classes", "each"), [(1, 1), (2, 1), (256, 1), (257, 2), (65_536, 2), (65_537, 3)])
def test_hard_labels_take_whole_bytes(classes: int, each: int) -> None:
    meta = DatasetMeta("toy", tuple(map(str, range(classes))), 1, (1, 1), (0.5,), (0.25,))
    assert DistilledSet(torch.zeros(classes, 1, 1, 1), torch.arange(classes), meta).label_bytes == classes * each


# ---- misuse from Python: what could not be read again is not made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"factor": 2.0}, "'factor' has a value that makes no sense"),
        ({"factor": "2"}, "factor 2"),
        ({"seed": "7"}, "'seed' has a value"),
        ({"method": None}, "'method' has a value"),
        ({"commit": 5}, "'git_commit' has a value"),
        ({"step_size": "0.1"}, "step_size must be positive"),
        ({"step_size": 1e9}, "'step_size' has a value"),
        ({"meta": "toy"}, "meta must be a DatasetMeta, got str"),
        ({"meta": replace(META, whitening=Whitening("zca", NAN, "x"))}, "'whitening' has a value"),
    ],
)
def test_values_that_could_not_be_read_again(changes: dict[str, Any], message: str) -> None:
    arguments = {"meta": META, **changes}
    with pytest.raises(BaconError, match=message):
        DistilledSet(make().images, make().labels, **arguments)
    with pytest.raises(BaconError, match="images must be a tensor, got ndarray"):
        DistilledSet(make().images.numpy(), make().labels, META)  # type: ignore[arg-type]
