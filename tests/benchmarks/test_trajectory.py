"""The benchmark of trajectory matching: every way is timed at every number of steps."""

import torch

from benchmarks import report, trajectory
from benchmarks.workload import Settings

TINY = Settings(ipc=1, width=4, classes=2, image_size=16, rounds=2, warm_up=1, acceleration="off")


def test_every_way_is_timed_and_does_the_same_work():
    found = trajectory.run(TINY, (2, 3), memory=False)
    assert {steps: set(ways) for steps, ways in found["steps"].items()} == {
        steps: {"exact", "graph", "tesla_direct"} for steps in (2, 3)
    }
    assert {len(one["seconds"]) for ways in found["steps"].values() for one in ways.values()} == {2}
    table = report.trajectory_table(found)
    assert "| 3 " in table and "not measured" in table
    problem = trajectory.Problem(TINY)
    exact, graph = (problem.run(way, 2) for way in ("exact", "graph"))
    torch.testing.assert_close(exact.images, graph.images)
