"""Dataset distillation on PyTorch Lightning."""

from bacon_pl.distilled_set import DistilledSet, package_version
from bacon_pl.errors import BaconError

__version__ = package_version()
__all__ = ["BaconError", "DistilledSet", "__version__"]
