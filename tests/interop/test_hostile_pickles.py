"""Pickles that contain more than data: no code in them is executed."""

import builtins
import os
import pickle
import subprocess
from functools import partial

import numpy as np
import pytest
import torch

from bacon_pl.errors import BaconError
from bacon_pl.interop import open_set
from bacon_pl.interop.unpickle import Pickle
from tests.interop.making import META, Calls, nested_save, pair


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


def test_bytes_within_bytes_end(tmp_path):
    inner = pickle.dumps(Calls(torch.storage._load_from_bytes, nested_save(torch.zeros(2).storage())))
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Calls(torch.storage._load_from_bytes, inner)))
    with pytest.raises(BaconError, match="within itself"):
        Pickle(tmp_path / "a.pkl")
