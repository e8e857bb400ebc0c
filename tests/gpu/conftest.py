"""The device of these tests: a CUDA device, or, to try the tests themselves, a CPU."""

import os

import pytest
import torch

# Read when cuBLAS is first used; without it, torch cannot say whether a product has the same bits each time.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

REHEARSED = "BACON_REHEARSE_GPU_TESTS"
"""With this environment variable set to 1, these tests run on the CPU, which shows that they run, and no more."""


@pytest.fixture(scope="session")
def accelerator():
    """The Trainer's name of the device."""
    if os.environ.get(REHEARSED) == "1":
        return "cpu"
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device here: `make gpu` runs these tests where there is one")
    return "gpu"


@pytest.fixture
def exact(accelerator):
    """Full float32 and, where torch has them, deterministic kernels."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


@pytest.fixture(autouse=True)
def _private_cache(request, tmp_path_factory, monkeypatch):
    """Keep networks that a GPU has trained out of the cache of the other tests, and of those that compare devices."""
    name = "cache-compared" if "agree" in request.node.name else "cache-gpu"
    monkeypatch.setenv("BACON_CACHE", str(tmp_path_factory.getbasetemp() / name))
