"""Other projects' sets: what is read from them, what they cannot do to their reader, and what is written for them."""

import builtins
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from bacon_pl.cli import main
from bacon_pl.data.images import DatasetMeta, normalize
from bacon_pl.distilled_set import DistilledSet
from bacon_pl.errors import BaconError
from bacon_pl.interop import dataset_meta, is_ours, open_set, write_set
from bacon_pl.interop.unpickle import Pickle
from tests.paths import DIGITS

META = DatasetMeta("toy", ("ant", "bee"), 3, (4, 6), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), 1000)
GREY = DatasetMeta("gray", ("b", "a", "c"), 1, (4, 4), (0.5,), (0.25,), 1000)
CIFAR = dataset_meta("cifar10")


def pair(meta=META, ipc=2, seed=0):
    shape = (meta.num_classes * ipc, meta.channels, *meta.size)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return images, torch.arange(meta.num_classes).repeat_interleave(ipc)


def quick(function):
    """Property tests that write files."""
    return settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))(function)


# ---- pickles of tensors

ACCURACIES = {
    "ConvNet": [np.float64(0.5), 0.25, np.float32(0.125), np.array([1.0, 2.0])],
    "MLP": np.arange(6).reshape(2, 3).T,
    "AlexNet": [],
}


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
    torch.save(-images, tmp_path / "images_5000.pt")
    torch.save(labels, tmp_path / "labels_5000.pt")
    with pytest.raises(BaconError, match=r"holds 2 sets, 'images_5000.pt' to 'images_best.pt': give one"):
        open_set(tmp_path, META)
    assert torch.equal(open_set(tmp_path / "images_5000.pt", META).images, -images)


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
        ((pair()[0], torch.tensor([0, 0, 0, 1])), "does not fit: .*same number"),
        ((pair()[0] * torch.nan, pair()[1]), "not finite"),
        ((pair()[0].long(), pair()[1]), "are torch.int64"),
    ],
)
def test_what_is_no_set_is_told(tmp_path, content, message):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(BaconError, match=message):
        open_set(tmp_path / "a.pt", META)


def test_pixels_between_0_and_1_are_warned_of(tmp_path):
    torch.save((torch.rand(4, 3, 4, 6), pair()[1]), tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="never normalized"):
        open_set(tmp_path / "a.pt", META)


def test_the_dataset_must_be_known(tmp_path):
    torch.save(pair(), tmp_path / "a.pt")
    with pytest.raises(BaconError, match="does not say which dataset"):
        open_set(tmp_path / "a.pt")


# ---- hostile pickles


class Calls:
    """An object whose pickle calls a function when it is loaded."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


class Plain:
    """An object of a class of one's own."""


def hostile(marker):
    command = f"touch {marker}"
    program = f"open({str(marker)!r}, 'w').close()"
    holder = np.empty(1, dtype=object)
    holder[0] = Calls(os.system, command)
    return {
        "system": Calls(os.system, command),
        "eval": Calls(eval, program),
        "exec": Calls(exec, program),
        "import": Calls(builtins.__import__, "antigravity"),
        "getattr": Calls(getattr, os, "system"),
        "subprocess": Calls(subprocess.check_call, ["touch", str(marker)]),
        "hub": Calls(torch.hub.load, "someone/something", "model"),
        "torch.load": Calls(torch.load, str(marker)),
        "numpy.load": Calls(np.load, str(marker)),
        "mmap": Calls(np.memmap, str(marker), np.uint8, "w+", 0, (10,)),
        "open": Calls(open, str(marker), "w"),
        "objects": holder,
        "nested reduce": Calls(Calls, Calls(os.system, command)),
        "state": Calls(dict, state={"a": Calls(os.system, command)}),
        "class": Plain(),
        "function": os.system,
        "module": torch.nn.Linear(2, 2),
        "structures": np.zeros(2, dtype=[("a", "f4")]),
        "text": np.array(["a"]),
        "partial": partial(os.system, command),
    }


