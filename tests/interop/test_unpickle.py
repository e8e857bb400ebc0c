"""Pickles of tensors from other projects: all supported forms, and the errors for other files."""

import pickle
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bacon_pl.errors import BaconError
from bacon_pl.interop import open_set
from bacon_pl.interop.unpickle import Pickle
from tests.interop.making import ACCURACIES, CIFAR, META, pair, quick


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("index", [-1, 0, 1, 2])
def test_result_files_of_dataset_condensation(tmp_path, zipped, index):
    pairs = [list(pair(CIFAR, seed=seed)) for seed in range(3)]
    content = {"data": pairs, "accs_all_exps": ACCURACIES}
    path = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    distilled = open_set(path, CIFAR, index=index)
    assert torch.equal(distilled.images, pairs[index][0])
    assert torch.equal(distilled.labels, pairs[index][1])
    assert (distilled.meta, distilled.factor, distilled.ipc) == (CIFAR, 1, 2)


def test_an_index_beyond_the_file_is_told(tmp_path):
    torch.save({"data": [list(pair())] * 3}, tmp_path / "a.pt")
    with pytest.raises(BaconError, match=r"holds 3 set\(s\), from 0 to 2: there is no 3"):
        open_set(tmp_path / "a.pt", META, index=3)


FORMS = {
    "pair": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],
    "list of pairs": lambda x, y: [(x + 1, y), (x, y)],
    "dict": lambda x, y: {"images": x, "labels": y},
    "data as a pair": lambda x, y: {"data": (x, y), "args": {"lr": 0.1, "dsa": True, "none": None}},
    "plain labels": lambda x, y: (x, y.tolist()),
    "arrays": lambda x, y: (x.numpy(), y.numpy()),
    "fortran": lambda x, y: (np.asfortranarray(x.numpy()), y.numpy().astype(np.int32)),
    "big endian": lambda x, y: (x.numpy().astype(">f4"), y.numpy().astype(">i8")),
    "parameter": lambda x, y: (torch.nn.Parameter(x), y),
    "float labels": lambda x, y: (x.double(), y.float()),
    "strided": lambda x, y: (x.permute(1, 0, 3, 2).contiguous().permute(1, 0, 3, 2), y.repeat_interleave(2)[::2]),
    "view": lambda x, y: (torch.cat([x, x])[len(x) :], y),
    "shuffled": lambda x, y: (x[[2, 0, 3, 1]], y[[2, 0, 3, 1]]),
}


@pytest.mark.parametrize("form", FORMS)
def test_pickles_of_pairs_in_every_protocol(tmp_path, form):
    images, labels = pair()
    content = FORMS[form](images, labels)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path = tmp_path / f"{protocol}.pkl"
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        distilled = open_set(path, META)
        # Classes are put in order, and in each of them the images keep theirs.
        assert torch.equal(distilled.images, images)
        assert torch.equal(distilled.labels, labels)
    for zipped in (True, False):
        torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
        assert torch.equal(open_set(tmp_path / "a.pth", META).images, distilled.images)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_of_numbers(tmp_path, dtype):
    images, labels = pair()
    torch.save((images.to(dtype), labels.to(torch.int16)), tmp_path / "a.pt")
    assert torch.equal(open_set(tmp_path / "a.pt", META).images, images.to(dtype).float())


@quick
@given(st.data())
def test_any_tensor_is_read_as_torch_reads_it(tmp_path_factory, data):
    shape = data.draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = data.draw(st.sampled_from([torch.float32, torch.float16, torch.int64, torch.uint8, torch.int8, torch.bool]))
    tensor = (torch.randn(shape) * 50).to(dtype)
    tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
    if shape and data.draw(st.booleans()):
        tensor = tensor[data.draw(st.integers(0, 2)) :: data.draw(st.integers(1, 2))]
    path = tmp_path_factory.mktemp("any") / "a.pt"
    torch.save([tensor, tensor], path, _use_new_zipfile_serialization=data.draw(st.booleans()))
    with Pickle(path) as file:
        first, second = (file.read(stored) for stored in file.content)
    assert first.dtype == dtype
    assert torch.equal(first, tensor) and torch.equal(second, tensor)


