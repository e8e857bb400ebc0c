"""The benchmark of networks side by side times both ways, as one program and one after another."""

from benchmarks import report, together
from benchmarks.workload import Settings


def test_both_ways_are_timed():
    s = Settings(classes=2, image_size=16, width=4, pool_batch=4, rounds=2, warm_up=1, acceleration="off")
    found = together.run(s, networks=2)
    assert {name: len(times) for name, times in found["seconds"].items()} == {"together": 2, "one after another": 2}
    assert "one after another" in report.together_table(found)