@pytest.mark.parametrize("kind", hostile("x"))
def test_hostile_pickles_run_nothing(tmp_path, kind):
    marker = tmp_path / "run"
    try:
        plain = [pickle.dumps((pair()[0], hostile(marker)[kind]), protocol=p) for p in (0, 2, 4, 5)]
    except TypeError:  # a module cannot be pickled
        plain = [pickle.dumps((pair()[0], Calls(getattr, "os", "system")))]
    files = []
    for number, data in enumerate(plain):
        files.append(tmp_path / f"{number}.pkl")
        files[-1].write_bytes(data)
    if kind != "getattr":
        for zipped in (True, False):
            content = {"data": [list(pair())], "accs_all_exps": {"ConvNet": [hostile(marker)[kind]]}}
            files.append(tmp_path / f"{zipped}.pt")
            torch.save(content, files[-1], _use_new_zipfile_serialization=zipped)
    for path in files:
        with pytest.raises(BaconError, match=r"is a pickle that asks for .*nothing of it was run"):
            open_set(path, META)
        assert not marker.exists()


def test_the_hostile_pickles_are_hostile(tmp_path):
    """Else the test above could not fail."""
    for kind in ("system", "eval", "exec", "open", "objects", "partial"):
        marker = tmp_path / kind
        loaded = pickle.loads(pickle.dumps(hostile(marker)[kind]))
        if kind == "partial":
            loaded()
        assert marker.exists(), kind


@pytest.mark.parametrize(
    "program",
    [
        b"cos\nsystem\n(S'touch {}'\ntR.",
        b"(S'touch {}'\nios\nsystem\n.",
        b"(cos\nsystem\nS'touch {}'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x08touch {}\x85R.",
        b"\x80\x02ccollections\nOrderedDict\n)\x81.",
        b"\x80\x02ccollections\nOrderedDict\n)R}b.",
        b"\x80\x02cnumpy\nndarray\n)R.",
        b"\x80\x02cnumpy\ndtype\n\x8c\x02O8\x85R.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02Pid\n.",
        b"\x80\x02(K\x01K\x02K\x03K\x04K\x05tQ.",
        b"\x80\x02c_codecs\nencode\n\x8c\x01a\x8c\x03rot\x86R.",
        b"\x80\x02ctorch.storage\n_load_from_bytes\nK\x01\x85R.",
        b"\x80\x05\x97.",
        b"\x80\x04\x8f.",
    ],
)
def test_programs_that_ask_for_more_than_data_are_refused(tmp_path, program):
    marker = tmp_path / "run"
    (tmp_path / "a.pkl").write_bytes(program.replace(b"{}", str(marker).encode()))
    with pytest.raises(BaconError, match="nothing of it was run"):
        Pickle(tmp_path / "a.pkl")
    assert not marker.exists()


def nested_save(content):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def test_bytes_within_bytes_end(tmp_path):
    inner = pickle.dumps(Calls(torch.storage._load_from_bytes, nested_save(torch.zeros(2).storage())))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Calls(torch.storage._load_from_bytes, inner)))
    with pytest.raises(BaconError, match="within itself"):
        Pickle(tmp_path / "a.pkl")


SWELLING = {
    "memo": b"\x80\x02N" + b"r\xff\xff\xff\x7f" + b".",  # a memo of 2^31 entries
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",
    "text": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc.",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"N.",
    "long": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"a.",
    "decimal": b"I" + b"9" * 100_000 + b"\n.",
    "lists": b"\x80\x02" + b"]" * 400_000 + b".",
    "deep": b"\x80\x02" + b")" + b"\x85" * 200_000 + b".",
    "deep key": b"\x80\x02})" + b"\x85" * 200_000 + b"K\x01s.",
    "encoded": b"\x80\x02X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20) + b"q\x00(]"
    + 5000 * b"c_codecs\nencode\nh\x00\x8c\x06latin1\x86R" + b"t.",
}  # fmt: skip


