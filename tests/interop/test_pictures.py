"""Sets as folders of pictures."""

from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from bacon_pl.data.images import normalize
from bacon_pl.errors import BaconError
from bacon_pl.interop import open_set
from tests.interop.making import GRAY, META


def picture_tree(folder, meta=META, names=None, ipc=2):
    values = torch.randint(0, 256, (meta.num_classes, ipc, meta.channels, *meta.size), dtype=torch.uint8)
    for name, images in zip(names or meta.class_names, values, strict=True):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            to_pil_image(image).save(folder / name / f"{number}.png")
    return normalize(values.flatten(0, 1), meta.mean, meta.std, torch.float32)


@pytest.mark.parametrize("names", [None, ("0", "1", "2"), ("0_b", "1_a", "2_c")])
def test_pictures_get_the_label_of_their_class_not_of_their_place(tmp_path, names):
    expected = picture_tree(tmp_path / "tree", GRAY, names)
    distilled = open_set(tmp_path / "tree", GRAY)
    assert torch.equal(distilled.images, expected)
    assert distilled.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_trees_that_are_not_the_dataset(tmp_path):
    picture_tree(tmp_path / "a", names=("ant", "cow"))
    with pytest.raises(BaconError, match="'bee' is only in the dataset"):
        open_set(tmp_path / "a", META)
    picture_tree(tmp_path / "b", replace(META, size=(6, 4)))
    with pytest.raises(BaconError, match=r"has 6×4 pixels, but the images of toy have 4×6"):
        open_set(tmp_path / "b", META)
    picture_tree(tmp_path / "c")
    (tmp_path / "c/ant/0.png").write_bytes(b"nothing")
    with pytest.raises(BaconError, match="cannot read the picture .*not a picture"):
        open_set(tmp_path / "c", META)
    picture_tree(tmp_path / "d", replace(META, size=(4, 4)), names=("0", "1"))
    (tmp_path / "d/2").mkdir()
    with pytest.raises(BaconError, match="is in color, but the images of gray are gray"):
        open_set(tmp_path / "d", GRAY)
    for name in ("ant", "bee"):
        (tmp_path / "e" / name).mkdir(parents=True)
    with pytest.raises(BaconError, match="holds no pictures"):
        open_set(tmp_path / "e", META)


def test_a_picture_is_measured_before_it_is_decoded(tmp_path, monkeypatch):
    picture_tree(tmp_path / "tree")
    Image.new("L", (3000, 3000)).save(tmp_path / "tree/ant/0.png")
    monkeypatch.setattr("bacon_pl.interop.pictures.decode", lambda _: pytest.fail("decoded"))
    with pytest.raises(BaconError, match="3000×3000"):
        open_set(tmp_path / "tree", META)
    # A type that Pillow hands to another program, under an innocent name.
    (tmp_path / "tree/ant/0.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 4\n%%EndComments\n")
    with pytest.raises(BaconError, match="not a picture"):
        open_set(tmp_path / "tree", META)
