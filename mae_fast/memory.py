"""What a training step needs of memory, counted from the model's dimensions, and the largest batch that fits.

Counted for `training_loss` with the fused ops or PyTorch's fused attention, which keep no targets, no attention
probabilities and no predictions of visible patches. In bytes, for N tokens of width D through H heads, c bytes a number
of the products' type and 4 of the residual stream's, a block keeps for its backward pass

    norm1      N (4 D + 8)            the stream, mean and 1/std      norm2     N (4 D + 8)
    qkv        N c D                  its input                       fc1       N c D
    attention  N (4 c D + 4 H)        q, k, v, result, logsumexp      GELU      N c hidden
    proj       nothing: attention's result is there                   fc2       N c hidden

and with activation checkpointing its input alone, N 4 D. Where bias_gelu has no kernel (eager, on a GPU) GELU keeps its
input with the bias added in float32, N 4 hidden.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from mae_fast import distributed
from mae_fast.model import Block, MaskedAutoencoderViT
from mae_fast.ops import backends

HEADROOM = 0.1  # of a device's memory: what the model does not count (loader, workspaces of libraries, fragmentation)


@dataclass(frozen=True)
class StepMemory:
    """Bytes. Of the whole step: weights, gradients (twice with DDP, which sends copies), the optimizer's moments, the
    weights cast to the products' type. Of each image: pixels, activations kept for the backward pass, and workspace,
    what is alive besides at the peak. Without accumulation gradients come as activations go, and the peak is lower."""

    weights: int
    gradients: int
    moments: int
    casts: int
    pixels: int
    activations: int
    workspace: int

    @property
    def fixed(self) -> int:
        return self.weights + self.gradients + self.moments + self.casts

    @property
    def per_image(self) -> int:
        return self.pixels + self.activations + self.workspace

    def peak(self, batch: int) -> int:
        return self.fixed + batch * self.per_image


def step_memory(
    model: MaskedAutoencoderViT, dtype: torch.dtype, mask_ratio: float = 0.75, moments: int = 2
) -> StepMemory:
    """What a step of `model` (on any device, meta too) needs with products in dtype. moments: AdamW 2, SGD 1."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    c, D, d = dtype.itemsize, model.decoder_embed.in_features, model.decoder_embed.out_features
    L, P = model.patch_embed.num_patches, model.decoder_pred.out_features
    visible = int(L * (1 - mask_ratio))
    masked = L - visible
    sizes = [(block, 1 + visible, 1 + visible) for block in model.blocks]
    sizes += [(block, 1 + L, 1 + L) for block in model.decoder_blocks[:-1]]
    sizes += [(block, 1 + L, masked) for block in model.decoder_blocks[-1:]]
    wide = 4 if backends()["bias_gelu"].get(model.cls_token.device.type) == "reference" else c
    blocks = [_block(*size, c, wide) for size in sizes]
    inputs = [N * block.attn.proj.in_features * 4 for block, N, _ in sizes]
    outside = (
        visible * P * c  # patches
        + (1 + visible) * (4 * D + 8 + c * D)  # encoder norm, decoder_embed
        + masked * (4 * d + 8 + c * d)  # decoder norm, decoder_pred
        + masked * P * c  # the loss keeps pred - target
        + L * 8  # the shuffled ids
    )
    # The peak is where the backward pass begins. Besides what was kept, the decoder's positions are there, and the
    # gradient of the predictions or of the last block's hidden layer; with checkpointing, a block's own activations.
    hidden = model.decoder_blocks[-1].mlp.fc1.out_features
    workspace = max(blocks) if model.activation_checkpointing else masked * c * max(P, hidden)
    return StepMemory(
        weights=4 * sum(p.numel() for p in model.parameters()),
        gradients=4 * trained * (2 if distributed.size() > 1 else 1),
        moments=4 * trained * moments,
        casts=c * trained if c < 4 else 0,
        pixels=L * P,
        activations=outside + sum(inputs if model.activation_checkpointing else blocks),
        workspace=workspace + (1 + L) * 4 * d,
    )


def _block(block: Block, N: int, rows: int, c: int, wide: int) -> int:
    """Bytes an image; `rows` of the N tokens go on after the attention. wide: bytes of a number that GELU keeps."""
    D, hidden, H = block.attn.proj.in_features, block.mlp.fc1.out_features, block.attn.num_heads
    attention = N * (4 * D + 8 + 5 * c * D + 4 * H) + (rows * c * D if rows < N else 0)  # proj copies its rows
    return attention + rows * (4 * D + 8 + c * D + (wide + c) * hidden)


def available_memory(device: torch.device) -> int:
    """Bytes that this process may still take. Those of the CPU are shared out among this machine's processes."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if not Path("/proc/meminfo").is_file():
        raise ValueError("batch_size auto: on a CPU it needs Linux, which tells how much memory is free; give a number")
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    free = next(int(size) * 1024 for name, size, *_ in fields if name == "MemAvailable:")
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))  # of a container
    if limit.is_file() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", distributed.size()))


def choose_batch_size(
    model: MaskedAutoencoderViT, dtype: torch.dtype, mask_ratio: float, limit: int, moments: int = 2
) -> tuple[int, str]:
    """-> the largest batch a step of `model` fits on its device, at most `limit`, and a line that says why.

    By step_memory, with a tenth of the memory left free; on a GPU verified by trial, in eager mode. The same on all
    ranks. Weights and random state stay as they were. moments: as for step_memory.
    Raises ValueError where not even one image fits.
    """
    device = next(model.parameters()).device
    need = step_memory(model, dtype, mask_ratio, moments)
    free = int(available_memory(device) * (1 - HEADROOM))
    batch = min(limit, (free + need.weights - need.fixed) // need.per_image)  # the weights are there already
    trials = 0
    if device.type == "cuda":
        held = need.moments + need.gradients // 2 * (distributed.size() > 1) + int(available_memory(device) * HEADROOM)

        def fits(size: int) -> bool:
            nonlocal trials
            trials += 1
            return _fits(model, size, dtype, mask_ratio, held)

        # One image first: for their handles and kernels libraries ask the device itself, and not when it is full.
        batch = search(fits, batch, limit) if fits(1) else 0
    batch = min(distributed.gather(batch))
    if batch < 1:
        raise ValueError(
            f"batch_size auto: not even one image fits: {need.fixed / 2**30:.2f} GiB of weights, gradients and moments "
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


def _fits(model: nn.Module, batch: int, dtype: torch.dtype, mask_ratio: float, held: int) -> bool:
    """Whether two forward and backward passes go through, the second on top of gradients, with `held` bytes taken."""
    device = next(model.parameters()).device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            _try(model, batch, dtype, mask_ratio, held)
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


def _try(model: MaskedAutoencoderViT, batch: int, dtype: torch.dtype, mask_ratio: float, held: int) -> None:
    device = next(model.parameters()).device
    taken = torch.empty(held, dtype=torch.uint8, device=device)
    imgs = torch.zeros(batch, *model.patch_embed.img_size, model.in_chans, dtype=torch.uint8, device=device)
    for _ in range(2):
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = model.training_loss(imgs, mask_ratio)
        loss.backward()
    torch.cuda.synchronize(device)
    del taken