def forged_archive(path, numel, size, level=zipfile.ZIP_STORED, stride=1):
    """An archive of torch.save whose tensor claims ``size`` of the ``numel`` numbers that its storage claims."""
    number, length = (b"\x8a\x08" + struct.pack("<q", n) for n in (numel, size))
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpu" + number + b"tQ"
    shape = b"K\x00(" + length + b"t(K" + bytes([stride]) + b"t"
    program = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + shape
    with zipfile.ZipFile(path, "w", level) as archive:
        archive.writestr("a/data.pkl", program + b"\x89ccollections\nOrderedDict\n)RtR.")
        archive.writestr("a/data/0", bytes(4 * min(numel, 1000)))
        archive.writestr("a/version", "3\n")
    return path


def forged_legacy(path, numel):
    """A file in the old format whose storage claims ``numel`` numbers."""
    data = nested_save(torch.zeros(7))
    assert data.count(b"K\x07") == 2  # the storage's numbers and the tensor's
    forged = data.replace(b"K\x07", b"J" + struct.pack("<i", numel)).replace(
        struct.pack("<q", 7), struct.pack("<q", numel)
    )
    path.write_bytes(forged)
    return path


def forged_npz(path, shape, level=zipfile.ZIP_STORED, content=b"abc", dtype="<f4"):
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    with zipfile.ZipFile(path, "w", level) as archive:
        for name in ("images", "labels"):
            archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content)
    return path


def swelling(folder):
    for name, data in SWELLING.items():
        path = folder / f"{name}.pkl"
        path.write_bytes(data)
        yield path
    yield forged_archive(folder / "size.pt", 10, 10**12)
    yield forged_archive(folder / "repeated.pt", 10, 10**12, stride=0)
    yield forged_archive(folder / "number.pt", 10**12, 10)
    yield forged_archive(folder / "compressed.pt", 1000, 1000, zipfile.ZIP_DEFLATED)
    yield forged_legacy(folder / "legacy.pt", (1 << 31) - 1)
    yield forged_npz(folder / "size.npz", (10**12,))
    yield forged_npz(folder / "overflow.npz", (1 << 62, 1 << 62))
    yield forged_npz(folder / "negative.npz", (-1, 4))
    yield forged_npz(folder / "swelling.npz", (1 << 23,), zipfile.ZIP_DEFLATED, bytes(1 << 25))
    yield forged_npz(folder / "objects.npz", (1,), dtype="|O", content=pickle.dumps(Calls(os.abort)))


@pytest.fixture
def little_memory():
    """Let the process take half a gigabyte more than it has, and no more."""
    if sys.platform != "linux":
        pytest.skip("needs Linux to limit memory")
    before = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 29), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_headers_take_no_memory(tmp_path, little_memory):
    with pytest.raises(MemoryError):
        bytearray(1 << 30)
    files = list(swelling(tmp_path))
    assert len(files) > 20
    for path in files:
        with pytest.raises(BaconError, match="cannot be read|holds no images|not plain numbers"):
            open_set(path, META)


def test_a_forged_archive_is_read_where_it_tells_the_truth(tmp_path):
    """Else the forgeries above might be refused for another reason."""
    with Pickle(forged_archive(tmp_path / "a.pt", 10, 10)) as file:
        assert torch.equal(file.read(file.content), torch.zeros(10))
    assert torch.load(forged_archive(tmp_path / "a.pt", 10, 5)).shape == (5,)
    assert np.load(forged_npz(tmp_path / "a.npz", (2,), content=b"abcdefgh"))["images"].shape == (2,)


