"""What a training step needs of memory, counted from the model's dimensions.

Counted for `training_loss` with the fused ops or PyTorch's fused attention, which keep no targets, no attention
probabilities and no predictions of visible patches. In bytes, for N tokens of width D through H heads, c bytes a number
of the products' type and s of the residual stream's, a block keeps for its backward pass

    norm1      N (s D + 8)            the stream, mean and 1/std      norm2     N (s D + 8)
    qkv        N c D                  its input                       fc1       N c D
    attention  N (4 c D + 4 H)        q, k, v, result, logsumexp      GELU      N c hidden
    proj       nothing: attention's result is there                   fc2       N c hidden

and with activation checkpointing its input alone, N s D. Where bias_gelu has no kernel GELU keeps its input with the
bias added in float32, N 4 hidden. On CUDA pixels count twice: as the loader made them, and copied to where a CUDA graph
reads them.
"""

from dataclasses import dataclass

import torch

from mae_fast.model import MaskedAutoencoderViT, stages
from mae_fast.model.precision import stream_dtype
from mae_fast.model.stages import Stage
from mae_fast.ops import backends


@dataclass(frozen=True)
class StepMemory:
    """Bytes. Of the whole step: weights, gradients (with DDP they live in what it sends), the optimizer's moments, the
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
    model: MaskedAutoencoderViT, dtype: torch.dtype, mask_ratio: float = 0.75, moments: int = 2, masks: int = 1
) -> StepMemory:
    """What a step of `model` (on any device, meta too) needs with products in dtype. moments: AdamW 2, SGD 1;
    masks: of each image."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    step, c, device = stages.of_model(model, mask_ratio), dtype.itemsize, model.cls_token.device
    D, d, P = step.encoder.width, step.decoder.width, step.P
    s = stream_dtype(model.stream, model.cls_token.dtype, dtype, device).itemsize
    wide = 4 if backends()["bias_gelu"].get(device.type) == "reference" else c
    blocks = [_block(stage, c, s, wide) for stage in step.blocks for _ in range(stage.layers)]
    inputs = [stage.tokens * stage.width * s for stage in step.blocks for _ in range(stage.layers)]
    outside = (
        step.visible * P * c  # patches
        + (1 + step.visible) * (s * D + 8 + c * D)  # encoder norm, decoder_embed
        + step.masked * (s * d + 8 + c * d)  # decoder norm, decoder_pred
        + step.masked * P * c  # the loss keeps pred - target
        + step.L * 8  # the shuffled ids
    )
    # The peak is where the backward pass begins. Besides what was kept, the decoder's positions are there, and the
    # gradient of the predictions or of the last block's hidden layer; with checkpointing, a block's own activations.
    workspace = max(blocks) if model.activation_checkpointing else step.masked * c * max(P, step.last.hidden)
    return StepMemory(
        weights=4 * sum(p.numel() for p in model.parameters()),
        gradients=4 * trained,
        moments=4 * trained * moments,
        casts=c * trained if c < 4 else 0,
        pixels=step.L * P * (1 if model.pixels.as_bytes else 4) * (2 if device.type == "cuda" else 1),
        activations=masks * (outside + sum(inputs if model.activation_checkpointing else blocks)),
        workspace=masks * (workspace + (1 + step.L) * 4 * d),
    )


def _block(stage: Stage, c: int, s: int, wide: int) -> int:
    """Bytes an image that a block keeps. c, s, wide: bytes of a number of the products, the stream and GELU's input."""
    N, rows, D, hidden, H = stage.tokens, stage.rows, stage.width, stage.hidden, stage.heads
    attention = N * (s * D + 8 + 5 * c * D + 4 * H) + (rows * c * D if rows < N else 0)  # proj copies its rows
    return attention + rows * (s * D + 8 + c * D + (wide + c) * hidden)
