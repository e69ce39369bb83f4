"""What the settings that are left open become on this machine: the device, and the types of numbers."""

import logging

import torch

logger = logging.getLogger(__name__)


def available_device(name: str) -> str:
    """The device of that name. Plain "cuda", the official default, is the CPU where there is no GPU, with a warning.

    ValueError for a numbered device that is not there, and for a name that is no device's.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device: expected cuda, cuda:N or cpu, got {name!r}") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type != "cuda" or (device.index or 0) < count:
        return name
    if device.index is None:
        logger.warning("Warning: PyTorch finds no CUDA device; training on the CPU, which device cpu asks for by name")
        return "cpu"
    there = f"cuda:0 to cuda:{count - 1}" if count else "no CUDA device"
    raise ValueError(f"device: {name} is not there, PyTorch finds {there}; give one that is, or device cpu")


def products_in(dtype: str, stream: str, device_type: str) -> str:
    """The type that matrix products compute in, by name. auto: bf16 where the device multiplies it, else fp32.

    ValueError for a residual stream narrower than the products it is made of.
    """
    if dtype == "auto":
        dtype = "bf16" if device_type == "cuda" or cpu_multiplies_bf16() else "fp32"
    if stream == "bf16" != dtype:
        raise ValueError(f"stream: bf16 is for products in bf16, and these are in {dtype}; give dtype bf16 as well")
    return dtype


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU has instructions for products of bfloat16, AMX or AVX-512 BF16. Others only imitate them."""
    asked = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in asked)
