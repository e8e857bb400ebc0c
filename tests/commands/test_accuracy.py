"""What the library is for, on real data: distilled images teach more than random ones. Slow."""

import json
import subprocess
import sys

import pytest

from tests.paths import DIGITS, ROOT, evaluation_in


@pytest.mark.slow
def test_digits_at_one_image_per_class_beat_random_real_images_by_twelve_points(tmp_path):
    config = str(DIGITS)
    for command in (["fit"], ["eval", "--distilled", str(tmp_path), "--baselines", "[random]"]):
        arguments = [*command, "--config", config, "--trainer.default_root_dir", str(tmp_path)]
        subprocess.run([sys.executable, "-m", "bacon_pl", *arguments], cwd=ROOT, check=True)
    numbers = json.loads((evaluation_in(tmp_path) / "results.json").read_text())
    assert numbers["accuracy"]["mean"] >= numbers["baselines"]["random"]["accuracy"]["mean"] + 12
