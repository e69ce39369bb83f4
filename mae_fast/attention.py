"""Who computes softmax(q k^T / sqrt(Dh)) v in the model: each takes packed qkv (B, N, 3, H, Dh), gives (B, N, H*Dh)."""

import torch.nn.functional as F
from torch import Tensor

from mae_fast import ops, reference


def sdpa(qkv: Tensor) -> Tensor:
    """PyTorch's scaled_dot_product_attention, which chooses among its own backends."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def xformers(qkv: Tensor) -> Tensor:
    """xformers' memory-efficient attention, which takes (B, N, H, Dh) as it lies; CUDA only."""
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(*qkv.unbind(2)).flatten(2)


def auto(qkv: Tensor) -> Tensor:
    """The fused op where a kernel was built for the device, else SDPA."""
    return ops.attention(qkv) if qkv.device.type in _FUSED else sdpa(qkv)


_FUSED = {device for device, kernel in ops.backends()["attention"].items() if kernel != "reference"}
ATTENTION = {"auto": auto, "fused": ops.attention, "sdpa": sdpa, "xformers": xformers, "reference": reference.attention}
