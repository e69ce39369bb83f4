"""Which type of number the model computes and keeps what in."""

import torch


def compute_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """What matrix products compute in: autocast's type, else the given one."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else dtype


def stream_dtype(
    wanted: torch.dtype | None, parameters: torch.dtype, products: torch.dtype, device: torch.device
) -> torch.dtype:
    """What the residual stream is kept in, by the types of the parameters and of the matrix products.

    wanted: bfloat16 or float32, heeded where autocast makes bfloat16 products of float32 parameters. None is then
    bfloat16 on CUDA, where additions wait for memory, and float32 on the CPU. In all other cases the stream is of the
    parameters' type: float16 may overflow, and float32 products are to be had in full.
    """
    if parameters != torch.float32 or products != torch.bfloat16:
        return parameters
    return wanted or (torch.bfloat16 if device.type == "cuda" else torch.float32)
