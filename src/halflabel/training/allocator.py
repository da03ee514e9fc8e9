"""Keep freed memory in the process, where that makes the CPU path faster."""

import ctypes
import os
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # constants of glibc's malloc.h


def keep_freed_memory() -> bool:
    """Ask glibc not to return freed tensors to the kernel, which would fault every page in again at the next step.

    The command line calls this for its own process; importing the package does not. Set `HALFLABEL_KEEP_MEMORY=0`
    to switch it off.

    Returns:
        Whether it was set; False off Linux, without glibc, and where it is switched off.
    """
    if os.environ.get("HALFLABEL_KEEP_MEMORY") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    size = ctypes.c_int(1 << 30)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, size)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, size))
