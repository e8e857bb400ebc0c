"""Suppression of messages by Lightning and torch that are irrelevant for distillation and evaluation."""

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
    # sys.argv is not changed, since Lightning uses it to start the other processes of a DDP run.
    "LightningCLI's args parameter is intended to run from within Python.*",
    ".*does not have many workers.*",
    ".*configure_optimizers` returned `None`.*",  # Selection has no optimizer
)


def quiet() -> None:
    """Suppress these messages in this process from now on."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(is_news)
    logging.getLogger(_KERNELS).setLevel(logging.ERROR)  # it warns if there is no GPU
    _filter_warnings()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Suppress these messages during a ``with`` block."""
    kernels = logging.getLogger(_KERNELS)
    level = kernels.level
    added = [logger for name in _LOGGERS if is_news not in (logger := logging.getLogger(name)).filters]
    with warnings.catch_warnings():
        quiet()
        try:
            yield
        finally:
            kernels.setLevel(level)
            for logger in added:  # what was suppressed before stays so
                logger.removeFilter(is_news)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Suppress all informational messages through Lightning's loggers during a ``with`` block."""
    before = {logging.getLogger(name): logging.getLogger(name).level for name in _LOGGERS}
    try:
        for logger in before:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in before.items():
            logger.setLevel(level)


def is_news(record: logging.LogRecord) -> bool:
    """Return whether to keep a message: other warnings, and messages that this package sends to Lightning's loggers."""
    if record.levelno < logging.WARNING:
        return record.pathname.startswith(os.path.dirname(__file__))
    # The commands themselves report how a run ended.
    return not any(part in record.getMessage() for part in ("Detected KeyboardInterrupt", "Time limit reached."))


def _filter_warnings() -> None:
    warnings.filterwarnings("ignore", ".*is deprecated, use.*", module="lightning.*")
    # Deprecated calls within Lightning and jsonargparse cannot be fixed here.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(lightning|jsonargparse)(\.|$)")
    for message in _OLD_NEWS:
        warnings.filterwarnings("ignore", message)
