"""Fixtures of the whole suite: golden numbers and small real data."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

# Before torch starts its threads: small tests are faster with one, and two suites may share a machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(1)

HERE = Path(__file__).parent


@pytest.fixture
def golden():
    """Load a golden file by name, as tensors."""

    def load(name):
        with np.load(HERE / "data" / f"{name}.npz") as arrays:
            return {key: torch.from_numpy(np.asarray(arrays[key])) for key in arrays}

    return load


@pytest.fixture(autouse=True)
def _private_cache(tmp_path_factory, monkeypatch):
    """Keep decoded folders out of the user's cache."""
    monkeypatch.setenv("BACON_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
