"""A process that trains networks, and waits half-way for a line if it is the first: ``other_training FOLDER first``."""

import sys
from pathlib import Path

from bacon_pl.learners import Learners
from tests.learners.test_trained import digits, make

descend = Learners.descend


def slow(self, step):
    if step == 5:
        print("half-way", flush=True)
        sys.stdin.readline()
    return descend(self, step)


if __name__ == "__main__":
    if sys.argv[2] == "first":
        Learners.descend = slow
    make(digits(), Path(sys.argv[1]))
    print("done", flush=True)
