"""The whole step as a CUDA graph: captured once for each shape of batch, then replayed by one launch.

What outlives a replay is outside the memory of the graphs: weights, moments and counts of steps, the scale of the loss,
the batch, the learning rate, the result and, where batches accumulate, the gradients. What is inside lives no longer
than a replay, so the graphs of several shapes share one pool in any order (the rule that graphs of one pool replay in
the order of their capture is for results that stay in it).
"""

import contextlib
import weakref
from collections.abc import Callable
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from mae_fast.train.compiling import in_a_line
from mae_fast.train.optim import capturable, fixed_settings, set_lr

MOST = 4  # shapes of batches; more are no few exceptions, and each has its activations' worth of kernels to capture


class CannotCaptureError(RuntimeError):
    """Why a step is not run from a graph. The step itself can still be taken."""


class Work(Protocol):
    """What is captured: a TrainingStep."""

    parameters: list[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    accumulate: int
    device: torch.device

    def rehearsal(self) -> contextlib.AbstractContextManager: ...
    def rehearse(self, imgs: Tensor, labels: Tensor | None, lr: Tensor) -> list[torch.nn.Parameter]: ...
    def take(self, imgs: Tensor, labels: Tensor | None, lr: Tensor, last: bool) -> Tensor | None: ...


class Capture(Protocol):
    """What needs a GPU: CudaCapture. A stand-in may remember the function and call it as its own replay."""

    def run(self, function: Callable[[], object]) -> None:
        """Call it where captures are made, so that its memory is theirs to use."""

    def capture(self, function: Callable[[], object]) -> Callable[[], None]:
        """-> what does again, on the device alone, all that the function does there. Nothing is done yet."""


class StepGraphs:
    """Graphs of the work of a batch, by the batch's shape: one for batches before an update, one for the last with it.

    step: whose work; capture: on its device. What the optimizer's groups say besides lr, and clip_grad, is fixed with
    the first capture; parameters stay where they are.
    """

    def __init__(self, step: Work, capture: Capture):
        self.step, self._capture = step, capture
        # float32, of no dimension: what the fused kernels read where lr is a tensor on the device of the weights.
        self.lr = torch.zeros((), device=step.device)
        self.loss = torch.zeros((), device=step.device)
        self._lr_now: float | None = None
        self._settings: list[dict] | None = None
        self._shapes: dict[tuple, _Shape] = {}
        me = weakref.ref(self)  # loading puts other moments in the place of those that graphs point to
        step.optimizer.register_load_state_dict_post_hook(lambda _: (graphs := me()) and graphs.drop())

    def run(self, function: Callable[[], object]) -> None:
        self._capture.run(function)

    def has(self, imgs: Tensor, labels: Tensor | None) -> bool:
        """Whether batches of this shape and type are captured."""
        return _key(imgs, labels) in self._shapes

    def drop(self) -> None:
        """Forget all graphs; the next batch of each shape is captured again."""
        self._shapes.clear()

    def capture(self, imgs: Tensor, labels: Tensor | None) -> None:
        """Capture the work of batches of this shape. Nothing that training goes on from changes.

        Raises CannotCaptureError, and what the step itself raises.
        """
        step = self.step
        self._check()
        shape, learning = _Shape(imgs, labels, step.device), []

        def warm_up() -> None:
            learning.extend(step.rehearse(shape.imgs, shape.labels, self.lr))

        # Gradients that outlast a batch are added up outside the pool; others come and go inside it.
        held = {p: p.grad for p in step.parameters if p.grad is not None} if step.accumulate > 1 else {}
        with step.rehearsal():
            self._capture.run(warm_up)
            if step.accumulate > 1:
                held |= {p: torch.zeros_like(p) for p in learning if p not in held}
            for p in step.parameters:
                p.grad = held.get(p)
            try:
                for last in (True,) if step.accumulate == 1 else (False, True):
                    shape.replay[last] = self._capture.capture(partial(self._work, shape, last))
            except RuntimeError as error:  # of CUDA, or of PyTorch about what a capture may hold
                # Of two errors the first: torch.cuda.graph fails once more as it ends.
                why = in_a_line(error.__context__ or error)
                raise CannotCaptureError(f"the step cannot be captured ({why})") from error
        for p, gradient in held.items():
            p.grad = gradient
        shape.held = list(held.values())  # the graphs write to them, whatever becomes of p.grad
        self._shapes[_key(imgs, labels)] = shape

    def _work(self, shape: "_Shape", last: bool) -> None:
        with capturable(self.step.optimizer):
            loss = self.step.take(shape.imgs, shape.labels, self.lr, last)
        if loss is not None:
            self.loss.copy_(loss)

    def replay(self, imgs: Tensor, labels: Tensor | None, lr: float, last: bool) -> Tensor | None:
        """The work of a batch whose shape was captured. -> its loss, with the last before an update; else None.

        Copies in, one launch, the loss copied out: the host neither waits, nor allocates but for that number.
        Raises CannotCaptureError where the optimizer's settings have changed.
        """
        if fixed_settings(self.step.optimizer) != self._settings:
            raise CannotCaptureError("the optimizer's settings have changed, and a graph keeps those of its capture")
        shape = self._shapes[_key(imgs, labels)]
        shape.fill(imgs, labels)
        if last:
            set_lr(self.step.optimizer, lr)  # for who reads it: files, logs
            if lr != self._lr_now:
                self.lr.fill_(lr)  # a launch that has the number in it: nothing for a later call to overwrite too soon
                self._lr_now = lr
        shape.replay[last]()
        return self.loss.clone() if last else None

    def _check(self) -> None:
        """CannotCaptureError where there is no use in trying."""
        optimizer = self.step.optimizer
        begins_anew = any(group.get("momentum") and group.get("dampening") for group in optimizer.param_groups)
        # SGD's first step has an equation of its own, if dampening is not 0: captured, it would be every step's.
        if not isinstance(optimizer, torch.optim.Adam | torch.optim.SGD) or begins_anew:
            raise CannotCaptureError("optimizer: expected Adam, AdamW, or SGD without dampening")
        if len(self._shapes) == MOST:
            raise CannotCaptureError(f"batches of more than {MOST} shapes")
        settings = fixed_settings(optimizer)
        if self._shapes and settings != self._settings:
            raise CannotCaptureError("the optimizer's settings have changed, and a graph keeps those of its capture")
        self._settings = settings


class _Shape:
    """The batch that graphs read, and the graphs, by whether an update follows."""

    def __init__(self, imgs: Tensor, labels: Tensor | None, device: torch.device):
        self.imgs = torch.empty(imgs.shape, dtype=imgs.dtype, device=device)
        self.labels = None if labels is None else torch.empty(labels.shape, dtype=labels.dtype, device=device)
        self.replay: dict[bool, Callable[[], None]] = {}
        self.held: list[Tensor] = []
        self.fill(imgs, labels)

    def fill(self, imgs: Tensor, labels: Tensor | None) -> None:
        self.imgs.copy_(imgs, non_blocking=True)
        if self.labels is not None:
            self.labels.copy_(labels, non_blocking=True)


def _key(imgs: Tensor, labels: Tensor | None) -> tuple:
    return imgs.shape, imgs.dtype, None if labels is None else (labels.shape, labels.dtype)
