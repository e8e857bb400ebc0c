"""Sets in the very layouts of other projects: read, converted back to equal files, and nothing lost without a word."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bacon_pl.cli import main
from bacon_pl.data.images import DatasetMeta
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_set, write_set
from bacon_pl.interop.write import written
from tests.interop.making import CIFAR, META, pair
from tests.paths import DIGITS, evaluation_in

C, IPC = 2, 3
N = C * IPC
LABELS = torch.arange(C).repeat_interleave(IPC)


def randn(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def soft(kind: str) -> torch.Tensor:
    """Soft labels in float32 that float16 holds exactly, most of which are largest at their class."""
    logits = (torch.eye(C)[LABELS] * 4 + randn(N, C)).half().float()
    logits[0] = torch.tensor([-1.0, 2.0])  # learned away from its class
    if kind == "logits":
        return logits
    shares = (logits.softmax(1) * 64).round() / 64
    shares[:, 1] = 1 - shares[:, 0]
    return shares


def files_of(folder: Path) -> dict[str, torch.Tensor]:
    return {path.name: torch.load(path, weights_only=True) for path in sorted(folder.iterdir())}


def save(folder: Path, **tensors: torch.Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    for name, tensor in tensors.items():
        torch.save(tensor, folder / f"{name}.pt")
    return folder


def same_files(one: Path, other: Path) -> None:
    mine, theirs = files_of(one), files_of(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


# ---- trajectory matching


TRAJECTORIES = {
    "mtt": {"labels_best": LABELS},
    "ftd": {"labels_best": LABELS},
    "tesla": {"labels_best": soft("probabilities")},
    "datm": {"labels_best": soft("logits"), "lr_best": torch.tensor(0.0123)},
}


@pytest.mark.parametrize("project", TRAJECTORIES)
def test_trajectory_matching_there_and_back(project, tmp_path):
    images = randn(N, 3, 4, 6)
    theirs = save(tmp_path / "theirs", images_best=images, **TRAJECTORIES[project])
    read = open_set(theirs, META, pixels="normalized")
    assert torch.equal(read.images, images) and torch.equal(read.labels, LABELS)
    labels = TRAJECTORIES[project]["labels_best"]
    if labels.ndim == 2:
        assert read.label_kind == {"tesla": "probabilities", "datm": "logits"}[project]
        assert torch.equal(read.soft_labels.float(), labels)
    else:
        assert read.soft_labels is None
    assert read.step_size == (float(torch.tensor(0.0123)) if project == "datm" else None)
    ours = DistilledSet.load(read.save(tmp_path / "ours.safetensors"))
    assert ours == read
    same_files(write_set(ours, tmp_path / "back", layout=project), theirs)
    sentence = written(ours, tmp_path / "back", layout=project)
    assert "; the provenance has no place in this format; " in sentence
    assert ("in place of the classes" in sentence) == (labels.ndim == 2)


def test_moving_averages_and_numbered_sets(tmp_path):
    """FTD's averages lie beside the other images; both share a step size."""
    theirs = save(
        tmp_path,
        images_100=randn(N, 3, 4, 6),
        labels_100=LABELS,
        ema_images_100=randn(N, 3, 4, 6, seed=2),
        ema_labels_100=LABELS,
        lr_100=torch.tensor(0.5),
    )
    for name, seed in (("images_100.pt", 1), ("ema_images_100.pt", 2)):
        read = open_set(theirs / name, META, pixels="normalized")
        assert torch.equal(read.images, randn(N, 3, 4, 6, seed=seed)) and read.step_size == 0.5
    assert torch.equal(open_set(theirs, META, pixels="normalized").images, randn(N, 3, 4, 6))
    (theirs / "images_100.pt").unlink()
    assert torch.equal(open_set(theirs, META, pixels="normalized").images, randn(N, 3, 4, 6, seed=2))


