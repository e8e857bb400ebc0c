"""Tuning: a method's few knobs, chosen on held-out training images with the same effort for every method."""

from bacon_pl.tuning.command import Tune
from bacon_pl.tuning.knobs import SECTION, Knob, read_knobs

__all__ = ["SECTION", "Knob", "Tune", "read_knobs"]
