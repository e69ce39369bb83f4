"""A model of cost: the bytes each op must move, from its shape, and the time they take at a memory's speed.

The fused ops, attention apart, compute next to nothing, so this is their limit: read every input once, write every
output once.
"""

import torch

from mae_fast.parity.cases import Case

BANDWIDTH = 4.3e12  # bytes a second: what a copy reaches on an H200


def bytes_moved(op: str, B: int, *, L: int = 196, K: int = 49, P: int = 768, D: int = 512, H: int = 16,
                image: int = 1, compute: int = 2, out: int = 2, pos: int = 4, stream: int = 4) -> int:  # fmt: skip
    """Least bytes of one call of an op, named as in mae_fast.ops.

    B images of L patches and so N = 1+L tokens, K patches read here (gather_patches: kept; unshuffle: kept; masked_mse:
    masked), P numbers a patch, D wide, H heads. Bytes a number: image (uint8 1, float32 4), compute (tokens,
    predictions, gathered patches), out (the result of unshuffle and its gradient), pos (position embedding, mask
    token), stream (the residual stream). Attention computes besides: its limit is the larger of this and its products'.
    """
    ids, tokens = 8, B * (1 + L)
    return {
        "random_masking": B * L * (4 + 2 * ids + 4),
        "gather_patches": B * K * (P * image + P * compute + ids),
        "gather_patches_backward": B * K * (P * compute + ids) + B * L * P * image,
        "unshuffle": B * (1 + K) * D * compute + B * L * ids + (2 + L) * D * pos + B * (1 + L) * D * out,
        "unshuffle_backward": B * (1 + L) * D * out + B * L * ids + B * (1 + K) * D * compute + D * 4,
        "masked_mse": B * K * (P * image + 2 * P * compute + ids),
        "masked_mse_backward": B * K * 2 * P * compute,
        "attention": tokens * (4 * D * compute + H * 4),
        "attention_backward": tokens * (8 * D * compute + H * 4),
        "bias_gelu": tokens * 2 * D * compute + D * 4,
        "bias_gelu_backward": tokens * 3 * D * compute + 2 * D * 4,
        "add_layer_norm": tokens * (D * (2 * stream + 2 * compute) + 2 * 4) + 2 * D * 4,
        "add_layer_norm_backward": tokens * (D * (3 * stream + 2 * compute) + 2 * 4) + 3 * D * 4,
    }[op]


def seconds(op: str, B: int, bandwidth: float = BANDWIDTH, **shape: int) -> float:
    """Time of one call of an op if nothing but its least traffic took any."""
    return bytes_moved(op, B, **shape) / bandwidth


def of_case(case: Case, direction: str, dtype: torch.dtype) -> int:
    """Least bytes of one call of a case, "forward" or "backward", that computes in dtype."""
    s, op = case.shape, case.op
    shape = {"compute": dtype.itemsize, "out": 4, "pos": 4, "stream": 4}
    if "N" in s:
        shape["L"] = s["N"] - 1
    else:
        L = s["L"] if "L" in s else s["grid"][0] * s["grid"][1]
        kept = int(L * (1 - s["ratio"]))
        shape |= {"L": L, "K": L - kept if op == "masked_mse" else kept}
    if "p" in s:
        shape |= {"P": s["p"] ** 2 * s["C"], "image": 1 if s["layout"].startswith("uint8") else dtype.itemsize}
    if op == "attention":
        shape |= {"D": s["H"] * s["D"], "H": s["H"]}
    elif "D" in s:
        shape["D"] = s["D"]
    return bytes_moved(op if direction == "forward" else f"{op}_backward", s["B"], **shape)
