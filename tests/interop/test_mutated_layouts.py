"""Foreign files in every layout, hit by chance: an equal set, another valid one, or one sentence, and nothing else."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_labels, open_set, write_set
from tests.distilled_set.hostile import mutate, mutation
from tests.interop.making import META
from tests.interop.test_fkd import CLASSES, COUNT, SIZE, batch, tree
from tests.interop.test_layouts import LABELS, N, randn, save, soft

FEW = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(FEW, max_examples=2000)


def pictures(folder: Path) -> Path:
    for label in range(2):
        (folder / f"new{label:03d}").mkdir(parents=True)
        for number in range(2):
            values = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
            name = f"class{label:03d}_id{number:03d}.jpg"
            Image.fromarray(values).save(folder / f"new{label:03d}" / name, quality=75)
    return folder


def labeled() -> DistilledSet:
    return DistilledSet(
        randn(N, 3, 4, 6), LABELS, META, factor=2, soft_labels=soft("logits"), label_kind="logits", step_size=0.1
    )


def make(layout: str, folder: Path) -> tuple[Path, Path]:
    """Write a good source; returns it and the file of it that is spoiled."""
    folder.mkdir()
    match layout:
        case "datm images" | "datm labels" | "datm lr":
            save(folder, images_best=randn(N, 3, 4, 6), labels_best=soft("logits"), lr_best=torch.tensor(0.5))
            return folder, folder / f"{layout.removeprefix('datm ')}_best.pt"
        case "tesla labels":
            save(folder, images_best=randn(N, 3, 4, 6), labels_best=soft("probabilities"))
            return folder, folder / "labels_best.pt"
        case "idc":
            torch.save([torch.rand(N, 3, 4, 6), LABELS], folder / "data.pt")
            return folder / "data.pt", folder / "data.pt"
        case "sre2l":
            return pictures(folder / "set"), folder / "set/new001/class001_id001.jpg"
        case _:
            path = write_set(labeled(), folder / f"a.{layout}", canvases=True)
            return path, path


LAYOUTS = ("datm images", "datm labels", "datm lr", "tesla labels", "idc", "sre2l", "pt", "npz")


def one_sentence(error: BaconError) -> None:
    sentence = str(error)
    assert sentence.endswith(".") and sentence.isprintable() and len(sentence) < 900


@dataclass(frozen=True)
class Good:
    """A good source, the file of it that is spoiled with its bytes, what its numbers are, and the set."""

    source: Path
    spoiled: Path
    content: bytes
    pixels: Any
    distilled: DistilledSet


@pytest.fixture(scope="module", params=LAYOUTS)
def good(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Good:
    layout = request.param
    source, spoiled = make(layout, tmp_path_factory.mktemp("good") / "theirs")
    pixels: Any = None if layout in ("sre2l", "pt", "npz") else "unit" if layout == "idc" else "normalized"
    return Good(source, spoiled, spoiled.read_bytes(), pixels, open_set(source, META, pixels=pixels))


def check(data: st.DataObject, good: Good) -> None:
    mutant = good.content
    for _ in range(data.draw(st.integers(1, 3))):
        mutant = mutate(mutant, *data.draw(mutation(max(len(mutant), 1)))) or b"\0"
    good.spoiled.write_bytes(mutant)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = open_set(good.source, META, pixels=good.pixels)
        except BaconError as error:
            one_sentence(error)
            return
    # Some of these files have no checksum, so other numbers may be read from them, but only of a whole valid set.
    assert found.images.isfinite().all() and min(found.counts) >= 1
    assert (found.soft_labels is None) == (found.label_kind is None)
    assert found.images.shape[1:] == good.distilled.images.shape[1:]
    again = good.spoiled.parent.parent / "again.safetensors"
    assert DistilledSet.load(found.save(again)) == found


@FEW
@given(data=st.data())
def test_mutated_files(data: st.DataObject, good: Good) -> None:
    check(data, good)


@pytest.mark.slow
@MANY
@given(data=st.data())
def test_mutated_files_many(data: st.DataObject, good: Good) -> None:
    check(data, good)


def test_the_good_files_are_read_again(good: Good) -> None:
    """Without this the tests above might refuse everything for one dull reason."""
    good.spoiled.write_bytes(good.content)
    assert open_set(good.source, META, pixels=good.pixels) == good.distilled


def check_labels(data: st.DataObject, folder: Path) -> None:
    path = folder / "epoch_0/batch_0.tar"
    mutant = path.read_bytes()
    for _ in range(data.draw(st.integers(1, 3))):
        mutant = mutate(mutant, *data.draw(mutation(max(len(mutant), 1)))) or b"\0"
    try:
        good = path.read_bytes()
        path.write_bytes(mutant)
        found = open_labels(folder, COUNT, CLASSES, SIZE).batch(0, 0)
    except BaconError as error:
        one_sentence(error)
        return
    finally:
        path.write_bytes(good)
    stored = batch(0, 0)
    assert found.logits.shape == stored[5].shape and found.logits.isfinite().all()
    assert found.partner is None or 0 <= int(found.partner.min()) <= int(found.partner.max()) < 4
    assert found.lam is None or 0 <= found.lam <= 1
    boxes = found.crop_boxes((100, 100))
    assert (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 101).all()


@FEW
@given(data=st.data())
def test_mutated_labels(data: st.DataObject, labels: Path) -> None:
    check_labels(data, labels)


@pytest.mark.slow
@settings(MANY, max_examples=5000)
@given(data=st.data())
def test_mutated_labels_many(data: st.DataObject, labels: Path) -> None:
    check_labels(data, labels)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tree(tmp_path_factory.mktemp("labels") / "a")


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("layout", ["datm images", "datm labels", "datm lr", "idc", "pt"])
def test_nothing_in_any_of_the_files_is_run(layout: str, tmp_path: Path) -> None:
    source, spoiled = make(layout, tmp_path / "theirs")
    torch.save([Bomb(tmp_path / "run"), LABELS], spoiled)
    with pytest.raises(BaconError, match="nothing of it was run"):
        open_set(source, META, pixels="normalized")
    assert not (tmp_path / "run").exists()
