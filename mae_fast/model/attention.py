"""Who computes softmax(q k^T / sqrt(Dh)) v in the model: each takes packed qkv (B, N, 3, H, Dh), gives (B, N, H*Dh)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae_fast import ops, reference
from mae_fast.model.linear import is_plain, qkv_attention

# What SDPA takes on its own differs between versions of PyTorch; here it is the first of these that can.
SDPA = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def sdpa(qkv: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if not qkv.is_cuda:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    with sdpa_kernel(SDPA, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def xformers(qkv: Tensor) -> Tensor:
    """xformers' memory-efficient attention, which takes (B, N, H, Dh) as it lies; CUDA only."""
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(*qkv.unbind(2)).flatten(2)


FUSED = {device for device, kernel in ops.backends()["attention"].items() if kernel != "reference"}


def auto(qkv: Tensor) -> Tensor:
    """The fused op where the dispatcher has a kernel for the device, else SDPA.

    On an H100 fused is 1.35 to 2.85 times as fast as the next at all six shapes of the shipped models.
    """
    return ops.attention(qkv) if qkv.device.type in FUSED else sdpa(qkv)


ATTENTION = {"auto": auto, "fused": ops.attention, "sdpa": sdpa, "xformers": xformers, "reference": reference.attention}


def attend(attention: Callable, x_BND: Tensor, qkv: nn.Module, num_heads: int) -> Tensor:
    """What an entry of ATTENTION makes of qkv(x): (B, N, D), heads side by side."""
    fused = attention is ops.attention or (attention is auto and x_BND.device.type in FUSED)
    if fused and is_plain(qkv, nn.Linear):
        return qkv_attention(x_BND, qkv, num_heads)
    return attention(qkv(x_BND).unflatten(-1, (3, num_heads, -1)))


def attention_named(name: str) -> Callable[[Tensor], Tensor]:
    """The attention of that name. ValueError for another name, ImportError where xformers' kernels cannot be loaded."""
    if name not in ATTENTION:
        raise ValueError(f"attention: expected one of {', '.join(ATTENTION)}; got {name!r}")
    if name == "xformers":
        check_xformers()
    return ATTENTION[name]


def check_xformers() -> None:
    """ImportError in a sentence, in place of xformers' own "No operator found" at the first call."""
    remedy = 'install the xformers that was built for your PyTorch, or use attention="auto"'
    try:
        import xformers
    except ImportError:
        raise ImportError(f"attention: xformers is not installed; {remedy}") from None
    error = getattr(getattr(xformers, "_cpp_lib", None), "_cpp_library_load_exception", None)
    if error is not None:
        built = getattr(getattr(error, "build_info", None), "torch_version", "another PyTorch")
        raise ImportError(
            f"attention: xformers {xformers.__version__} was built for PyTorch {built} and does not load beside "
            f"{torch.__version__}; {remedy}"
        )