@quick
@given(st.binary(max_size=40), st.integers(0, 10**6), st.booleans(), st.booleans())
def test_damaged_files_end_in_one_sentence(tmp_path_factory, noise, position, zipped, cut):
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / "a.pt"
    torch.save({"data": [list(pair())], "accs_all_exps": ACCURACIES}, path, _use_new_zipfile_serialization=zipped)
    data = bytearray(path.read_bytes())
    position %= len(data)
    data[position : position + len(noise)] = noise
    path.write_bytes(data[:position] if cut else data)
    told = ""
    try:
        open_set(path, META)
    except BaconError as error:
        told = str(error)
    assert "\n" not in told
    shutil.rmtree(folder)


@quick
@given(st.binary(max_size=60))
def test_noise_ends_in_one_sentence(tmp_path_factory, noise):
    folder = tmp_path_factory.mktemp("noise")
    for name in ("a.pkl", "a.npz", "a.pt"):
        (folder / name).write_bytes(noise)
        with pytest.raises(BaconError):
            open_set(folder / name, META)


# ---- arrays and pictures


@pytest.mark.parametrize(
    "names", [("images", "labels"), ("x", "y"), ("X", "Y"), ("data", "target"), ("data", "targets")]
)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_by_its_names(tmp_path, names, save):
    images, labels = (t.numpy() for t in pair())
    save(tmp_path / "a.npz", **dict(zip(names, (images, labels), strict=True)), other=np.zeros(3))
    assert torch.equal(open_set(tmp_path / "a.npz", META).images, torch.from_numpy(images))


def test_bytes_are_pixels_wherever_their_channels_stand(tmp_path):
    values = torch.randint(0, 256, (4, 3, 4, 6), dtype=torch.uint8)
    expected = normalize(values, META.mean, META.std, torch.float32)
    for layout in (values, values.permute(0, 2, 3, 1)):
        np.savez(tmp_path / "a.npz", x=layout.numpy(), y=pair()[1].numpy())
        assert torch.equal(open_set(tmp_path / "a.npz", META).images, expected)
    gray = torch.randint(0, 256, (3, 4, 4), dtype=torch.uint8)
    np.savez(tmp_path / "b.npz", x=gray.numpy(), y=np.arange(3, dtype=np.uint8))
    distilled = open_set(tmp_path / "b.npz", GREY)
    assert torch.equal(distilled.images, normalize(gray[:, None], GREY.mean, GREY.std, torch.float32))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pictures": np.zeros(3)}, "holds pictures, but images and labels are looked for"),
        ({}, "holds nothing"),
        ({"x": np.array([{}]), "y": np.zeros(1)}, "'x' .* holds object, not plain numbers"),
        ({"x": np.zeros(2, "c16"), "y": np.zeros(1)}, "not plain numbers"),
        ({"x": np.array(["a"]), "y": np.zeros(1)}, "not plain numbers"),
        ({"x": pair()[0].numpy(), "y": pair()[1].numpy(), "factor": np.array(1.5)}, "factor .* no whole number"),
    ],
)
def test_npz_without_a_set(tmp_path, content, message):
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(BaconError, match=message):
        open_set(tmp_path / "a.npz", META)


def picture_tree(folder, meta=META, names=None, ipc=2):
    values = torch.randint(0, 256, (meta.num_classes, ipc, meta.channels, *meta.size), dtype=torch.uint8)
    for name, images in zip(names or meta.class_names, values, strict=True):
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images):
            to_pil_image(image).save(folder / name / f"{number}.png")
    return normalize(values.flatten(0, 1), meta.mean, meta.std, torch.float32)


@pytest.mark.parametrize("names", [None, ("0", "1", "2"), ("0_b", "1_a", "2_c")])
def test_pictures_get_the_label_of_their_class_not_of_their_place(tmp_path, names):
    expected = picture_tree(tmp_path / "tree", GREY, names)
    distilled = open_set(tmp_path / "tree", GREY)
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
        open_set(tmp_path / "d", GREY)
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


# ---- ours, and round trips


