"""Damaged files, and files that claim more data than they contain: they take no memory and cause a plain error."""

import mmap
import os
import pickle
import resource
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bacon_pl.errors import BaconError
from bacon_pl.interop import open_set
from bacon_pl.interop.unpickle import Pickle
from bacon_pl.runtime import default_memory
from tests.interop.making import ACCURACIES, META, Calls, nested_save, pair, quick

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
    with default_memory():  # what an earlier test's command has kept for itself is given back
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + (1 << 29), before[1]))
        yield
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_headers_take_no_memory(tmp_path, little_memory):
    with pytest.raises(OSError, match="memory"):
        mmap.mmap(-1, 1 << 30)  # which no memory that earlier tests have freed can serve
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
