"""A good file and a folder for what becomes of it."""

from pathlib import Path

import pytest

from bacon_pl.distilled_set import DistilledSet
from tests.distilled_set.hostile import honest, honest_format2


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def good(place: Path) -> bytes:
    return honest().save(place / "good").read_bytes()


@pytest.fixture(scope="module", params=[honest, honest_format2], ids=["format 1", "format 2"])
def made(request: pytest.FixtureRequest) -> DistilledSet:
    """A set of each format."""
    distilled: DistilledSet = request.param()
    return distilled


@pytest.fixture(scope="module")
def written(place: Path, made: DistilledSet) -> bytes:
    """The file of :func:`made`."""
    return made.save(place / "written").read_bytes()
