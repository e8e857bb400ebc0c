"""The commands that are LightningCLIs: ``fit`` and ``eval``. Nothing is computed here."""

from bacon_pl.commands.evaluate import Eval
from bacon_pl.commands.fit import Fit
from bacon_pl.commands.settings import settings_of

__all__ = ["Eval", "Fit", "settings_of"]