@st.composite
def sets(draw, bytes_only=False):
    channels, ipc, classes = draw(st.sampled_from([1, 3])), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    size = (draw(st.sampled_from([2, 4])), draw(st.sampled_from([2, 4, 6])))
    names = draw(st.lists(st.text(max_size=6), min_size=classes, max_size=classes))
    meta = DatasetMeta("any", tuple(names), channels, size, (0.4,) * channels, (0.25,) * channels)
    shape = (classes * ipc, channels, *size)
    if bytes_only:
        values = torch.from_numpy(draw(arrays.arrays(np.uint8, shape)))
        images = normalize(values, meta.mean, meta.std, torch.float32)
    else:
        numbers = st.floats(-1e6, 1e6, width=32)
        images = torch.from_numpy(draw(arrays.arrays(np.float32, shape, elements=numbers)))
    labels = torch.arange(classes).repeat_interleave(ipc)
    return DistilledSet(images, labels, meta, factor=draw(st.sampled_from([1, 2])), method="bacon", seed=3)


@pytest.mark.filterwarnings("ignore:.*never normalized")
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npz", ".safetensors"])
@quick
@given(sets())
def test_round_trips_are_exact(tmp_path_factory, suffix, distilled):
    folder = tmp_path_factory.mktemp("trip")
    path = write_set(distilled, folder / f"new/set{suffix}")
    back = open_set(path, distilled.meta)
    assert torch.equal(back.images.view(torch.int32), distilled.images.view(torch.int32))
    assert torch.equal(back.labels, distilled.labels)
    assert (back.meta, back.factor) == (distilled.meta, distilled.factor)
    assert os.listdir(folder / "new") == [path.name]
    if suffix == ".safetensors":
        assert (back.method, back.seed) == ("bacon", 3)
    if suffix == ".pt":  # as the other projects load it
        images, labels = torch.load(path, weights_only=True)["data"][-1]
        assert torch.equal(images, distilled.images) and torch.equal(labels, distilled.labels)
    shutil.rmtree(folder)


@quick
@given(sets())
def test_round_trips_through_pictures_round_to_bytes(tmp_path_factory, distilled):
    folder = tmp_path_factory.mktemp("trip")
    back = open_set(write_set(distilled, folder / "png"), distilled.meta, factor=distilled.factor)
    assert torch.equal(back.labels, distilled.labels)
    assert (back.meta, back.factor) == (distilled.meta, distilled.factor)
    assert (back.pixels() - distilled.pixels()).abs().max() <= 0.5 / 255 + 1e-5
    shutil.rmtree(folder)


@quick
@given(sets(bytes_only=True))
def test_whole_bytes_survive_pictures(tmp_path_factory, distilled):
    folder = tmp_path_factory.mktemp("trip")
    back = open_set(write_set(distilled, folder / "png"), distilled.meta)
    assert torch.equal(back.images, distilled.images)
    shutil.rmtree(folder)


def test_ours_needs_no_dataset_and_keeps_its_factor(tmp_path):
    distilled = DistilledSet(*pair(), META, factor=2)
    distilled.save(tmp_path)
    for source in (tmp_path, tmp_path / "distilled.safetensors"):
        assert is_ours(source)
        assert open_set(source).meta == META
        assert open_set(source, CIFAR, factor=2).factor == 2
        with pytest.raises(BaconError, match="has partition factor 2, not 1"):
            open_set(source, factor=1)
    with pytest.raises(BaconError, match="no distilled set at .*nowhere"):
        open_set(tmp_path / "nowhere.pt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BaconError, match="no distilled set at .*empty"):
        open_set(tmp_path / "empty")


def test_nothing_is_overwritten_unasked(tmp_path):
    first, second = (DistilledSet(*pair(seed=seed), META) for seed in (0, 1))
    for name in ("a.pt", "a.npz", "a.safetensors", "png"):
        path = tmp_path / name
        path.mkdir() if name == "png" else None  # an empty folder is no loss
        write_set(first, path)
        with pytest.raises(BaconError, match="exists: choose another target or give --overwrite true"):
            write_set(second, path)
        assert torch.allclose(open_set(path, META).pixels(), first.pixels(), atol=0.01)
        write_set(second, path, overwrite=True)
        assert torch.allclose(open_set(path, META).pixels(), second.pixels(), atol=0.01)
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "a.pt", "a.safetensors", "png"]


