"""What a process keeps between training steps: freed memory, so that steps do not pay for fresh pages; compiled products, within bounds."""

from __future__ import annotations

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_MMAP_THRESHOLD = 32 << 20
"""glibc refuses more."""
_KEPT = 512 << 20


def keep_freed_memory() -> bool:
    """Ask glibc to serve blocks up to 32 MB from its heap and to return no free memory below 512 MB to the system.

    By default each temporary of a few MB is mapped, zeroed by the kernel page by page, and unmapped at every training step:
    most of a CPU step's time. The setting holds for this process; it changes no result. False where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)) and bool(
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
    )


def keep_few_products() -> None:
    """Have oneDNN keep few of the products that it compiles, one for each shape: batches whose shapes vary would otherwise add about a
    megabyte a step to the process, up to 1,024 shapes. Only before its first product, and not where the user has set a number."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
