"""How threads wait and how many there are: what commands tell OpenMP, and what they leave as a user has set it."""

import os
import subprocess

import pytest

from bacon_pl import threads
from tests.paths import PYTHON, ROOT

SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch):
    for name in SETTINGS:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_waiting_threads_sleep():
    threads.sleep_while_waiting()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def stat(root, *idle_then):
    """A machine of four cores, of which some are idle between two looks: writes what the kernel would say of it."""
    (root / "proc").mkdir()
    looks = iter([(0, 0), idle_then])

    def look(seconds=0):
        idle, total = next(looks)
        (root / "proc/stat").write_text(f"cpu  {total - idle} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 2 3\n")

    look()
    return look


@pytest.mark.parametrize(
    ("idle", "mine", "chosen"),
    [
        (40, 4, {"GOMP_SPINCOUNT": "10000"}),
        (36, 4, {"GOMP_SPINCOUNT": "10000"}),
        (30, 4, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (0, 4, {"OMP_WAIT_POLICY": "PASSIVE"}),
        (20, 2, {"GOMP_SPINCOUNT": "10000"}),  # a container's two cores are free, though others work
        (10, 2, {"OMP_WAIT_POLICY": "PASSIVE"}),
    ],
)
def test_threads_sleep_where_cores_are_taken_and_spin_briefly_where_they_are_free(
    tmp_path, monkeypatch, idle, mine, chosen
):
    monkeypatch.setattr(threads.time, "sleep", stat(tmp_path, idle, 40))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads, "available_cores", lambda root: mine)
    threads.choose_waiting(tmp_path)
    assert {key: os.environ[key] for key in SETTINGS if key in os.environ} == chosen


@pytest.mark.parametrize("text", ["", "cpu", "intr 1 2 3", "cpu a b c d e f g h"])
def test_threads_sleep_where_the_system_does_not_tell(tmp_path, text):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/stat").write_text(text)
    threads.choose_waiting(tmp_path)
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY", "OMP_WAIT_POLICY"])
def test_what_a_user_says_of_waiting_stays(monkeypatch, name):
    monkeypatch.setenv(name, "1")
    threads.sleep_while_waiting()
    threads.choose_waiting()
    assert {key: os.environ[key] for key in SETTINGS if key in os.environ} == {name: "1"}


def control_groups(root, listed, **files):
    """A machine's ``proc`` and ``sys`` with one process's control groups."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(listed)
    for path, text in files.items():
        file = root / "sys/fs/cgroup" / path.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


@pytest.mark.parametrize(
    ("listed", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),  # begun cores count
        ("0::/\n", {"cpu.max": "20000 100000\n"}, 1),
        ("0::/a/b\n", {"a__cpu.max": "300000 100000\n", "a__b__cpu.max": "400000 100000\n"}, 3),  # the strictest
        ("0::/not/seen/from/within\n", {"cpu.max": "200000 100000\n"}, 2),
        ("4:cpu,cpuacct:/\n0::/\n", {"cpu__cpu.cfs_quota_us": "500000\n", "cpu__cpu.cfs_period_us": "100000\n"}, 5),
        ("4:cpu:/\n", {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}, 8),
        ("3:cpuset:/\n", {"cpu__cpu.cfs_quota_us": "100000\n", "cpu__cpu.cfs_period_us": "100000\n"}, 8),
        ("0::/\n", {"cpu.max": "no number\n"}, 8),
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "3200000 100000\n"}, 8),  # more than there are
    ],
)
def test_a_container_grants_cores(tmp_path, monkeypatch, listed, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    assert threads.available_cores(control_groups(tmp_path, listed, **files)) == cores


def test_a_machine_without_control_groups_gives_its_cores(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads.available_cores(tmp_path) == 6


def test_threads_are_limited_to_what_a_container_grants_and_a_users_number_stays(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)
    monkeypatch.setattr(threads, "_quotas", lambda _: iter([2.0]))
    threads.limit_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2"
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("MKL_NUM_THREADS", "7")
    threads.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ


def test_where_nothing_is_limited_the_number_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(threads, "_quotas", lambda _: iter([64.0]))
    monkeypatch.setattr(os, "getloadavg", lambda: (500.0, 500.0, 500.0), raising=False)  # equal runs stay equal
    threads.limit_threads()
    assert "OMP_NUM_THREADS" not in os.environ


def displayed(**environment):
    """What torch's OpenMP says of its settings when a command loads it."""
    said = subprocess.run(
        [PYTHON, "-m", "bacon_pl", "convert", "--help"], check=True, capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, "OMP_DISPLAY_ENV": "verbose", **environment},
    ).stderr  # fmt: skip
    if "OMP_WAIT_POLICY" not in said:
        pytest.skip("torch has another OpenMP than GNU's")
    return said


def test_a_command_tells_openmp_before_torch_is_loaded():
    said = displayed()
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said or "GOMP_SPINCOUNT = '10000'" in said
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in displayed(OMP_WAIT_POLICY="ACTIVE")