def test_a_folder_with_anything_else_in_it_is_left_alone(tmp_path):
    distilled = DistilledSet(*pair(), META)
    folder = write_set(distilled, tmp_path / "png")
    for strange in ("notes.txt", "ant/notes.txt", "ant/x.png", "bee/deep/0000.png"):
        (folder / strange).parent.mkdir(exist_ok=True)
        (folder / strange).write_text("mine")
        with pytest.raises(BaconError, match="holds more than a set's pictures"):
            write_set(distilled, folder, overwrite=True)
        assert (folder / strange).read_text() == "mine"
        (folder / strange).unlink()
        if strange.count("/") == 2:
            (folder / strange).parent.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (folder / "cow").symlink_to(elsewhere)
    with pytest.raises(BaconError, match="holds more"):
        write_set(distilled, folder, overwrite=True)
    (tmp_path / "a.npz").mkdir()
    (tmp_path / "a.npz/x").touch()
    with pytest.raises(BaconError, match="is a folder"):
        write_set(distilled, tmp_path / "a.npz", overwrite=True)
    with pytest.raises(BaconError, match="suffix that is not known"):
        write_set(distilled, tmp_path / "a.png")
    (tmp_path / "file").touch()
    with pytest.raises(BaconError, match="is a file"):
        write_set(distilled, tmp_path / "file", overwrite=True)
    with pytest.raises(BaconError, match="cannot write"):
        write_set(distilled, tmp_path / "file/a.pt")


# ---- the dataset's description


@pytest.mark.parametrize(
    ("name", "classes", "last"),
    [("MNIST", 10, "9 - nine"), ("fashion_mnist", 10, "Ankle boot"), ("svhn", 10, "9"), ("CIFAR-100", 100, "worm")],
)
def test_descriptions_without_data(name, classes, last):
    meta = dataset_meta(name)
    assert (meta.num_classes, meta.class_names[-1]) == (classes, last)
    assert len(set(meta.class_names)) == classes
    assert list(meta.class_names) == sorted(meta.class_names) or classes == 10
    assert meta.train_bytes > 40_000_000


def test_descriptions_from_data(tmp_path):
    assert CIFAR.class_names[:2] == ("airplane", "automobile")
    assert dataset_meta("digits").class_names == tuple("0123456789")
    assert dataset_meta("cifar10", image_size=16, mean=[0.5] * 3).size == (16, 16)
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        for i in range(5):
            Image.new("RGB", (8, 8), (i, i, i)).save(tmp_path / name / f"{i}.png")
    assert dataset_meta("folder", tmp_path).class_names == ("ant", "bee")
    with pytest.raises(BaconError, match="only the files of tiny_imagenet tell its classes"):
        dataset_meta("tiny_imagenet")
    with pytest.raises(BaconError, match="Did you mean 'cifar10'"):
        dataset_meta("cifra10")
    with pytest.raises(BaconError, match="1 channel"):
        dataset_meta("mnist", mean=[0.5] * 3)


# ---- the command


def convert(*args):
    main(["convert", *map(str, args)])


