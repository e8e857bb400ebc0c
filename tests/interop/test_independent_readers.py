"""A converted set as another project reads it: with torch, NumPy and PIL, and no code of ours."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from bacon_pl.cli import main
from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set import DistilledSet
from tests.paths import ROOT

NAMES = ("ant", "bee", "cat")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
META = DatasetMeta("toy", NAMES, 3, (8, 12), MEAN, STD, 100_000)
IPC = 2


@pytest.fixture
def canvases(tmp_path: Path) -> torch.Tensor:
    """A run's folder with a set of factor 2; returns its canvases, (C, ipc, ch, H, W)."""
    images = 0.9 * torch.randn(3 * IPC, 3, 8, 12, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(3).repeat_interleave(IPC)
    DistilledSet(images, labels, META, factor=2, method="bacon", step_size=0.02).save(tmp_path / "run.safetensors")
    return images.view(3, IPC, 3, 8, 12)


def cut(canvases: torch.Tensor) -> torch.Tensor:
    """Tiles of (C, ipc, 3, 8, 12), scaled up: all of class 0, then all of class 1, ..."""
    quarters = [(slice(0, 4), slice(0, 6)), (slice(4, 8), slice(0, 6))]
    quarters += [(slice(0, 4), slice(6, 12)), (slice(4, 8), slice(6, 12))]
    tiles = [of_class[..., rows, columns] for of_class in canvases for rows, columns in quarters]
    return interpolate(torch.cat(tiles), size=(8, 12), mode="bilinear", align_corners=False)


def convert(tmp_path: Path, target: str, *options: str) -> Path:
    main(["convert", str(tmp_path / "run.safetensors"), str(tmp_path / target), *options])
    return tmp_path / target


WANTED = torch.arange(3).repeat_interleave(4 * IPC)


def test_torch_reads_single_images(tmp_path: Path, canvases: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    path = convert(tmp_path, "out.pt")
    content = torch.load(path, weights_only=True)
    images, labels = content["data"][-1]
    assert images.shape == (2 * 2 * IPC * 3, 3, 8, 12) and images.dtype == torch.float32
    assert labels.dtype == torch.int64 and torch.equal(labels, WANTED)
    torch.testing.assert_close(images, cut(canvases), rtol=0, atol=1e-6)
    assert (content["factor"], content["step_size"]) == (1, 0.02)
    assert capsys.readouterr().out == (
        "wrote 24 images of 3×8×12 (8 for each of 3 classes, class by class); factor 1: cut out of 6 canvases of "
        "factor 2; pixels float32, normalized by mean (0.5, 0.4, 0.3) and std (0.2, 0.3, 0.25); the provenance "
        f"has no place in this format; to {path}\n"
    )


def test_numpy_reads_single_images(tmp_path: Path, canvases: torch.Tensor) -> None:
    with np.load(convert(tmp_path, "out.npz")) as file:
        np.testing.assert_allclose(file["images"], cut(canvases).numpy(), rtol=0, atol=1e-6)
        assert np.array_equal(file["labels"], WANTED.numpy())
        assert int(file["factor"]) == 1


def test_pil_reads_single_images(tmp_path: Path, canvases: torch.Tensor, capsys: pytest.CaptureFixture[str]) -> None:
    folder = convert(tmp_path, "pictures")
    pixels = cut(canvases) * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)
    files = sorted(folder.glob("*/*.png"))
    assert [file.parent.name for file in files] == [NAMES[label] for label in WANTED]
    read = np.stack([np.asarray(Image.open(file)) for file in files])
    assert read.dtype == np.uint8 and read.shape == (24, 8, 12, 3)
    wanted = (255 * pixels.clamp(0, 1)).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(read, wanted, rtol=0, atol=0.5 + 1e-3)
    outside = 100 * float(((pixels < 0) | (pixels > 1)).float().mean())
    assert outside > 0
    assert f"; pixels of 0 to 255, not normalized, {outside:.2g} % of them clipped; " in capsys.readouterr().out


def test_canvases_are_kept_on_demand(
    tmp_path: Path, canvases: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(convert(tmp_path, "out.pt", "--canvases", "true"), weights_only=True)
    images, labels = content["data"][-1]
    assert torch.equal(images, canvases.flatten(0, 1))
    assert torch.equal(labels, torch.arange(3).repeat_interleave(IPC))
    assert content["factor"] == 2
    assert "wrote 6 canvases of 3×8×12 (2 for each of 3 classes" in capsys.readouterr().out
    assert len(list(convert(tmp_path, "pictures", "--canvases").glob("*/*.png"))) == 6
    assert "factor 2, which a folder does not record: 24 images are to be cut out" in capsys.readouterr().out


def test_canvases_are_refused_where_they_mean_nothing(
    tmp_path: Path, canvases: torch.Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    DistilledSet(canvases[:, 0], torch.arange(3), META).save(tmp_path / "plain.safetensors")
    for source, target, sentence in (
        (
            "run.safetensors",
            "out.safetensors",
            "keeps a set's canvases and its factor in any case: leave --canvases out",
        ),
        ("plain.safetensors", "out.pt", "has factor 1, so its images are not canvases of tiles: leave --canvases out"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["convert", str(tmp_path / source), str(tmp_path / target), "--canvases", "true"])
        assert end.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert sentence in line
        assert not (tmp_path / target).exists()


def test_converting_needs_torch_and_torchvision_alone(tmp_path: Path, canvases: torch.Tensor) -> None:
    code = (
        "import sys; from bacon_pl.cli import main\n"
        "main(['convert', 'run.safetensors', 'out.npz'])\n"
        "print([name for name in ('lightning', 'matplotlib', 'sklearn', 'scipy', 'tensorboard', 'datasets', 'pandas') "
        "if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_what_is_odd_about_a_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save((2 * torch.rand(10, 1, 28, 28), torch.arange(10)), tmp_path / "theirs.pt")
    main(["convert", str(tmp_path / "theirs.pt"), str(tmp_path / "ours.safetensors"), "--dataset", "mnist"])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bacon convert: warning: '") and "are taken as mnist normalized" in line
