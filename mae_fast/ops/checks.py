"""What the ops ask of their arguments; a ValueError names the bad one.

`checks.debug = True` also checks the ids on every call, which makes a GPU wait; without it an id out of range reads and
writes nothing out of bounds and gives NaN on a GPU.
"""

import torch
from torch import Tensor

debug = False


def describe(x: Tensor) -> str:
    return f"{x.dtype} of shape {tuple(x.shape)} on {x.device}"


def image_shape(imgs: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of float (B, C, H, W) or uint8 (B, H, W, C) images; anything else raises a ValueError."""
    if imgs.dim() != 4 or not (imgs.dtype == torch.uint8 or imgs.is_floating_point()):
        raise ValueError(f"imgs: expected float (B, C, H, W), normalised, or uint8 (B, H, W, C); got {describe(imgs)}")
    _, *rest = imgs.shape
    return (rest[2], rest[0], rest[1]) if imgs.dtype == torch.uint8 else tuple(rest)


def check_patches(imgs: Tensor, ids: Tensor, patch_size: int, mean, std) -> tuple[int, int]:
    """-> (L, P) of images and the ids of some of their patches."""
    C, height, width = image_shape(imgs)
    if patch_size < 1 or height % patch_size or width % patch_size:
        raise ValueError(
            f"patch_size: {height} x {width} pixels are not whole patches of {patch_size}; imgs {describe(imgs)}"
        )
    if imgs.dtype == torch.uint8 and (len(mean) != C or len(std) != C):
        raise ValueError(
            f"mean, std: expected {C} numbers each, one a channel; "
            f"got {len(mean)} and {len(std)}; imgs {describe(imgs)}"
        )
    L = (height // patch_size) * (width // patch_size)
    if ids.dim() != 2 or ids.dtype != torch.int64 or ids.shape[0] != imgs.shape[0] or ids.shape[1] > L:
        raise ValueError(
            f"ids: expected int64 ({imgs.shape[0]}, 0..{L}), distinct patches of each image; got {describe(ids)}"
        )
    check_device("ids", ids, imgs, "imgs")
    check_ids("ids", ids, L)
    return L, patch_size**2 * C


def check_masked(pred: Tensor, imgs: Tensor, ids: Tensor, patch_size: int, mean, std, norm_pix: bool) -> None:
    """What an error over masked patches asks: predictions of the patches `ids`, at least one, of at least one image."""
    L, P = check_patches(imgs, ids, patch_size, mean, std)
    B, K = ids.shape
    if B == 0:
        raise ValueError(f"imgs: expected at least one image, the mean over none is undefined; got {describe(imgs)}")
    if K == 0:
        raise ValueError(
            f"ids: expected at least one masked patch, the mean over none is undefined; got {describe(ids)}"
        )
    if (
        not pred.is_floating_point()
        or pred.dim() != 3
        or pred.shape[0] != B
        or (pred.shape[1] != K and pred.shape[1] != L)
        or pred.shape[2] != P
    ):
        raise ValueError(f"pred: expected float ({B}, {K} or {L}, {P}); got {describe(pred)}")
    if norm_pix and P == 1:
        raise ValueError(f"norm_pix: a patch of one number has no variance; imgs {describe(imgs)}")
    check_device("pred", pred, imgs, "imgs")


def check_device(name: str, x: Tensor, other: Tensor, other_name: str) -> None:
    if x.device != other.device:
        raise ValueError(f"{name}: expected the device of {other_name}, {other.device}; got {describe(x)}")


def check_ids(name: str, ids: Tensor, L: int) -> None:
    if debug and ids.numel():
        ordered = ids.sort(dim=1).values
        if ordered[:, 0].min() < 0 or ordered[:, -1].max() >= L or (ordered.diff(dim=1) == 0).any():
            raise ValueError(f"{name}: expected distinct numbers in 0..{L - 1} in each row; got {describe(ids)}: {ids}")
