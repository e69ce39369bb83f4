"""Pictures as npy arrays (C, H, W) or (H, W). The files may come from strangers: no pickle, and the header first."""

import os
from typing import BinaryIO

import numpy as np

MAGIC = b"\x93NUMPY"
EXTENSION = ".npy"
LONGEST_HEADER = 4096  # bytes; that of an array of numbers takes 128


def layout(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype, bool]:
    """-> (C, H, W), type, whether in Fortran's order; the file stands at its first value then.

    ValueError, a reason alone, where the header is no picture's, or claims other bytes than there are.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}[version[0]]
        shape, fortran, dtype = read(file, max_header_size=LONGEST_HEADER)
    except Exception:  # a damaged header raises anything: ValueError, KeyError, SyntaxError, ...
        raise ValueError("damaged: no npy header of an array of numbers") from None
    if dtype.hasobject or dtype.names or dtype.subdtype:
        raise ValueError(f"damaged: an npy array of {dtype}, not of numbers")
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"damaged: an npy array of shape {shape}, expected (channels, height, width)")
    start, size = file.tell(), file.seek(0, os.SEEK_END)
    wanted = dtype.itemsize * np.prod([float(length) for length in shape])  # floats do not overflow
    if size - start != wanted:
        kind = "truncated" if size - start < wanted else "damaged"
        raise ValueError(f"{kind}: {size - start} bytes of values, its header says {wanted:.0f}")
    file.seek(start)
    return (1, *shape) if len(shape) == 2 else shape, dtype, fortran


def read(file: BinaryIO) -> np.ndarray:
    """The array (C, H, W) in a file."""
    shape, dtype, fortran = layout(file)
    values = np.frombuffer(file.read(), dtype)
    return values.reshape(shape, order="F" if fortran else "C")
