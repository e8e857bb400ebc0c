"""What must not change a result, for every objective in every frame that a method has."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from bacon_pl.checkpoints import Checkpoints, in_folder
from bacon_pl.networks.cost import activation_bytes
from tests.distillers.frames import FRAMES, GRADIENT_FRAMES, STEPS, WHITENED, WHOLE, distill_gradients
from tests.distillers.running import distill, small
from tests.paths import ROOT
from tests.patience import PATIENCE
from tests.thinned import thinned

DOUBLE = {"flags": {"precision": "64-true"}}
every_frame = pytest.mark.parametrize("settings", FRAMES.values(), ids=FRAMES)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with the images of all frames from a run on two processes."""
    folder = tmp_path_factory.mktemp("shared")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    cache = str(tmp_path_factory.getbasetemp() / "cache")  # that of the tests
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distillers.frames", folder], cwd=ROOT, text=True, stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={
                **os.environ, "PYTHONPATH": str(ROOT), "BACON_CACHE": cache, "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "frames", "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
            },
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, errors
    return folder


ALL = {**FRAMES, **WHITENED, **WHOLE}


@pytest.mark.parametrize("name", ALL)
def test_two_processes_and_a_resumed_run_end_in_the_same_bits(tmp_path, shared, name):
    alone = distill(tmp_path / "a", STEPS, flags={"callbacks": [Checkpoints(2)]}, **ALL[name]).images.detach()
    assert alone.isfinite().all()
    assert torch.equal(alone, torch.load(shared / f"{name}.pt"))
    resumed = distill(tmp_path / "b", STEPS, ckpt_path=in_folder(tmp_path / "a")[1], **ALL[name])
    assert torch.equal(alone, resumed.images)


@pytest.mark.parametrize("name", thinned(ALL, every=3))
def test_another_seed_ends_in_other_bits(tmp_path, name):
    one, other = (distill(tmp_path / str(seed), 1, seed=seed, **ALL[name]).images for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", GRADIENT_FRAMES)
def test_gradients_are_the_same_on_two_processes_and_in_a_resumed_run(tmp_path, shared, name):
    settings = GRADIENT_FRAMES[name]
    alone = distill_gradients(tmp_path / "a", flags={"callbacks": [Checkpoints(2)]}, **settings)
    assert alone.images.isfinite().all()
    assert torch.equal(alone.images, torch.load(shared / f"{name}.pt"))
    path = in_folder(tmp_path / "a")[1]
    assert torch.equal(alone.images, distill_gradients(tmp_path / "b", ckpt_path=path, **settings).images)
    assert not torch.equal(alone.images, distill_gradients(tmp_path / "c", seed=1, **settings).images)


@every_frame
def test_chunks_and_blocks_change_nothing_but_rounding(tmp_path, settings):
    whole = distill(tmp_path / "a", 2, real_chunk=10_000, **DOUBLE, **settings)
    chunks = distill(tmp_path / "b", 2, real_chunk=3, **DOUBLE, **settings)
    torch.testing.assert_close(whole.images, chunks.images, atol=1e-8, rtol=0)
    images = whole.ipc * whole.factor**2
    one_class = images * activation_bytes(small(1, (8, 8), 10).double(), (1, 8, 8), whole.matching.read)
    blocks = distill(tmp_path / "c", 2, memory_gib=0.5 * one_class / 2**30, **DOUBLE, **settings)
    assert blocks.matching.block_rows == 1 < whole.matching.block_rows
    torch.testing.assert_close(whole.images, blocks.images, atol=1e-8, rtol=0)


@every_frame
def test_all_images_of_small_classes_are_used(tmp_path, settings):
    # No class of the digits has 1000 images, and their sizes differ, so rows are masked.
    module = distill(tmp_path, 1, data={"batch_real": 1000}, **settings)
    assert module.images.isfinite().all()
