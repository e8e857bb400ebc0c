"""The benchmark of objectives: each runs beside mean matching, in pairs, and all are measured."""

import pytest

from bacon_pl.objectives import MeanMatching
from benchmarks import objectives, report
from benchmarks.workload import Settings

TINY = Settings(
    ipc=1, width=4, batch_real=4, classes=2, image_size=16, rounds=2, per_round=2, warm_up=1, acceleration="off"
)


class Recorded(MeanMatching):
    """Keeps whose turn it was."""

    def __init__(self, name: str, turns: list[str]) -> None:
        super().__init__()
        self.name, self.turns = name, turns

    def terms(self, *given):
        self.turns.append(self.name)
        return super().terms(*given)


def test_each_has_its_turn_beside_the_first():
    turns: list[str] = []
    found = objectives.run(TINY, {name: Recorded(name, turns) for name in ("mean", "a", "b")})
    each = turns[::2]  # two blocks of one class
    once, first, second = each[:3], each[3:11], each[11:]
    assert once == ["mean", "a", "b"]
    assert first == ["mean", "mean", "a", "a", "mean", "mean", "b", "b"]
    assert second == ["a", "a", "mean", "mean", "b", "b", "mean", "mean"]
    assert found["beside"] == "mean" and set(found["objectives"]) == {"a", "b"}
    assert {len(times) for one in found["objectives"].values() for times in one["seconds"].values()} == {2}


@pytest.mark.filterwarnings("ignore")
def test_all_objectives_are_in_the_table():
    result = objectives.run(TINY)
    names = set(objectives.objectives()) - {objectives.MEAN}
    assert set(result["objectives"]) == names
    table = report.objectives_table(result)
    assert all(f"| {name} " in table for name in names) and "mean matching beside it" in table
