"""The training step: a batch -> loss -> gradient -> clipping -> fused optimizer, and the host never waits in it.

What a step of a Masked Autoencoder is made of, and how each choice was made. "Counted": from bytes and FLOPs.
"H100": timed on one.

    weights, gradients, moments   float32; autocast casts each weight, and its gradient back, once a batch. An optimizer
                                  that wrote bfloat16 copies itself would save 14 of the 44 bytes a parameter that
                                  casts, norm and AdamW move: under 2 % of a step (counted). There is none.
    matrix products               bfloat16 (`dtype`), summed in float32 by the hardware. Loss curve within 0.5 % of the
                                  float32 reference's over 200 steps (H100, Small: 0.46 %; plain autocast: 0.39 %).
    residual stream               float32: what enters it is a product's output, bfloat16; positions are float32.
                                  bfloat16 would save 15 to 18 % of the bytes that are not the products' (counted:
                                  benchmarks.counting.roofline --stream 2).
    norms, softmax, loss          statistics in float32, as parity demands.
    exact savings                 embed visible patches, predict masked ones, last decoder block for masked rows only,
                                  decoder never unshuffled: always on, in model.training_loss.
    compile                       one graph, forward and backward (fullgraph: a graph break is an error).
    CUDA graphs                   off; `cuda_graphs` removes the cost of 1200 launches, which the host cannot keep up
                                  with (H100: 49.7 ms at batch 128 without, for 25 to 33 ms of kernels).
    activation checkpointing      off; model.activation_checkpointing runs each block's forward pass twice and takes a
                                  sixth to a quarter of the memory an image (counted: mae_fast.train.step_memory).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mae_fast.train import distributed, parallel
from mae_fast.train.loss import as_loss
from mae_fast.train.optim import set_lr


class TrainingStep:
    """A call takes a batch; every `accumulate` batches make one update of the weights.

        optimizer = make_optimizer(model, "adamw", lr=1.5e-4, weight_decay=0.05)
        step = TrainingStep(MAELoss(model), optimizer, dtype=torch.bfloat16, compile=True)
        for imgs, labels in loader.epoch(0):
            loss = step(imgs, lr, labels)

    loss: a module on its device, in float32, whose forward(imgs, labels) gives the mean loss of a batch; a Masked
    Autoencoder stands for its MAELoss at mask_ratio. optimizer: a fused one, as of make_optimizer. dtype: of the matrix
    products; float16 scales the loss. clip_grad: largest norm of the gradient. cuda_graphs: replay the compiled step's
    kernels from CUDA graphs. In an initialised process group gradients are averaged over its ranks. A step whose loss
    or gradient is not finite does nothing, which is decided on the device.
    """

    def __init__(
        self,
        loss: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        dtype: torch.dtype = torch.float32,
        mask_ratio: float = 0.75,
        clip_grad: float | None = None,
        accumulate: int = 1,
        compile: bool = False,
        cuda_graphs: bool = False,
    ):
        loss = as_loss(loss, mask_ratio)
        self.parameters = [p for p in loss.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
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
                "optimizer: expected a fused one, as mae_fast.make_optimizer makes; others cannot skip a step without "
                "waiting for the device"
            )
        self.optimizer, self.dtype, self.clip_grad, self.accumulate = optimizer, dtype, clip_grad, accumulate
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        if compile:
            mode = "reduce-overhead" if cuda_graphs else "default"
            loss = torch.compile(loss, fullgraph=True, dynamic=False, mode=mode)
        self.loss = parallel.wrap(loss, self.device)
        self.keep_gradients = cuda_graphs
        self.before_replay = 2 if cuda_graphs else 0  # batches: torch.compile runs one as it is, and records the next
        self.taken = torch.zeros((), dtype=torch.int64, device=self.device)  # updates that changed the weights
        self._batches, self._sum = 0, None

    def __call__(self, imgs: Tensor, lr: float, labels: Tensor | None = None) -> Tensor | None:
        """-> the mean loss of the step, on the device, NaN where the update was skipped; None where more batches come
        before the update.

        imgs: uint8 (B, H, W, C), or float (B, C, H, W), normalised; labels: int64 (B,); on any device. lr: of the
        update.
        """
        if self._batches == 0:
            self._sum = torch.zeros((), device=self.device)
        self._batches += 1
        last = self._batches == self.accumulate
        self._sum += self.backward(imgs, labels, last)
        if not last:
            return None
        self._batches = 0
        return self.update(self._sum, lr)

    def backward(self, imgs: Tensor, labels: Tensor | None = None, last: bool = True) -> Tensor:
        """Add the batch's share to the gradient, which ranks exchange with the last batch. -> its share of the loss."""
        self.hold_gradients()
        imgs, labels = (x if x is None else x.to(self.device, non_blocking=True) for x in (imgs, labels))
        with parallel.exchange(self.loss, now=last):
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.loss(imgs, labels) / self.accumulate
            self.scaler.scale(loss).backward()
        return loss.detach()

    def update(self, loss: Tensor, lr: float) -> Tensor:
        """Clip and step, or do nothing where loss or gradient is not finite. -> the loss, else NaN."""
        set_lr(self.optimizer, lr)
        self.scaler.unscale_(self.optimizer)
        params = [p for p in self.parameters if p.grad is not None]
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
            for parameter in self.parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
