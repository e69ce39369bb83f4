"""The largest batch that fits in memory, for batch_size auto."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train import distributed
from mae_fast.train.step_memory import step_memory

HEADROOM = 0.1  # of a device's memory: what the model does not count (loader, workspaces of libraries, fragmentation)


def available_memory(device: torch.device) -> int:
    """Bytes that this process may still take. Those of the CPU are shared out among this machine's processes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not Path("/proc/meminfo").is_file():
        raise ValueError("batch_size: auto needs Linux on a CPU, to know how much memory is free; give a number")
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(int(size) * 1024 for name, size, *_ in fields if name == "MemAvailable:")
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))  # of a container
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", distributed.size()))


def choose_batch_size(
    model: MaskedAutoencoderViT, dtype: torch.dtype, mask_ratio: float, limit: int, moments: int = 2, masks: int = 1
) -> tuple[int, str]:
    """-> the largest batch a step of `model` fits on its device, at most `limit`, and a line that says why.

    By step_memory, with a tenth of the memory left free; on a GPU verified by trial, in eager mode. The same on all
    ranks. The copy of its pixels that a CUDA graph reads is counted, and in a trial part of that tenth.
    Weights and random state stay as they were. moments, masks: as for step_memory.
    Raises ValueError where not even one image fits.
    """
    device = next(model.parameters()).device
    need = step_memory(model, dtype, mask_ratio, moments, masks)
    free = int(available_memory(device) * (1 - HEADROOM))
    batch = min(limit, (free + need.weights - need.fixed) // need.per_image)  # the weights are there already
    trials = 0
    if device.type == "cuda":
        held = need.moments + int(available_memory(device) * HEADROOM)

        def fits(size: int) -> bool:
            nonlocal trials
            trials += 1
            return _fits(model, size, dtype, mask_ratio, held, masks)

        # One image first: for their handles and kernels libraries ask the device itself, and not when it is full.
        batch = search(fits, batch, limit) if fits(1) else 0
    batch = min(distributed.gather(batch))
    if batch < 1:
        raise ValueError(
            f"batch_size: not even one image fits: {need.fixed / 2**30:.2f} GiB of weights, gradients and moments "
            f"and {need.per_image / 2**20:.1f} MiB an image, {free / 2**30:.2f} GiB free on {device}"
        )
    if batch >= 16:
        batch -= batch % 8  # whole tiles of the matrix units
    why = f"{need.fixed / 2**30:.2f} GiB and {need.per_image / 2**20:.1f} MiB an image, of {free / 2**30:.1f} GiB"
    why += f", {trials} trials" if trials else ""
    return batch, f"batch size {batch}: " + (f"all that the data allow; {why}" if batch > limit - 8 else why)


def search(fits: Callable[[int], bool], guess: int, limit: int) -> int:
    """The largest size up to `limit` that fits, to within a sixteenth; 0 where none does. Doubles, then bisects."""
    largest, too_large = 0, limit + 1
    size = min(max(guess, 1), limit)
    while size > largest:
        if fits(size):
            largest = size
        else:
            too_large = size
        if too_large - largest <= max(1, largest // 16):
            break
        size = min(2 * largest, limit) if too_large > limit else (largest + too_large) // 2
    return largest


def _fits(model: nn.Module, batch: int, dtype: torch.dtype, mask_ratio: float, held: int, masks: int = 1) -> bool:
    """Whether two forward and backward passes go through, the second on top of gradients, with `held` bytes taken."""
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            _try(model, batch, dtype, mask_ratio, held, masks)
        return True
    except torch.OutOfMemoryError:
        return False
    except RuntimeError as error:  # of a library that finds no room for a kernel or a handle
        if "out of memory" in str(error) or "ALLOC_FAILED" in str(error):
            return False
        raise
    finally:
        model.zero_grad()
        torch.cuda.empty_cache()


def _try(model: MaskedAutoencoderViT, batch: int, dtype: torch.dtype, mask_ratio: float, held: int, masks: int) -> None:
    device = next(model.parameters()).device
    taken = torch.empty(held, dtype=torch.uint8, device=device)
    imgs = model.pixels.blank(batch, model.patch_embed.img_size, device)
    noise = torch.rand(masks * batch, model.patch_embed.num_patches, device=device)
    for _ in range(2):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model.training_loss(imgs, mask_ratio, noise)
        loss.backward()
    torch.cuda.synchronize(device)
    del taken
