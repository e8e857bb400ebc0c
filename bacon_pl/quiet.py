"""What Lightning and torch say that is no news to whoever distills or evaluates: not said."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed")
_KERNELS = "torch.utils.cpp_extension"
_OLD_NEWS = (
    ".*is smaller than the logging interval.*",
    # sys.argv stays whole, for Lightning starts the other processes of a DDP run by it.
    "LightningCLI's args parameter is intended to run from within Python.*",
    ".*does not have many workers.*",
    ".*configure_optimizers` returned `None`.*",  # selection optimizes nothing
)


def quiet() -> None:
    """Say none of it in this process from now on."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(is_news)
    logging.getLogger(_KERNELS).setLevel(logging.ERROR)  # that there is no GPU
    _filter_warnings()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Say none of it while a block runs."""
    kernels = logging.getLogger(_KERNELS)
    level = kernels.level
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            kernels.setLevel(level)
            for name in _LOGGERS:
                logging.getLogger(name).removeFilter(is_news)


def is_news(record: logging.LogRecord) -> bool:
    """Whether a message is a warning, or comes from this package, which informs by Lightning's loggers, too."""
    if record.levelno < logging.WARNING:
        return record.pathname.startswith(os.path.dirname(__file__))
    # Whoever runs it says how it ended.
    return not any(part in record.getMessage() for part in ("Detected KeyboardInterrupt", "Time limit reached."))


def _filter_warnings() -> None:
    warnings.filterwarnings("ignore", ".*is deprecated, use.*", module="lightning.*")
    # How Lightning calls the parser is not for us to change.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(lightning|jsonargparse)(\.|$)")
    for message in _OLD_NEWS:
        warnings.filterwarnings("ignore", message)