def test_labels_that_float16_cannot_hold_are_rounded_with_a_warning(tmp_path):
    labels = soft("logits") + 1e-4
    save(tmp_path, images_best=randn(N, 3, 4, 6), labels_best=labels)
    with pytest.warns(UserWarning, match=r"are torch.float32 and are rounded to float16, by [\d.e-]+ at most"):
        read = open_set(tmp_path, META, pixels="normalized")
    assert torch.equal(read.soft_labels, labels.half())


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"labels_best": soft("logits")[:, [1, 0]]}, "soft, but they do not follow the order of the 2 classes"),
        ({"labels_best": soft("logits")[:4]}, r"shape \(4, 2\)"),
        ({"labels_best": soft("logits").T}, r"shape \(2, 6\)"),
        ({"labels_best": torch.full((N, C), torch.nan)}, "labels_best|soft labels in .* are not finite"),
        ({"labels_best": soft("logits") * 1e6}, "not finite numbers of float16"),
        ({"labels_best": LABELS, "lr_best": torch.tensor(-0.1)}, "lr_best.pt' holds no step size"),
        ({"labels_best": LABELS, "lr_best": torch.tensor(torch.nan)}, "lr_best.pt' holds no step size"),
        ({"labels_best": LABELS, "lr_best": torch.ones(2)}, "lr_best.pt' holds no step size"),
        ({"labels_best": LABELS, "lr_best": ["0.1"]}, "lr_best.pt' holds no step size"),
        ({"labels_best": {"labels": LABELS}}, "labels_best.pt' holds no tensor of labels"),
    ],
)
def test_labels_and_step_sizes_that_make_no_sense(files, message, tmp_path):
    save(tmp_path, images_best=randn(N, 3, 4, 6), **files)
    with pytest.raises(BaconError, match=message):
        open_set(tmp_path, META, pixels="normalized")


def test_what_trajectory_matching_cannot_hold_is_refused_or_said(tmp_path):
    unequal = DistilledSet(randn(3, 3, 4, 6), torch.tensor([0, 0, 1]), META)
    write_set(unequal, tmp_path / "hard", layout="mtt")
    assert open_set(tmp_path / "hard", META, pixels="normalized").counts == (2, 1)
    labeled = unequal.with_soft_labels(torch.eye(2)[unequal.labels], "logits")
    with pytest.raises(BaconError, match="does not fit the layout .* only be told if every class has the same number"):
        write_set(labeled, tmp_path / "soft", layout="tesla")
    tiles = DistilledSet(randn(N, 3, 4, 6), LABELS, META, factor=2)
    per_tile = tiles.with_soft_labels(torch.eye(2)[LABELS][:, None].expand(-1, 4, -1), "logits")
    with pytest.raises(BaconError, match="a soft label for each tile, and the layout one for each image"):
        write_set(per_tile, tmp_path / "tiles", layout="datm", canvases=True)
    write_set(per_tile, tmp_path / "tiles", layout="datm")
    read = open_set(tmp_path / "tiles", META, pixels="normalized")
    order = per_tile.targets.argsort(stable=True)
    assert torch.equal(read.images, per_tile.expanded()[0][order])
    assert torch.equal(read.soft_labels, per_tile.expanded_soft_labels()[order])
    assert "factor 2, which a folder does not record" in written(tiles, tmp_path / "x", layout="mtt", canvases=True)
    (tmp_path / "tiles/notes.txt").touch()
    with pytest.raises(BaconError, match="holds more than a set's pictures"):
        write_set(tiles, tmp_path / "tiles", layout="mtt", overwrite=True)


# ---- pairs of IDC and NCFM, dicts of DC and DataDAM, archives