def test_trajectory_matching_keeps_labels_in_a_second_file(tmp_path):
    images, labels = pair()
    torch.save(images, tmp_path / "images_best.pt")
    with pytest.raises(BaconError, match=r"labels_….pt beside"):
        open_set(tmp_path, META)
    torch.save(labels, tmp_path / "labels_best.pt")
    for source in (tmp_path, tmp_path / "images_best.pt"):
        assert torch.equal(open_set(source, META).images, images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one set: nothing to choose, nothing to say
        assert open_set(tmp_path, META, pixels="normalized").config == {"converted_from": "images_best.pt"}


def test_of_several_sets_of_trajectory_matching_the_best_is_taken(tmp_path):
    images, labels = pair()
    for step in (5000, 300):
        torch.save(images + step / 1e4, tmp_path / f"images_{step}.pt")
        torch.save(labels, tmp_path / f"labels_{step}.pt")
    with pytest.raises(BaconError, match=r"holds 2 sets and none .* one of these files: images_300.pt, images_5000.pt"):
        open_set(tmp_path, META)
    torch.save(images, tmp_path / "images_best.pt")  # without labels it is no set
    with pytest.raises(BaconError, match="holds 2 sets"):
        open_set(tmp_path, META)
    torch.save(labels, tmp_path / "labels_best.pt")
    with pytest.warns(UserWarning, match=r"holds 3 sets: 'images_best.pt' is taken, .* best on the test images"):
        distilled = open_set(tmp_path, META)
    assert torch.equal(distilled.images, images)
    assert distilled.config == {"converted_from": "images_best.pt"}
    assert torch.equal(open_set(tmp_path / "images_5000.pt", META).images, images + 0.5)


def test_many_sets_of_trajectory_matching_are_not_all_listed(tmp_path):
    for step in range(50):
        for name in ("images", "labels"):
            torch.save(torch.zeros(1), tmp_path / f"{name}_{step:02}.pt")
    with pytest.raises(BaconError, match=r"holds 50 sets .*: images_00.pt, .*, images_08.pt, … images_49.pt\.$"):
        open_set(tmp_path, META)


def test_whitened_sets_are_told_by_the_files_beside_them(tmp_path):
    images, labels = pair()
    for name, tensor in (("images_9", images), ("images_zca_9", images.sigmoid()), ("labels_9", labels)):
        torch.save(tensor, tmp_path / f"{name}.pt")
    with pytest.raises(BaconError, match=r"images_9.pt' say that its images were whitened by ZCA: give --pixels zca"):
        open_set(tmp_path, META)
    assert torch.equal(open_set(tmp_path, META, pixels="normalized").images, images)


def test_partitioned_sets(tmp_path):
    torch.save(pair(), tmp_path / "a.pt")
    assert open_set(tmp_path / "a.pt", META, factor=2).factor == 2
    with pytest.raises(BaconError, match="factor 9 does not cut"):
        open_set(tmp_path / "a.pt", META, factor=9)
    torch.save({"data": [list(pair())], "factor": 2}, tmp_path / "b.pt")
    assert open_set(tmp_path / "b.pt", META).factor == 2
    with pytest.raises(BaconError, match="has partition factor 2, not 1"):
        open_set(tmp_path / "b.pt", META, factor=1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"weights": torch.zeros(3)}, "holds no images with labels"),
        ({"data": {"data": {"data": 1}}}, "holds no images with labels"),
        ({"data": []}, "holds no images with labels"),
        ([pair(), 5], "holds no images with labels"),
        (torch.zeros(4, 3, 4, 6), "one tensor, without labels"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(4)), r"shape \(4, 3, 8, 8\), but those of toy are \(N, 3, 4, 6\)"),
        ((pair()[0], torch.zeros(4, 2)), r"labels .* shape \(4, 2\)"),
        ((pair()[0], torch.zeros(3)), r"labels .* shape \(3,\)"),
        ((pair()[0], torch.tensor([0, 0.5, 1, 1])), "not whole numbers"),
        ((pair()[0], torch.tensor([0, 0, 1, torch.nan])), "not whole numbers"),
        ((pair()[0], [0, 0, 1, 10**30]), "beyond any number"),
        ((pair()[0], torch.tensor([0, 0, 1, 2])), "does not fit: .*labels run from 0 to 2"),
        ((pair()[0], torch.tensor([0, 0, 0, 0])), "does not fit: .*has no image"),
        ((pair()[0] * torch.nan, pair()[1]), "not finite"),
        ((pair()[0].long(), pair()[1]), "are torch.int64"),
    ],
)
def test_what_is_no_set_is_told(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BaconError, match=message):
        open_set(tmp_path / "a.pt", META)


def test_pixels_between_0_and_1_are_not_guessed(tmp_path):
    images = torch.rand(4, 3, 4, 6)
    torch.save((images, pair()[1]), tmp_path / "a.pt")
    with pytest.raises(
        BaconError, match="may be pixels that were never normalized.* --pixels unit, normalized, zca or"
    ):
        open_set(tmp_path / "a.pt", META)
    assert torch.allclose(open_set(tmp_path / "a.pt", META, pixels="unit").pixels().flatten(0, 1), images, atol=1e-6)


def test_bytes_as_floats_are_refused(tmp_path):
    values = torch.randint(0, 256, (4, 3, 4, 6)).float()
    torch.save((values, pair()[1]), tmp_path / "a.pt")
    with pytest.raises(
        BaconError, match=r"a.pt' run from .* look like bytes kept as floating-point.*save them as uint8"
    ):
        open_set(tmp_path / "a.pt", META)


def test_pixels_far_beyond_black_and_white_are_warned_of(tmp_path):
    images, labels = pair()
    images[0, 0, 0, 0] = -9  # of META: black is from -2.5 to -1.2, white from 2.0 to 2.8
    torch.save((images, labels), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match=r"run from -9 to .*, far beyond black \(-2.5\) and white \(2.8\) of toy"):
        open_set(tmp_path / "a.pt", META, pixels="normalized")
    images[0, 0, 0, 0] = -4  # as training leaves it
    torch.save((images, labels), tmp_path / "a.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_set(tmp_path / "a.pt", META, pixels="normalized")


def test_the_dataset_must_be_known(tmp_path):
    torch.save(pair(), tmp_path / "a.pt")
    with pytest.raises(BaconError, match="does not say which dataset"):
        open_set(tmp_path / "a.pt")
