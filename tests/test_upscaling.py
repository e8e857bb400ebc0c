"""Tiles that are scaled up by bicubic interpolation: from the run to the set, its file and its evaluation."""

import pytest
import torch
from torch.nn import functional as F

from bacon_pl import rng
from bacon_pl.distilled_set import DistilledSet, start_images
from bacon_pl.distillers import DistributionMatching, GradientMatching, Selection, TrajectoryMatching
from bacon_pl.distillers.identity import difference
from bacon_pl.errors import BaconError
from bacon_pl.evaluation import Comparison, Run
from bacon_pl.interop import write_set
from bacon_pl.learners import Recipe
from bacon_pl.partition import _by_matrices, cut_out, expand
from bacon_pl.selection import Start
from tests.distilled_set.making import description_of, forge, make
from tests.distillers.running import digits, distill, small


@pytest.fixture(scope="module")
def data():
    module = digits()
    module.setup()
    return module


@pytest.mark.parametrize(("size", "factor"), [((8, 8), 2), ((9, 12), 3), ((8, 8), 3)])
def test_every_tile_is_what_torch_makes_of_it(size, factor):
    canvases = torch.rand(3, 2, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tiles = expand(canvases, factor, "bicubic")
    h, w = -(-size[0] // factor), -(-size[1] // factor)
    padded = F.pad(canvases, (0, factor * w - size[1], 0, factor * h - size[0]), mode="replicate")
    for number in range(factor**2):
        column, row = divmod(number, factor)
        small_one = padded[..., row * h : (row + 1) * h, column * w : (column + 1) * w]
        scaled = F.interpolate(small_one, size=size, mode="bicubic", align_corners=False)
        torch.testing.assert_close(tiles[3 * number : 3 * number + 3], scaled, rtol=0, atol=1e-12)
    assert not torch.equal(tiles, expand(canvases, factor))


@pytest.mark.parametrize(("size", "factor"), [((8, 8), 2), ((28, 28), 3), ((32, 32), 4), ((32, 32), 6)])
def test_a_tile_has_the_same_bits_however_many_there_are(size, factor):
    canvases = torch.rand(7, 3, *size, generator=torch.Generator().manual_seed(0))
    tiles = expand(canvases, factor, "bicubic")
    order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(1))
    for some in (order, order[:2], order[:1]):
        assert torch.equal(cut_out(canvases[some % 7], some // 7, factor, "bicubic"), tiles[some])
    assert torch.equal(expand(canvases[2:3], factor, "bicubic"), tiles[2::7])


def test_half_precision_of_networks_leaves_it_alone():
    canvases = torch.rand(2, 1, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        tiles = expand(canvases, 2, "bicubic")
    assert torch.equal(tiles, expand(canvases, 2, "bicubic"))


def test_expanding_is_differentiable():
    canvases = torch.rand(2, 1, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: expand(x, 2, "bicubic"), canvases)


def test_products_of_matrices_are_the_same():
    """What a CPU does, and a GPU with ``--trainer.deterministic true``."""
    tiles = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    scaled = F.interpolate(tiles, size=(15, 8), mode="bicubic", align_corners=False)
    torch.testing.assert_close(_by_matrices(tiles, (15, 8), "bicubic"), scaled, rtol=0, atol=1e-12)


def test_a_set_of_whole_images_has_nothing_to_scale_up(tmp_path):
    whole = make(factor=1, upscaling="bicubic")
    assert whole == make(factor=1) and whole.upscaling == "bilinear"
    assert description_of(whole.save(tmp_path / "a"))["format_version"] == 1


def test_a_run_of_a_version_without_it_was_bilinear():
    old, new = ({"model": {"lr": 0.2, **more}} for more in ({}, {"upscaling": "bicubic"}))
    assert difference(old, new) == "--model.upscaling was bilinear, now bicubic"
    assert difference(new, old) == "--model.upscaling was bicubic, now bilinear"
    assert difference(old, {"model": {"lr": 0.2, "upscaling": "bilinear", "newer": 1}}) == ""


def test_the_set_and_its_file_say_so(tmp_path):
    plain, bicubic = make(), make(upscaling="bicubic")
    path = bicubic.save(tmp_path / "a")
    description = description_of(path)
    assert (description["upscaling"], description["format_version"]) == ("bicubic", 3)
    again = DistilledSet.load(path)
    assert again == bicubic != plain and again.upscaling == "bicubic" and again.checksum != plain.checksum
    assert torch.equal(again.expanded()[0], expand(plain.images, 2, "bicubic"))
    assert torch.equal(again.pixels(expanded=True), bicubic.pixels(expanded=True))
    assert "factor=2 (bicubic)" in repr(again) and "bicubic" not in repr(plain)
    assert "upscaling" not in description_of(plain.save(tmp_path / "b"))
    assert again.with_soft_labels(torch.zeros(6, 3), "logits").upscaling == "bicubic"


def test_what_is_unknown_is_refused(tmp_path):
    for wrong in ("lanczos", None):
        with pytest.raises(BaconError, match="unknown upscaling of a distilled set"):
            make(upscaling=wrong)
    with pytest.raises(BaconError, match="'upscaling' in its description is missing or has a value"):
        DistilledSet.load(forge(tmp_path / "a", upscaling="lanczos", format_version=3))
    with pytest.raises(BaconError, match=r"unknown --model\.upscaling 'cubic'\. Did you mean 'bicubic'"):
        DistributionMatching(upscaling="cubic")
    with pytest.raises(BaconError, match="unknown upscaling 'cubic'"):
        expand(torch.zeros(1, 1, 4, 4), 1, "cubic")


@pytest.mark.parametrize("family", [DistributionMatching, GradientMatching, TrajectoryMatching, Selection])
def test_every_family_has_the_setting(family):
    assert family().upscaling == "bilinear"
    assert family(upscaling="bicubic").synthetic.upscaling == "bicubic"


def test_a_run_matches_through_it_and_its_set_is_used_with_it(data, tmp_path):
    runs = {way: distill(tmp_path / way, 2, upscaling=way) for way in ("bilinear", "bicubic")}
    sets = {way: DistilledSet.load(tmp_path / way) for way in runs}
    assert {way: s.upscaling for way, s in sets.items()} == {"bilinear": "bilinear", "bicubic": "bicubic"}
    assert not torch.equal(sets["bilinear"].images, sets["bicubic"].images)
    canvases = runs["bicubic"].images.detach()
    assert torch.equal(runs["bicubic"].synthetic.expanded()[0], expand(canvases, 2, "bicubic"))
    recipe = Recipe(network=small, num_networks=1, epochs=1)
    comparison = Comparison(sets["bicubic"], data.train, data.meta, recipe, {"small": small}, ("tiles",), seed=3)
    for name, stored in (
        ("distilled", canvases),
        ("tiles", start_images(data.train, data.meta, 1, 2, Start(), rng.derive(3, "tiles", 0))),
    ):
        learners = comparison.module(Run("small", name)).learners
        every = torch.arange(40)
        assert torch.equal(learners.at(every), expand(stored, 2, "bicubic"))


def test_a_run_does_not_start_from_a_set_with_another_one(data, tmp_path):
    distill(tmp_path, 1, upscaling="bicubic")
    start = Start(str(tmp_path))
    with pytest.raises(
        BaconError, match=r"is a set of upscaling bicubic, this run's is bilinear: give --model\.upscal"
    ):
        start_images(data.train, data.meta, 1, 2, start, 0)
    assert start_images(data.train, data.meta, 1, 2, start, 0, "bicubic").shape == (10, 1, 8, 8)


def test_other_layouts_get_its_tiles_and_not_its_canvases(tmp_path):
    bicubic = make(upscaling="bicubic")
    with pytest.raises(BaconError, match="scaled up by bicubic interpolation, and readers .* give --canvases false"):
        write_set(bicubic, tmp_path / "a.npz", canvases=True)
    write_set(bicubic, tmp_path / "pictures", canvases=True)  # a folder says nothing of tiles in any case
    write_set(bicubic, tmp_path / "ours.safetensors")
    assert DistilledSet.load(tmp_path / "ours.safetensors") == bicubic
    write_set(bicubic, tmp_path / "b.pt", canvases=False)
    images = torch.cat([part for part, _ in torch.load(tmp_path / "b.pt", weights_only=True)["data"]])
    assert torch.equal(images, bicubic.expanded()[0][bicubic.targets.argsort(stable=True)])
