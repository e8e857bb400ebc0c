"""Numbers that users give are in their ranges, or one sentence says which are not."""

import math
import re

import numpy as np
import pytest

from bacon_pl import ranges
from bacon_pl.errors import BaconError


@pytest.mark.parametrize(
    ("check", "good"),
    [
        (ranges.whole, [1, 7, np.int64(3)]),
        (ranges.positive, [1e-9, 2, np.float32(0.5)]),
        (ranges.not_negative, [0, 0.0, 3.5]),
        (ranges.below_one, [0, 0.999]),
        (ranges.share, [0, 1, 0.5]),
    ],
)
def test_numbers_within_their_ranges_pass(check, good):
    for value in good:
        check("--model.", lr=value)
    check("--model.", **ranges.given(lr=None))
    with pytest.raises(BaconError, match="--model.lr must be a .*number, got None"):
        check("--model.", lr=None)


@pytest.mark.parametrize(
    ("check", "value", "said"),
    [
        (ranges.whole, 0, "--model.lr must be at least 1, got 0."),
        (ranges.whole, 2.0, "--model.lr must be a whole number, got 2.0."),
        (ranges.whole, True, "--model.lr must be a whole number, got True."),
        (ranges.whole, "3", "--model.lr must be a whole number, got '3'."),
        (ranges.positive, 0.0, "--model.lr must be positive and finite, got 0.0."),
        (ranges.positive, math.inf, "--model.lr must be positive and finite, got inf."),
        (ranges.positive, math.nan, "--model.lr must be positive and finite, got nan."),
        (ranges.positive, "1", "--model.lr must be a number, got '1'."),
        (ranges.positive, True, "--model.lr must be a number, got True."),
        (ranges.not_negative, -1e-9, "--model.lr must be zero or positive and finite, got -1e-09."),
        (ranges.not_negative, math.nan, "--model.lr must be zero or positive and finite, got nan."),
        (ranges.below_one, 1.0, "--model.lr must be in [0, 1), got 1.0."),
        (ranges.below_one, -0.1, "--model.lr must be in [0, 1), got -0.1."),
        (ranges.share, 1.1, "--model.lr must be in [0, 1], got 1.1."),
        (ranges.share, math.nan, "--model.lr must be in [0, 1], got nan."),
    ],
)
def test_the_first_number_that_is_out_of_range_is_told(check, value, said):
    with pytest.raises(BaconError, match=f"^{re.escape(said)}$"):
        check("--model.", lr=value, later=value)


def test_other_least_numbers():
    ranges.whole("the bound's ", 0, samples=0)
    with pytest.raises(BaconError, match=r"^the bound's samples must be at least 2, got 1\.$"):
        ranges.whole("the bound's ", 2, samples=1)