def test_convert_there_and_back(tmp_path, capsys):
    images, labels = pair(CIFAR, ipc=1)
    torch.save({"data": [[images, labels], [images + 1, labels]], "accs_all_exps": ACCURACIES}, tmp_path / "theirs.pt")
    ours = tmp_path / "ours.safetensors"
    convert(tmp_path / "theirs.pt", ours, "--dataset", "CIFAR10", "--factor", 2, "--epoch-index", 0)
    assert capsys.readouterr().out == f"distilled set: {ours}\n"
    distilled = DistilledSet.load(ours)
    assert torch.equal(distilled.images, images)
    assert (distilled.factor, distilled.meta.name, distilled.config) == (2, "cifar10", {"converted_from": "theirs.pt"})
    convert(ours, tmp_path / "png")
    assert sorted(os.listdir(tmp_path / "png")) == sorted(CIFAR.class_names)
    convert(tmp_path / "png", tmp_path / "a.npz", "--dataset", "cifar10", "--mean", "[.5,.5,.5]", "--std", "[.5,.5,.5]")
    with np.load(tmp_path / "a.npz") as file:
        assert file["images"].min() >= -1
        assert file["images"].max() <= 1
    with pytest.raises(SystemExit):
        convert(ours, tmp_path / "a.npz")
    convert(ours, tmp_path / "a.npz", "--overwrite", "true")
    assert torch.equal(open_set(tmp_path / "a.npz", CIFAR).images, images)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ([], "source"),
        (["{}/a.pt"], "target"),
        (["{}/a.pt", "{}/b.npz"], "a.pt' does not say which dataset .* --dataset cifar10"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifra10"], "Did you mean 'cifar10'"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifar10", "--factor", "two"], "--factor|factor"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifar10", "--factor", "9"], "factor 9 does not cut"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifar10", "--factor", "0"], "factor 0 does not cut"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "cifar10", "--epoch_index", "1"], "holds 1 set"),
        (["{}/a.pt", "{}/b.npz", "--dataset", "mnist"], r"those of mnist are \(N, 1, 28, 28\)"),
        (["{}/a.pt", "{}/b.gif", "--dataset", "cifar10"], "suffix that is not known"),
        (["{}/a.pt", "{}/a.pt", "--dataset", "cifar10"], "exists: choose another target"),
        (["{}/evil.pt", "{}/b.npz", "--dataset", "cifar10"], "asks for posix.system"),
        (["{}/missing.pt", "{}/b.npz", "--dataset", "cifar10"], "no distilled set at .*missing.pt"),
        (["{}/a.pt", "{}/b.npz", "--datset", "cifar10"], "--datset"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path, capsys, args, sentence):
    torch.save(pair(CIFAR, ipc=1), tmp_path / "a.pt")
    torch.save(Calls(os.system, f"touch {tmp_path / 'run'}"), tmp_path / "evil.pt")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(SystemExit) as end:
        convert(*(arg.replace("{}", str(tmp_path)) for arg in args))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("bacon convert: error: ")
    assert re.search(sentence, line), line
    assert sorted(os.listdir(tmp_path)) == before


def test_eval_takes_their_files_directly(tmp_path, capsys):
    meta = dataset_meta("digits")
    pairs = [list(pair(meta, ipc=1, seed=seed)) for seed in range(2)]
    torch.save({"data": pairs, "accs_all_exps": {}}, tmp_path / "theirs.pt")
    given = ["--distilled", str(tmp_path / "theirs.pt"), "--factor", "2", "--epoch_index", "0"]
    quick_recipe = ["--evaluation.network.width", "4", "--evaluation.epochs", "1", "--evaluation.num_networks", "1"]
    trainer = ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", "false"]
    main(["eval", "--config", str(DIGITS), *given, *quick_recipe, *trainer])
    assert "accuracy: distilled" in capsys.readouterr().out
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert (numbers["factor"], numbers["ipc"], numbers["train_images"]) == (2, 1, 40)


def test_help(capsys):
    with pytest.raises(SystemExit) as end:
        convert("--help")
    assert not end.value.code
    assert "--epoch-index" in capsys.readouterr().out
    main(["--help"])
    assert "convert" in capsys.readouterr().out
