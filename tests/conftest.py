"""Fixtures of the whole suite: golden numbers and small real data."""

import os
import sys

import hypothesis
import numpy as np
import pytest
import torch

from bacon_pl.data import CATALOG
from bacon_pl.threads import sleep_while_waiting
from tests.forked_cli import ForkedCli
from tests.paths import GOLDEN
from tests.quick_python import write_client

# Helpers' assertions show what they compared, like those of the tests.
for helper in ("commands.bad_input", "distilled_set.hostile", "distilled_set.making"):
    pytest.register_assert_rewrite(f"tests.{helper}")

# A busy machine is no failure.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

# Small tests are faster with one thread, and two suites may share a machine; the processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sleep_while_waiting()
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _quick_python(tmp_path_factory):
    """Let processes that tests start be forks of one that has imported everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", write_client(tmp_path_factory.mktemp("quick_python")))
        yield


@pytest.fixture(scope="session")
def forked_cli(tmp_path_factory):
    """A process that has imported the command line, for all tests."""
    with ForkedCli(tmp_path_factory.mktemp("forked_cli")) as process:
        yield process


@pytest.fixture
def golden():
    """Load a golden file by name, as tensors; texts are lists."""

    def load(name):
        with np.load(GOLDEN / f"{name}.npz") as arrays:
            found = {key: np.asarray(arrays[key]) for key in arrays}
        return {key: v.tolist() if v.dtype.kind == "U" else torch.from_numpy(v) for key, v in found.items()}

    return load


@pytest.fixture
def own_dataset(tmp_path, monkeypatch):
    """The name of an importable module with a dataset of one's own: SPEC, CLASH (a name that is taken) and DATA."""
    name = "birds_and_bees"
    (tmp_path / f"{name}.py").write_text(
        "import torch\nfrom bacon_pl.data import DatasetSpec, LabeledImages\n"
        "DATA = LabeledImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), ('bird', 'bee'))\n"
        "SPEC = DatasetSpec('birds', lambda options: (DATA, DATA))\nCLASH = DatasetSpec('MNIST', SPEC.load)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("bacon_pl.data.catalog.CATALOG", dict(CATALOG))
    yield name
    sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def _no_global_seed(monkeypatch):
    """Keep the seed that one test's command gives Lightning from being the next test's default."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    monkeypatch.delenv("PL_GLOBAL_SEED")


@pytest.fixture(scope="session", autouse=True)
def _cache_of_the_suite(tmp_path_factory):
    """Keep decoded folders and trained networks out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BACON_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield
