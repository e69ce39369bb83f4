"""The training step: a batch -> loss -> gradient -> clipping -> fused optimizer, and the host never waits in it.

What a step of a Masked Autoencoder is made of, and how each choice was made. "Counted": from bytes and FLOPs.
"H100": timed on one; "H100 study": a sketch of the step was.

    weights, gradients, moments   float32; autocast casts each weight, and its gradient back, once a batch. An optimizer
                                  that wrote bfloat16 copies itself would save 14 of the 44 bytes a parameter that
                                  casts, norm and AdamW move: under 2 % of a step (counted). There is none.
    matrix products               bfloat16 (`dtype`), summed in float32 by the hardware. Loss curve within 0.5 % of the
                                  float32 reference's over 200 steps (H100, Small: 0.46 %; plain autocast: 0.39 %).
    residual stream               bfloat16 on CUDA where the products are, else float32; model.stream says otherwise.
                                  H100 study: 1.06 to 1.09 times plain autocast's error on whole gradients, loss curve
                                  0.52 % against plain autocast's 0.39 %.
    norms, softmax, loss          statistics in float32, as parity demands.
    exact savings                 embed visible patches, predict masked ones, last decoder block for masked rows only,
                                  decoder never unshuffled: always on, in model.training_loss.
    compile                       on CUDA; on a CPU for runs of hours (mae_fast.train.compiling). One graph, forward and
                                  backward (fullgraph: a graph break is an error), by Inductor.
    CUDA graph                    on CUDA, on one process: forward, backward, clipping and AdamW in one launch in place
                                  of 1200, with which the host cannot keep up (H100: 49.7 ms at batch 128 without, for
                                  25 to 33 ms of kernels). Base at batch 256: 5395 images/s (H100 study), against 5207
                                  with Inductor's own graphs, which leave out the optimizer. This one is not timed.
    activation checkpointing      off; model.activation_checkpointing runs each block's forward pass twice and takes a
                                  sixth to a quarter of the memory an image (counted: mae_fast.train.step_memory).
"""

import contextlib
import math
import weakref
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from mae_fast.train import compiling, distributed, parallel
from mae_fast.train.cuda_capture import CudaCapture
from mae_fast.train.graph import CannotCaptureError, StepGraphs
from mae_fast.train.losses import as_loss
from mae_fast.train.optim import begin_momentum, capturable, check_update, own_optimizers, parameters_of, set_lr
from mae_fast.train.rehearsal import rehearsal


class TrainingStep:
    """A call takes a batch; every `accumulate` batches make one update of the weights.

        optimizer = make_optimizer(model, "adamw", lr=1.5e-4, weight_decay=0.05)
        step = TrainingStep(MAELoss(model), optimizer, dtype=torch.bfloat16)
        for imgs, labels in loader.epoch(0):
            loss = step(imgs, lr, labels)

    loss: a module on its device, in float32, whose forward(imgs, labels) gives the mean loss of a batch; a Masked
    Autoencoder stands for its MAELoss at mask_ratio. optimizer: a fused one, as of make_optimizer. dtype: of the matrix
    products; float16 scales the loss. clip_grad: largest norm of the gradient. In an initialised process group
    gradients are averaged over its ranks, exchanged in grad_dtype. A step whose loss or gradient is not finite does
    nothing, which is decided on the device. What has an optimizer of its own, as Adversarial has, is stepped by it.

    compile, cuda_graphs: True: must, else an error; False: no; None: where it pays, and where it turns out not to work
    a warning says why. compile pays on CUDA, and on a CPU if `images`, the images that this process will train on, make
    it a run of hours; a graph pays where the step is compiled, on CUDA, on one process. A loss that parallel.shard has
    shared out is not compiled. A graph reads weights, moments and `lr` where they were when it was captured: parameters
    stay; loading a state into the optimizer makes it capture again.
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
        compile: bool | None = None,
        cuda_graphs: bool | None = None,
        images: int | None = None,
        grad_dtype: torch.dtype = torch.float32,
    ):
        self.module = as_loss(loss, mask_ratio)
        self.others = own_optimizers(self.module)
        theirs = {p for other in self.others for p in parameters_of(other)}
        self.parameters = [p for p in self.module.parameters() if p.requires_grad and p not in theirs]
        self.device = self.parameters[0].device
        graphs_work = self.device.type == "cuda" and distributed.size() == 1 and not self.others
        if cuda_graphs and not graphs_work:
            got = f"{self.device} and {distributed.size()}" + ", and a second optimizer" * bool(self.others)
            raise ValueError(f"cuda_graphs: needs a CUDA device and one process; got {got}")
        if accumulate < 1:
            raise ValueError(f"accumulate: expected at least 1 batch, got {accumulate}")
        check_update(clip_grad, optimizer, *self.others)
        self.optimizer, self.dtype, self.clip_grad, self.accumulate = optimizer, dtype, clip_grad, accumulate
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=dtype == torch.float16)
        self.grad_dtype = grad_dtype
        self._must_compile, self._must_capture = bool(compile), bool(cuda_graphs)
        sharded = parallel.is_sharded(self.module)
        if sharded and compile:
            raise ValueError("compile: a loss shared out over processes is not compiled; use parallel ddp")
        pays = not sharded and (self.device.type == "cuda" or compiling.pays_on_cpu(self.module, images))
        self.compiled = compiling.decide(compile, pays, self.device)
        compiled = torch.compile(self.module, fullgraph=True, dynamic=False) if self.compiled else self.module
        self.loss = parallel.wrap(compiled, self.device, grad_dtype)
        self.graphs: StepGraphs | None = None
        if cuda_graphs or (cuda_graphs is None and self.compiled and graphs_work):
            self.graphs = StepGraphs(weakref.proxy(self), CudaCapture(self.device))
        self.taken = torch.zeros((), dtype=torch.int64, device=self.device)  # updates that changed the weights
        self._tried, self._batches = False, 0  # the compiled passes have run; batches since the last update
        self._sum = torch.zeros((), device=self.device)

    def __call__(self, imgs: Tensor, lr: float, labels: Tensor | None = None) -> Tensor | None:
        """-> the mean loss of the step, on the device, NaN where the update was skipped; None where more batches come
        before the update.

        imgs: uint8 (B, H, W, C), or float (B, C, H, W), normalised; labels: int64 (B,); on any device. lr: of the
        update.
        """
        self.prepare(imgs, labels)
        last = self._batches + 1 == self.accumulate
        self._batches = 0 if last else self._batches + 1
        if self.graphs is not None:
            try:
                return self.graphs.replay(imgs, labels, lr, last)
            except CannotCaptureError as error:
                self._go_on_without_graphs(error)
        return self.take(imgs, labels, lr, last)

    def prepare(self, imgs: Tensor, labels: Tensor | None = None) -> None:
        """Compile and capture for batches of this one's shape and type, if not done already: on CUDA 1 to 2 minutes.

        A call does it where nobody did. Nothing that training goes on from changes: weights, moments, random state.
        In a process group each rank calls it.
        """
        if self.compiled and not self._tried:
            self._tried = True
            passes = partial(self.backward, imgs, labels, last=False)
            with self.rehearsal():
                passes = passes if self.graphs is None else partial(self.graphs.run, passes)
                why = compiling.attempt(passes, self._must_compile)
            if why:  # what is not the compiler's fault the plain passes raise again
                self.compiled, self.loss = False, parallel.wrap(self.module, self.device, self.grad_dtype)
                self.graphs = self.graphs if self._must_capture else None
                compiling.warn("compile", f"the loss does not compile ({why}); training goes on uncompiled")
        if self.graphs is not None and not self.graphs.has(imgs, labels):
            try:
                self.graphs.capture(imgs, labels)
            except CannotCaptureError as error:
                self._go_on_without_graphs(error)

    def take(self, imgs: Tensor, labels: Tensor | None, lr: float | Tensor, last: bool) -> Tensor | None:
        """The work of a batch, and of the update where it is the last before one. -> the loss then, else None."""
        loss = self.backward(imgs, labels, last)
        if self.accumulate > 1:
            loss = self._sum.add_(loss)
            if last:
                loss = loss.clone()
                self._sum.zero_()
        return self.update(loss, lr) if last else None

    def backward(self, imgs: Tensor, labels: Tensor | None = None, last: bool = True) -> Tensor:
        """Add the batch's share to the gradient, which ranks exchange with the last batch. -> its share of the loss."""
        imgs, labels = (x if x is None else x.to(self.device, non_blocking=True) for x in (imgs, labels))
        with parallel.exchange(self.loss, now=last):
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                loss = self.loss(imgs, labels) / self.accumulate
            self.scaler.scale(loss).backward()
        return loss.detach()

    def update(self, loss: Tensor, lr: float | Tensor) -> Tensor:
        """Clip and step, or do nothing where loss or gradient is not finite. -> the loss, else NaN."""
        set_lr(self.optimizer, lr)
        begin_momentum(self.optimizer)
        optimizers = self.optimizer, *self.others
        for optimizer in optimizers:
            self.scaler.unscale_(optimizer)
        params = [p for p in self.parameters if p.grad is not None]
        norm = get_total_norm([p.grad for p in params])
        if self.clip_grad:
            clip_grads_with_norm_(params, self.clip_grad, norm)
        finite = (loss + parallel.whole(norm)).isfinite()
        for other in self.others:
            finite &= get_total_norm([p.grad for p in parameters_of(other)]).isfinite()
        if self.scaler.is_enabled():  # fp16: overflowing gradients are part of finding the scale; the scaler skips them
            for optimizer in optimizers:
                self.scaler.step(optimizer)
            self.scaler.update()
        else:
            found = distributed.any_(finite.logical_not().float())
            for optimizer in optimizers:
                optimizer.found_inf = found
                optimizer.step()
                del optimizer.found_inf  # this step's, and in a graph memory of its pool
            loss, finite = loss.masked_fill(found.bool(), math.nan), found == 0
        self.taken += finite
        # Graphs of several batches add to gradients that stay where they are.
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=self.graphs is None or self.accumulate == 1)
        return loss

    def rehearsal(self) -> contextlib.AbstractContextManager:
        """Around passes after which all is as before; see mae_fast.train.rehearsal."""
        return rehearsal(self.module, self.scaler, self.device)

    def rehearse(self, imgs: Tensor, labels: Tensor | None, lr: Tensor) -> list[nn.Parameter]:
        """In a rehearsal: all that a step runs, and no step. -> the parameters that got a gradient.

        A gradient of NaN makes the fused optimizer create its moments and skip the rest, counts of steps included.
        """
        for _ in range(2):  # the second adds to gradients, as a later batch does
            loss = self.backward(imgs, labels)
        learning = [p for p in self.parameters if p.grad is not None]
        for p in learning:
            p.grad.fill_(math.nan)
        with capturable(self.optimizer):
            self.update(loss, lr)
        return learning

    def _go_on_without_graphs(self, error: CannotCaptureError) -> None:
        if self._must_capture:
            raise error
        self.graphs = None
        compiling.warn("cuda_graphs", f"{error}; training goes on without a graph")
