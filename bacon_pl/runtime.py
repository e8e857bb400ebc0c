"""Settings of the process that are not about the method: how memory is reused."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_memory() -> None:
    """Let the C library keep freed tensors for the next iteration instead of handing their pages back.

    glibc maps every block above 32 MiB afresh, and the kernel zeroes its pages on first touch: at the sizes of
    activations that is up to half of a training step on a CPU. Does nothing where the C library is not glibc.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
