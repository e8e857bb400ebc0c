"""The benchmark of gradient matching: both contenders do the same mathematics, and both are measured."""

import pytest

from benchmarks import gradients, report
from benchmarks.workload import Settings

TINY = Settings(ipc=2, width=4, batch_real=4, classes=3, image_size=16, rounds=2, warm_up=1, acceleration="off")


@pytest.mark.filterwarnings("ignore")
def test_the_literal_loop_has_the_same_gradient():
    found = gradients.run(TINY)
    assert found["apart"] < 1e-3  # float32, summed in another order
    assert {len(times) for times in found["seconds"].values()} == {2}
    table = report.gradients_table({**found, "memory": {"literal": None, "ours": {"bytes": 2e9}}})
    assert "| literal " in table and "out of memory" in table and "2.00 GB" in table
