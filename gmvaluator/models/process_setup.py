"""Set-up of a process that runs models: memory allocation and thread waiting, before torch is imported.

By default glibc's malloc maps a large block (over 128 KiB at first, over 32 MiB always) for one layer and unmaps it
afterwards, so that a forward pass waits for the kernel to zero pages: 2,700 page faults an image were measured in
profile `lite`. With raised thresholds that memory stays in the heap, and there are none.
"""

from __future__ import annotations

import ctypes
import os
import platform

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3
_MIB = 1024 * 1024
_MMAP_THRESHOLDS_BYTES = (1024 * _MIB, 32 * _MIB)
_TRIM_THRESHOLD_BYTES = 2**31 - 1
_TOP_PAD_BYTES = 64 * _MIB


def raise_malloc_thresholds() -> bool:
    """Keep up to 2 GiB of freed memory in this process; call it at the start of a process that runs models.

    Return True if it took effect; False, without any change, where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    mallopt.argtypes = (ctypes.c_int, ctypes.c_int)
    mallopt.restype = ctypes.c_int
    # Older glibc refuses a map threshold over 32 MiB and keeps its own: set the highest that it accepts.
    raised = any(mallopt(_M_MMAP_THRESHOLD, size_bytes) for size_bytes in _MMAP_THRESHOLDS_BYTES)
    trimmed = mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD_BYTES)
    padded = mallopt(_M_TOP_PAD, _TOP_PAD_BYTES)
    return bool(raised and trimmed and padded)


def prepare_process() -> None:
    """Keep freed memory, and let idle model threads sleep; call it before anything imports torch.

    By default OpenMP's threads spin while they wait for each other. Where other programs use the same cores, a
    spinning thread keeps the one it waits for from running: with both of two cores shared, profile `lite` took six
    times the processor time. An OMP_WAIT_POLICY in the environment wins.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    raise_malloc_thresholds()


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