@pytest.mark.parametrize("project", ["idc", "ncfm"])
def test_pairs_of_unnormalized_canvases_there_and_back(project, tmp_path):
    images = torch.rand((N, 3, 4, 6), generator=torch.Generator().manual_seed(3)) * 1.2 - 0.1
    torch.save([images, LABELS], tmp_path / "data.pt")
    with pytest.raises(BaconError, match="so they may be pixels that were never normalized.* say what they are"):
        open_set(tmp_path / "data.pt", META)
    read = open_set(tmp_path / "data.pt", META, pixels="unit", factor=2)
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (META.mean, META.std))
    torch.testing.assert_close(read.images, (images - mean) / std)
    back = torch.load(write_set(read, tmp_path / "back.pt", layout=project), weights_only=True)
    assert isinstance(back, list) and torch.equal(back[1], LABELS)
    # Rounded once to normalized numbers and once back: half a unit in the last place of 1 at most.
    assert back[0].dtype == torch.float32 and (back[0] - images).abs().max() <= 2**-23
    again = open_set(tmp_path / "back.pt", META, pixels="unit", factor=2)
    torch.testing.assert_close(again.images, read.images, rtol=0, atol=1e-6)
    labeled = replace_set(read, soft_labels=soft("logits"), label_kind="logits", step_size=0.1)
    assert written(labeled, tmp_path / "x.pt", layout=project) == (
        "wrote 6 canvases of 3×4×6 (3 for each of 2 classes, class by class); factor 2, which a file does not record: "
        "24 images are to be cut out of them; pixels float32 of about 0 to 1, not normalized; the provenance, the soft "
        f"labels and the learned step size 0.1 have no place in this format; to {tmp_path / 'x.pt'}"
    )


def replace_set(distilled, **changes):
    fields = {"factor": distilled.factor, "version": distilled.version, "config": distilled.config} | changes
    return DistilledSet(distilled.images, distilled.labels, distilled.meta, **fields)


@pytest.mark.parametrize("levels", ["pairs", "pair"])
def test_dicts_of_dc_and_datadam_there_and_back(levels, tmp_path):
    images = randn(N, 3, 4, 6)
    data = [[randn(N, 3, 4, 6, seed=5), LABELS], [images, LABELS]] if levels == "pairs" else [images, LABELS]
    torch.save({"data": data, "accs_all_exps": {"ConvNet": [0.5]}}, tmp_path / "theirs.pt")
    read = open_set(tmp_path / "theirs.pt", META, pixels="normalized")
    back = torch.load(write_set(read, tmp_path / "back.pt"), weights_only=True)
    assert torch.equal(back["data"][-1][0], images) and torch.equal(back["data"][-1][1], LABELS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("suffix", [".pt", ".npz"])
@pytest.mark.parametrize("per_tile", [True, False])
def test_our_own_files_of_other_formats_lose_nothing_of_a_set(suffix, per_tile, tmp_path):
    labels = torch.rand(N, 4, C).softmax(-1) if per_tile else soft("logits")
    distilled = DistilledSet(
        randn(N, 3, 4, 6),
        torch.tensor([0, 0, 1, 1, 1, 1]),
        META,
        factor=2,
        soft_labels=labels,
        label_kind="probabilities" if per_tile else "logits",
        step_size=1 / 3,
    )
    back = open_set(write_set(distilled, tmp_path / f"a{suffix}", canvases=True), META)
    assert replace_set(back, method="", config={}, step_size=back.step_size, soft_labels=back.soft_labels,
                       label_kind=back.label_kind, version=distilled.version) == distilled  # fmt: skip
    with pytest.raises(BaconError, match="numbers that are normalized, not unit: leave --pixels out"):
        open_set(tmp_path / f"a{suffix}", META, pixels="unit")


# ---- pictures of SRe2L and RDED


@pytest.mark.parametrize(("project", "folder", "digits"), [("sre2l", "new{:03d}", 3), ("rded", "{:05d}", 5)])
def test_numbered_folders_there_and_back(project, folder, digits, tmp_path):
    classes = 12  # in text, 10 would come before 2
    meta = DatasetMeta(
        "toy", tuple(f"class {i}" for i in range(classes)), 3, (16, 16), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)
    )
    theirs = tmp_path / "theirs"
    draw = np.random.default_rng(0)
    for label in range(classes):
        (theirs / folder.format(label)).mkdir(parents=True)
        for number in range(2):
            name = f"class{label:0{digits}d}_id{number:0{digits}d}.jpg"
            picture = Image.fromarray(draw.integers(0, 256, (16, 16, 3), np.uint8))
            picture.save(theirs / folder.format(label) / name, quality=75, subsampling="4:2:0")
    read = open_set(theirs, meta)
    assert read.counts == (2,) * classes
    back = write_set(read, tmp_path / "back", layout=project)
    mine, others = (sorted(path.relative_to(root) for path in root.glob("*/*")) for root in (back, theirs))
    assert [str(path.with_suffix(".jpg")) for path in mine] == [str(path) for path in others]
    for one, other in zip(mine, others, strict=True):
        assert np.array_equal(np.asarray(Image.open(back / one)), np.asarray(Image.open(theirs / other)))
    assert torch.equal(open_set(back, meta).images, read.images)
    assert write_set(read, back, layout=project, overwrite=True) == back
    labeled = read.with_soft_labels(torch.zeros(24, 12), "logits")
    assert "; the provenance and the soft labels have no place in this format; " in written(
        labeled, back, layout=project
    )
    with pytest.raises(BaconError, match="are bytes, pixels from 0 to 255: leave --pixels out"):
        open_set(theirs, meta, pixels="unit")
    (theirs / folder.format(classes)).mkdir()
    with pytest.raises(BaconError, match="are not the 12 classes of toy"):
        open_set(theirs, meta)


