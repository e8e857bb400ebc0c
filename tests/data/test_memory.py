"""Memory: a dataset takes its uint8 bytes and what one batch needs, never a second copy and never floats of all of it.

What a process has used at its worst is asked of Linux, in a process of its own.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.paths import ROOT
from tests.real_formats import tiny_wnids, write_tiny_imagenet

MIB = 1 << 20
IMAGE_BYTES = 64 * 64 * 3

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux how much memory was used")

# Runs each step in a fork of its own and prints how much memory that had used at its worst.
# VmHWM and not ru_maxrss: that one begins with what the parent process had.
PEAKS = """
import json, os, re, sys
from pathlib import Path
os.cpu_count = lambda: 2  # what threads decode ahead grows with the cores, not with the dataset
from bacon_pl.cli import main
from bacon_pl.data import DataModule

for step in json.loads(sys.argv[1]):
    if not (child := os.fork()):
        if step[0] == "setup":
            DataModule("tiny_imagenet", step[1], val_fraction=float(step[2])).setup()
        else:
            main(step)
        peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
        print("\\npeak", peak, flush=True)
        os._exit(0)
    assert not os.waitpid(child, 0)[1]
"""


def peaks(*steps: list, cache: Path) -> list[int]:
    """Most memory in bytes that each step had at once."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "BACON_CACHE": str(cache)}
    text = json.dumps([[str(part) for part in step] for step in steps])
    done = subprocess.run(
        [sys.executable, "-c", PEAKS, text], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return [1024 * int(kib) for kib in re.findall(r"^peak (\d+)$", done.stdout, re.MULTILINE)]


def write_many(root: Path, classes: int, train_per_class: int, val_per_class: int) -> Path:
    """TinyImageNet with many images, which are hard links to two of each class."""
    wnids = tiny_wnids()[:classes]
    noise = np.random.default_rng(0).integers(0, 256, (classes, 2, 8, 8, 3), dtype=np.uint8)
    pictures = [[Image.fromarray(n).resize((64, 64)) for n in two] for two in noise]
    write_tiny_imagenet(root, dict(zip(wnids, pictures, strict=True)), [(wnids[0], pictures[0][0])], {})
    lines = []
    for c, wnid in enumerate(wnids):
        folder = root / "train" / wnid / "images"
        for k in range(2, train_per_class):
            os.link(folder / f"{wnid}_{k % 2}.JPEG", folder / f"{wnid}_{k}.JPEG")
        for k in range(c * val_per_class + 1, (c + 1) * val_per_class + 1):
            os.link(folder / f"{wnid}_{k % 2}.JPEG", root / "val" / "images" / f"val_{k}.JPEG")
            lines.append(f"val_{k}.JPEG\t{wnid}\t0\t0\t62\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def commands(root: Path, out: Path, *, batch_real: int) -> tuple[list, list]:
    """Two iterations, and an evaluation of what they make beside all real images."""
    shared = ["--config", "configs/tiny_imagenet/ipc1.yaml", "--data.root", root, "--trainer.default_root_dir", out,
              "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]  # fmt: skip
    fit = ["fit", *shared, "--data.batch_real", batch_real, "--data.pool_batch", 32, "--model.network.width", 2,
           "--model.pool.train_steps", 2, "--trainer.max_steps", 2, "--overwrite", "true"]  # fmt: skip
    evaluate = ["eval", *shared, "--distilled", out, "--baselines", "[whole]", "--data.eval_batch", 100,
                "--evaluation.network.width", 2, "--evaluation.num_networks", 1, "--evaluation.epochs", 1,
                "--evaluation.batch_size", 32]  # fmt: skip
    return fit, evaluate


def test_many_images_cost_their_bytes_and_no_more(tmp_path: Path) -> None:
    few, many = (write_many(tmp_path / f"{n}" / "tiny-imagenet-200", 20, n, 10) for n in (10, 210))
    size = 20 * 200 * IMAGE_BYTES
    steps = [
        step
        for root in (few, many)
        for step in (["setup", root, 0], *commands(root, root / "out", batch_real=2), ["setup", root, 0.5])
    ]
    found = np.array(peaks(*steps, cache=tmp_path / "cache")).reshape(2, 4)
    decoded, fit, evaluated, parted = (found[1] - found[0]) / size
    # A list of parts that are joined takes 2, floats of the whole set take 5; the rest of a process varies by some MB.
    assert max(decoded, fit, evaluated) < 1.8
    assert parted < 2.5  # while some are held out, the images are there twice


@pytest.mark.slow
def test_tiny_imagenet_at_full_size_fits_well_within_4_gib(tmp_path: Path) -> None:
    root = write_many(tmp_path / "tiny-imagenet-200", 200, 500, 50)
    fit, evaluate = commands(root, tmp_path / "out", batch_real=256)
    evaluate[evaluate.index("[whole]")] = "[random]"
    found = peaks(fit, fit, evaluate, ["setup", root, 0.1], cache=tmp_path / "cache")  # decoded, then from the cache
    print("peaks in MiB:", [peak // MIB for peak in found])
    assert max(found[:3]) < 2560 * MIB
    assert found[3] < 3584 * MIB
