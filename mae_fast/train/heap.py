"""Makes the C library's heap keep the memory that a training step frees and allocates again."""

import ctypes
import sys

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make glibc keep freed memory for the next allocation instead of giving it back; True where that took effect.

    A step on the CPU frees and asks again for gigabytes of activations. By default each large block is a mapping of its
    own, made and cleared anew by the kernel, page by page. It concerns the whole process and does not raise its peak;
    afterwards the process stays as large as it was at most. Linux with glibc; elsewhere it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # musl has none
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))