@pytest.mark.parametrize(
    ("target", "layout", "message"),
    [
        ("a.npz", "dc", "no name for --layout dc: give a name ending in .pt"),
        ("a.pt", "mtt", "no name for --layout mtt: give a folder's name, without a suffix"),
        ("a", "idc", "give a name ending in .pt"),
        ("a.safetensors", "rded", "give a folder's name"),
        ("a", "nothing", "--layout must be one of dc, idc"),
    ],
)
def test_layouts_have_names_of_their_own(target, layout, message, tmp_path):
    with pytest.raises(BaconError, match=message):
        write_set(DistilledSet(*pair(), META), tmp_path / target, layout=layout)


# ---- the commands


def test_convert_names_layouts_and_numbers(tmp_path, capsys):
    images, _ = pair(CIFAR, ipc=1)
    logits = torch.eye(10) * 8
    save(tmp_path / "theirs", images_best=images, labels_best=logits, lr_best=torch.tensor(0.5))
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back"
    main(["convert", str(tmp_path / "theirs"), str(ours), "--dataset", "cifar10", "--pixels", "normalized"])
    assert capsys.readouterr().err == ""
    main(["convert", str(ours), str(back), "--layout", "datm"])
    same_files(back, tmp_path / "theirs")
    assert "; soft labels (logits) in place of the classes; the provenance has no" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path / "theirs"), str(tmp_path / "x"), "--dataset", "cifar10", "--pixels", "zca"])
    assert re.search(r"fitted to the training images of cifar10: give their folder, --root", capsys.readouterr().err)


def test_whitened_sets_are_converted_and_evaluated(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    save(tmp_path / "theirs", images_best=randn(10, 1, 8, 8), labels_best=torch.arange(10))
    source = str(tmp_path / "theirs")
    main(["convert", source, str(tmp_path / "ours.safetensors"), "--dataset", "digits", "--pixels", "zca"])
    ours = DistilledSet.load(tmp_path / "ours.safetensors")
    assert ours.meta.whitening is not None and torch.equal(ours.images, randn(10, 1, 8, 8))
    recipe = ["--evaluation.network.width", "4", "--evaluation.epochs", "1", "--evaluation.num_networks", "1"]
    trainer = ["--trainer.default_root_dir", str(tmp_path / "out"), "--trainer.enable_progress_bar", "false"]
    main(["eval", "--config", str(DIGITS), "--distilled", source, "--pixels", "zca", *recipe, *trainer])
    assert "ZCA-whitened" in capsys.readouterr().out
    assert (evaluation_in(tmp_path / "out") / "results.json").is_file()
