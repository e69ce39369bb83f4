"""A model of cost: the bytes each op must move, from its shape, and the time they take at a memory's speed.

The fused ops compute next to nothing, so this is their limit: read every input once, write every output once.
"""

BANDWIDTH = 4.3e12  # bytes a second: what a copy reaches on an H200


def bytes_moved(op: str, B: int, *, L: int = 196, K: int = 49, P: int = 768, D: int = 512,
                image: int = 1, compute: int = 2, out: int = 2, pos: int = 4) -> int:  # fmt: skip
    """Least bytes of one call of an op, named as in mae_fast.ops ("attention" is not of this kind).

    B images of L patches, K of them read here (gather_patches: kept; unshuffle: kept; masked_mse: masked), P numbers a
    patch, D wide. Bytes a number: image (uint8 1, float32 4), compute (tokens, predictions, gathered patches), out (the
    result of unshuffle and its gradient), pos (position embedding, mask token).
    """
    ids = 8
    return {
        "random_masking": B * L * (4 + 2 * ids + 4),
        "gather_patches": B * K * (P * image + P * compute + ids),
        "gather_patches_backward": B * K * (P * compute + ids) + B * L * P * image,
        "unshuffle": B * (1 + K) * D * compute + B * L * ids + (2 + L) * D * pos + B * (1 + L) * D * out,
        "unshuffle_backward": B * (1 + L) * D * out + B * L * ids + B * (1 + K) * D * compute + D * 4,
        "masked_mse": B * K * (P * image + 2 * P * compute + ids),
        "masked_mse_backward": B * K * 2 * P * compute,
    }[op]


def seconds(op: str, B: int, bandwidth: float = BANDWIDTH, **shape: int) -> float:
    """Time of one call of an op if nothing but its least traffic took any."""
    return bytes_moved(op, B, **shape) / bandwidth
