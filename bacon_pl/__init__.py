"""Dataset distillation on PyTorch Lightning.

The names in ``__all__`` are stable: they change only after a deprecation that is announced in the changelog. Modules
that are listed in the reference of the documentation are public, but may still be moved before version 1.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bacon_pl.errors import BaconError

if TYPE_CHECKING:
    from bacon_pl.api import distill, evaluate
    from bacon_pl.distilled_set import DistilledSet
    from bacon_pl.evaluation import Results

    __version__: str

__all__ = ["BaconError", "DistilledSet", "Results", "__version__", "distill", "evaluate"]

_HOMES = {
    "DistilledSet": "bacon_pl.distilled_set",
    "Results": "bacon_pl.evaluation",
    "distill": "bacon_pl.api",
    "evaluate": "bacon_pl.api",
}


def __getattr__(name: str) -> Any:
    """Import a name that needs torch on first use, so that short commands do not wait for torch."""
    if name == "__version__":
        found: Any = importlib.import_module("bacon_pl.version").package_version()
    elif name in _HOMES:
        found = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
