"""A good file and a folder for what becomes of it."""

from pathlib import Path

import pytest

from tests.distilled_set.hostile import honest


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def good(place: Path) -> bytes:
    return honest().save(place / "good").read_bytes()
