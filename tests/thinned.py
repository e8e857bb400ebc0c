"""Many alike cases: a spread of them in the fast suite, all of them in the slow one."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thinned(cases: Collection[Any], every: int) -> list[Any]:
    """Mark all cases but every N-th as slow.

    Choose ``every`` prime to the length of a cross product's inner list: what is kept then wanders through that list,
    so that every value of both lists stays in the fast suite.

    Args:
        cases: Values, or tuples of values, of ``pytest.mark.parametrize``.
        every: One case in so many stays in the fast suite.
    """
    slow = pytest.mark.slow
    marked = (pytest.param(*(case if isinstance(case, tuple) else [case]), marks=slow) for case in cases)
    return [case if i % every == 0 else other for i, (case, other) in enumerate(zip(cases, marked, strict=True))]


def fast(cases: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return the cases that :func:`thinned` left in the fast suite."""
    return [case for case in cases if isinstance(case, tuple) and not hasattr(case, "marks")]
