"""The training step: uint8 images -> loss -> gradient -> clipping -> fused AdamW, and the host never waits in it.

What a step is made of, and how each choice was made. "Paper": counted, not timed. No GPU has timed any of it yet.

    weights, gradients, moments   float32; autocast casts each weight, and its gradient back, once a batch. An optimizer
                                  that wrote bfloat16 copies itself would save 14 of the 44 bytes a parameter that
                                  casts, norm and AdamW move: under 2 % of a step at batch 256 (paper). There is none.
    matrix products               bfloat16 (`dtype`), summed in float32 by the hardware. Loss curve within 0.5 % of the
                                  float32 reference's over 200 steps (measured on a CPU, mae-fast parity curve).
    residual stream               float32: what enters it is a product's output, bfloat16; positions are float32.
                                  bfloat16 would save 15 to 18 % of the bytes that are not the products' (paper:
                                  benchmarks.roofline --stream 2). Its loss curve is not measured.
    norms, softmax, loss          statistics in float32, as parity demands.
    exact savings                 embed visible patches, predict masked ones, last decoder block for masked rows only,
                                  decoder never unshuffled: always on, in model.training_loss. Timed on CPUs only.
    compile                       one graph, forward and backward (fullgraph: a graph break is an error).
    CUDA graphs                   off; `cuda_graphs` removes the cost of launches, which a large batch hides. Not timed.
    activation checkpointing      off; model.activation_checkpointing runs each block's forward pass twice and takes a
                                  sixth to a quarter of the memory an image (counted: mae_fast.memory).
    fp8                           mae_fast.fp8, off.
"""

import contextlib
import math

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mae_fast import distributed
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.optim import set_lr


class TrainingLoss(nn.Module):
    """model.training_loss as a forward, the one method that DDP and torch.compile wrap."""

    def __init__(self, model: MaskedAutoencoderViT):
        super().__init__()
        self.model = model

    def forward(self, imgs: Tensor, mask_ratio: float) -> Tensor:
        return self.model.training_loss(imgs, mask_ratio)


class TrainingStep:
    """A call takes a batch; every `accumulate` batches make one update of the weights.

        optimizer = make_optimizer(model, "adamw", lr=1.5e-4, weight_decay=0.05)
        step = TrainingStep(model, optimizer, dtype=torch.bfloat16, compile=True)
        for imgs in loader:
            loss = step(imgs, lr)

    model: on its device, in float32. optimizer: a fused one, as of mae_fast.optim. dtype: of the matrix products;
    float16 scales the loss. clip_grad: largest norm of the gradient. cuda_graphs: replay the compiled step's kernels
    from CUDA graphs. In an initialised process group gradients are averaged over its ranks. A step whose loss or
    gradient is not finite does nothing, which is decided on the device.
    """

    def __init__(
        self,
        model: MaskedAutoencoderViT,
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype = torch.float32,
        mask_ratio: float = 0.75,
        clip_grad: float | None = None,
        accumulate: int = 1,
        compile: bool = False,
        cuda_graphs: bool = False,
    ):
        self.device = next(model.parameters()).device
        if cuda_graphs and not (compile and self.device.type == "cuda"):
            raise ValueError(f"cuda_graphs: needs compile and a CUDA device; got compile={compile} and {self.device}")
        if accumulate < 1:
            raise ValueError(f"accumulate: expected at least 1 batch, got {accumulate}")
        if clip_grad is not None and not 0 <= clip_grad < math.inf:
            raise ValueError(
                f"clip_grad: expected the largest norm of the gradient, at least 0, or None; got {clip_grad}"
            )
        if not optimizer.defaults.get("fused"):
            raise ValueError(
                "optimizer: expected a fused one, as mae_fast.optim.make_optimizer makes; others cannot skip a step "
                "without waiting for the device"
            )
        self.model, self.optimizer, self.dtype, self.mask_ratio = model, optimizer, dtype, mask_ratio
        self.clip_grad, self.accumulate = clip_grad, accumulate
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.loss = TrainingLoss(model)
        if compile:
            mode = "reduce-overhead" if cuda_graphs else "default"
            self.loss = torch.compile(self.loss, fullgraph=True, dynamic=False, mode=mode)
        if distributed.size() > 1:
            device_ids = [self.device.index] if self.device.type == "cuda" else None
            self.loss = DistributedDataParallel(self.loss, device_ids=device_ids)
        self.keep_gradients = cuda_graphs
        self.before_replay = 2 if cuda_graphs else 0  # batches: torch.compile runs one as it is, and records the next
        self.taken = torch.zeros((), dtype=torch.int64, device=self.device)  # updates that changed the weights
        self._batches, self._sum = 0, None

    def __call__(self, imgs: Tensor, lr: float) -> Tensor | None:
        """-> the mean loss of the step, on the device, NaN where nothing was done; None where it wants more batches.

        imgs: uint8 (B, H, W, C), or float (B, C, H, W), normalised; on any device. lr: of the update.
        """
        if self._batches == 0:
            self._sum = torch.zeros((), device=self.device)
        self._batches += 1
        last = self._batches == self.accumulate
        self._sum += self.backward(imgs, last)
        if not last:
            return None
        self._batches = 0
        return self.update(self._sum, lr)

    def backward(self, imgs: Tensor, last: bool = True) -> Tensor:
        """Add the batch's share to the gradient, which ranks exchange with the last batch. -> its share of the loss."""
        self.hold_gradients()
        with self._local_gradients(unless=last):
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.loss(imgs.to(self.device, non_blocking=True), self.mask_ratio) / self.accumulate
            self.scaler.scale(loss).backward()
        return loss.detach()

    def update(self, loss: Tensor, lr: float) -> Tensor:
        """Clip and step, or do nothing where loss or gradient is not finite. -> the loss, else NaN."""
        set_lr(self.optimizer, lr)
        self.scaler.unscale_(self.optimizer)
        params = [p for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in params])
        if self.clip_grad:
            clip_grads_with_norm_(params, self.clip_grad, norm)
        finite = (loss + norm).isfinite()
        if self.scaler.is_enabled():  # fp16: overflowing gradients are part of finding the scale; the scaler skips them
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            found = distributed.any_(finite.logical_not().float())
            self.optimizer.found_inf = found
            self.optimizer.step()
            loss, finite = loss.masked_fill(found.bool(), math.nan), found == 0
        self.taken += finite
        self.optimizer.zero_grad(set_to_none=not self.keep_gradients)
        return loss

    def hold_gradients(self) -> None:
        """With CUDA graphs: zeros where there is no gradient.

        A graph writes its gradients to the same memory each time: they must be added to tensors outside it and never
        become .grad themselves, or a second batch overwrites the first (pytorch issue 169545).
        """
        if self.keep_gradients:
            for parameter in self.model.parameters():
                if parameter.requires_grad and parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)

    def _local_gradients(self, unless: bool):
        """Inside, DDP keeps gradients to itself: between two updates nothing needs to be exchanged."""
        if unless or not isinstance(self.loss, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.loss.no_sync()
