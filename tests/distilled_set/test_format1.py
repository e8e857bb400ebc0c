"""Files of format 1, which were written before there was another format: they are read for ever, bit for bit."""

from pathlib import Path

import pytest
import torch

from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set import DistilledSet
from tests.distilled_set.making import description_of, make

FILES = Path(__file__).parent / "data"
GRAY = DatasetMeta("toy", ("ant", "bee"), 1, (3, 2), (0.5,), (0.25,), 1000)
COLOR = DatasetMeta("tøy", ("ant", "bee", "cat"), 3, (4, 4), (0.25, 0.5, 0.75), (0.5, 0.25, 0.125))


def numbers(*shape: int) -> torch.Tensor:
    return (torch.arange(torch.Size(shape).numel()) % 61 - 30).view(shape) / 16


STORED = {
    "format1": DistilledSet(
        numbers(4, 1, 3, 2),
        torch.tensor([0, 0, 1, 1]),
        GRAY,
        method="dm",
        config={"model": {"ipc": 2, "lr": 0.2}},
        seed=7,
        version="0.1.0",
        commit="abc",
    ),
    "format1_tiles_step_size": DistilledSet(
        numbers(3, 3, 4, 4),
        torch.arange(3),
        COLOR,
        factor=2,
        method="bacon",
        config={"ä": [1, None, "x"]},
        seed=1 << 63,
        version="0.1.0",
        step_size=0.0125,
    ),
}
CHECKSUMS = {"format1": "d89ff731", "format1_tiles_step_size": "5245fc60"}


@pytest.mark.parametrize("name", STORED)
def test_a_file_of_format_1_is_read_as_what_was_stored(name: str, tmp_path: Path) -> None:
    path, stored = FILES / f"{name}.safetensors", STORED[name]
    read = DistilledSet.load(path)
    assert description_of(path)["format_version"] == 1
    assert torch.equal(read.images, stored.images) and torch.equal(read.labels, stored.labels)
    for field in ("meta", "factor", "method", "config", "seed", "version", "commit", "step_size"):
        assert getattr(read, field) == getattr(stored, field), field
    assert read == stored
    assert read.checksum == stored.checksum == CHECKSUMS[name]
    assert (read.soft_labels, read.label_kind, read.meta.whitening) == (None, None, None)


@pytest.mark.parametrize("name", STORED)
def test_a_set_that_needs_nothing_more_is_written_as_before(name: str, tmp_path: Path) -> None:
    assert STORED[name].save(tmp_path / "a").read_bytes() == (FILES / f"{name}.safetensors").read_bytes()


def test_only_what_format_1_cannot_hold_is_in_format_2(tmp_path: Path) -> None:
    soft = make().with_soft_labels(torch.zeros(6, 3), "logits")
    unequal = DistilledSet(make().images[:5], make().labels[:5], make().meta)
    for name, distilled, version in (("a", make(step_size=0.1), 1), ("b", soft, 2), ("c", unequal, 2)):
        assert description_of(distilled.save(tmp_path / name))["format_version"] == version
