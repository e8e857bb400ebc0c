"""What the tests of the documentation share: the files that its pages show, in a folder where a user would stand."""

import sys

import pytest

from tests.docs.pages import example_files


def write_examples(folder):
    """Write every file that the README and the pages show."""
    for file, text in example_files().items():
        (folder / file).write_text(text)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with these files, for all tests of a module."""
    return write_examples(tmp_path_factory.mktemp("reader"))


@pytest.fixture
def standing_there(tmp_path, monkeypatch):
    """Stand in such a folder, with its modules importable and forgotten afterwards."""
    write_examples(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for module in {path.stem for path in tmp_path.glob("*.py")} - before:
        sys.modules.pop(module, None)
