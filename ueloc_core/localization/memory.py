"""How the C library keeps memory: the tensors of one batch take the place of those of the last.

By default glibc returns large blocks to the system as soon as they are freed, and the next
tensor of that size faults every page in again. Locating and training spend a tenth to a fifth
of their time there.
"""

import ctypes
import sys
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # parameters of mallopt(3)
_LARGEST_BYTES = 64 << 20  # of a block that is kept; the tables of a city are larger
_KEPT_BYTES = 512 << 20
_PAD_BYTES = 64 << 20


@cache
def keep_freed_memory() -> bool:
    """Let this process keep 512 MiB that it freed; whether that was possible (glibc alone)."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library
        return False
    settings = {
        _MMAP_THRESHOLD: _LARGEST_BYTES,
        _TRIM_THRESHOLD: _KEPT_BYTES,
        _TOP_PAD: _PAD_BYTES,
    }
    return all(mallopt(name, value) == 1 for name, value in settings.items())
