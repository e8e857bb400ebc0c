"""What was picked by measuring: kept in the cache by device and shapes, and in the checkpoint of a run."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, get_args

from bacon_pl.cache_files import picks_path
from bacon_pl.errors import BaconError
from bacon_pl.networks.acceleration import Plan
from bacon_pl.networks.side_by_side import Way
from bacon_pl.runtime import replacing

FORMAT = 1


@dataclass(frozen=True)
class Pick:
    """What was picked, and of what.

    Attributes:
        facts: All that it depends on: device, torch, architecture and shapes.
        plan: What was picked.
        why: A line that says it with the times.
        tried: What was measured, as JSON values.
    """

    facts: Mapping[str, Any]
    plan: Plan
    why: str
    tried: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values, as they are kept and reported."""
        return {"of": dict(self.facts), "plan": self.plan._asdict(), "why": self.why, "tried": self.tried}


def of_json(held: Any) -> Pick:
    """Make a pick of its JSON values.

    Raises:
        ValueError: They are not those of a pick.
    """
    try:
        plan, why, tried, facts = held["plan"], held["why"], held["tried"], held["of"]
        shaped = isinstance(plan, dict) and isinstance(facts, dict) and isinstance(why, str) and isinstance(tried, list)
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks {error}") from error
    if not shaped or set(plan) != set(Plan._fields):
        raise ValueError("it is not of this version")
    optional = ("way", "tf32", "benchmark")
    for name, value in plan.items():
        allowed = get_args(Way) if name == "way" else (True, False)
        if (value is not None or name not in optional) and not any(
            value == a and type(value) is type(a) for a in allowed
        ):
            raise ValueError(f"its {name} is {value!r}")
    return Pick(facts, Plan(**plan), why, tried)


def of_checkpoint(held: Any) -> list[Pick]:
    """Make the picks of a run of what its checkpoint holds.

    Raises:
        BaconError: They cannot be read.
    """
    try:
        return [of_json(each) for each in held]
    except (TypeError, ValueError) as error:
        raise BaconError(
            f"what was measured for this run cannot be read from its checkpoint ({error}): start a new run in another "
            "default_root_dir, or use the version that wrote it."
        ) from error


# Those of a run.

_held: ContextVar[tuple[list[Pick], ...]] = ContextVar("_held", default=())


@contextlib.contextmanager
def holding(picks: list[Pick]) -> Iterator[list[Pick]]:
    """Use these picks rather than those in the cache during a block, and add to them what it uses; blocks may nest.

    Args:
        picks: Those of a run, as its checkpoint has them; the list grows.
    """
    token = _held.set((*_held.get(), picks))
    try:
        yield picks
    finally:
        _held.reset(token)


def note(pick: Pick) -> None:
    """Add a pick to those of the run."""
    for picks in _held.get():
        if all(_shapes(pick.facts) != _shapes(other.facts) for other in picks):
            picks.append(pick)


def known(facts: Mapping[str, Any]) -> Pick | None:
    """Return what was picked before: by the run that is resumed, or by any other on this machine; None if nothing was.

    A pick of a resumed run holds on another device and with another torch, too, so that the run ends as it began.

    Args:
        facts: All that the pick depends on.
    """
    for picks in _held.get():
        for pick in picks:
            if _shapes(pick.facts) == _shapes(facts):
                return pick
    path = picks_path(facts)
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(held, dict) or held.get("format") != FORMAT:
            raise ValueError("it is not of this version")
        pick = of_json(held)
        if pick.facts != dict(facts):
            raise ValueError("it is of other shapes")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        warnings.warn(f"the file '{path}' cannot be used ({error}): it is measured again.", stacklevel=2)
        return None
    return pick


def write(pick: Pick) -> None:
    """Keep a pick in the cache; if that fails, a warning says so, and the next run measures again."""
    path = picks_path(pick.facts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps({"format": FORMAT, **pick.to_json()}, indent=1).encode())
    except OSError as error:
        warnings.warn(
            f"cannot write '{path}' ({error.strerror}): the next run has to measure again, and may pick otherwise; set "
            "BACON_CACHE to a folder that can be written.",
            stacklevel=2,
        )


def _shapes(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name not in ("device", "torch", "may_compile")}
