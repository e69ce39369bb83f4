"""Who computes softmax(q k^T / sqrt(Dh)) v in the model: each takes packed qkv (B, N, 3, H, Dh), gives (B, N, H*Dh).

`auto` on a GPU is what measured fastest there: attention.json holds, by name of the GPU, milliseconds of a forward and
backward, which `mae-fast bench attention --keep` fills in. A GPU without measurements gets SDPA.
"""

import json
import logging
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from mae_fast import ops, reference

MEASURED = Path(__file__).with_name("attention.json")
# What SDPA takes on its own differs between versions of PyTorch; here it is the first of these that can.
SDPA = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}


def sdpa(qkv: Tensor, first: SDPBackend = SDPBackend.FLASH_ATTENTION) -> Tensor:
    """PyTorch's scaled_dot_product_attention. On a GPU: by its backend `first`, or where that cannot, as SDPA lists."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)
    if not qkv.is_cuda:
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    with sdpa_kernel([first, *(backend for backend in SDPA.values() if backend != first)], set_priority=True):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def xformers(qkv: Tensor) -> Tensor:
    """xformers' memory-efficient attention, which takes (B, N, H, Dh) as it lies; CUDA only."""
    from xformers.ops import memory_efficient_attention

    return memory_efficient_attention(*qkv.unbind(2)).flatten(2)


def auto(qkv: Tensor) -> Tensor:
    """On a GPU the fastest at the nearest number of tokens measured there, else SDPA; on the CPU the fused op if built.

    Nearest: of the same type and width of a head, and no further off than a quarter.
    """
    if _CPU_KERNEL and not qkv.is_cuda:  # first: in a dynamic graph the width of a head may be a symbol
        return ops.attention(qkv)
    N = qkv.shape[1]
    chosen, off = CANDIDATES["sdpa"], N // 4
    for tokens, name in _choices(qkv.device, qkv.dtype, qkv.shape[4]):
        if abs(tokens - N) <= off:
            chosen, off = CANDIDATES[name], abs(tokens - N)
    return chosen(qkv)


@torch.compiler.assume_constant_result  # a compiled graph keeps the choice, and says it once, when it is compiled
def _choices(device: torch.device, dtype: torch.dtype, head: int) -> tuple[tuple[int, str], ...]:
    return _choices_of(torch.cuda.get_device_name(device), dtype, head) if device.type == "cuda" else ()


@cache
def _choices_of(gpu: str, dtype: torch.dtype, head: int) -> tuple[tuple[int, str], ...]:
    """-> (tokens, who was fastest of what is installed) for each measurement of a GPU, one type and width of a head."""
    rows = json.loads(MEASURED.read_text()).get(gpu, [])
    rows = [row for row in rows if (row["dtype"], row["head"]) == (str(dtype).removeprefix("torch."), head)]
    missing = set() if find_spec("xformers") else {"xformers"}
    usable = [(row["tokens"], {name: ms for name, ms in row["ms"].items() if name not in missing}) for row in rows]
    choices = tuple((tokens, min(ms, key=ms.get)) for tokens, ms in usable if ms)
    found = ", ".join(f"{tokens} tokens {name}" for tokens, name in choices)
    logging.getLogger(__name__).info(
        "attention on %s, %s, heads of %d: %s", gpu, dtype, head, found or f"sdpa ({', '.join(SDPA)}), nothing measured"
    )
    return choices


_CPU_KERNEL = ops.backends()["attention"]["cpu"] != "reference"
ATTENTION = {"auto": auto, "fused": ops.attention, "sdpa": sdpa, "xformers": xformers, "reference": reference.attention}
# By their names in benchmarks/attention.py, whose table auto reads.
CANDIDATES = {
    "fused": ops.attention,
    "sdpa": sdpa,
    "xformers": xformers,
    "flash": sdpa,
    "efficient": partial(sdpa, first=SDPBackend.EFFICIENT_ATTENTION),
    "cudnn": partial(sdpa, first=SDPBackend.CUDNN_ATTENTION),
}
