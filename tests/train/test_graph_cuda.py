"""The whole step as a CUDA graph, on a GPU: it is the compiled step, with other masks at each replay."""

import copy
import gc

import pytest
import torch
from torch import nn

from mae_fast.train.cuda_capture import CudaCapture
from mae_fast.train.graph import CannotCaptureError
from mae_fast.train.optim import load_optimizer, make_optimizer
from mae_fast.train.step import TrainingStep
from tests.train.steps import LRS, batches, build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.fixture(autouse=True)
def anew():
    torch.compiler.reset()
    yield
    torch.cuda.synchronize()


def on_gpu(**options):
    step = build(device="cuda", **options)
    torch.cuda.manual_seed(1)
    return step


def trained(step, imgs, lrs=LRS * 2):
    """The losses of updates, on masks that depend on how many were drawn before."""
    losses = [loss for batch, lr in zip(imgs, lrs, strict=False) if (loss := step(batch.cuda(), lr)) is not None]
    return torch.stack(losses)


def weights(step):
    return torch.cat([p.detach().flatten() for p in step.parameters])


def close(a, b):
    """AdamW takes a step as long as any other for a gradient that is rounding alone, as that of a key's bias is."""
    return (weights(a) - weights(b)).norm() < 0.01 * weights(b).norm()


def test_by_default_the_step_is_compiled_and_one_graph():
    step = on_gpu(dtype=BF16)
    trained(step, batches(3))
    assert step.compiled and step.graphs.has(batches(1)[0], None) and step.taken == 3
    assert not on_gpu(compile=False).compiled and on_gpu(compile=False).graphs is None
    assert on_gpu(cuda_graphs=False).compiled and on_gpu(cuda_graphs=False).graphs is None


def test_two_replays_draw_different_masks():
    """The random state is handed to each replay; baked in, the same images would have the same masks for ever."""

    class Noise(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, imgs, labels):
            return torch.rand((), device=imgs.device) + 0 * self.weight

    loss = Noise().cuda()
    step = TrainingStep(loss, make_optimizer(loss, "adamw", 1e-3, 0.0), cuda_graphs=True)
    imgs = batches(1)[0].cuda()
    drawn = [step(imgs, 2.0**-10).item() for _ in range(20)]
    assert len(set(drawn)) == 20
    model = on_gpu(dtype=BF16)
    losses = torch.stack([model(imgs, 0.0) for _ in range(5)])  # lr 0: nothing but the mask changes
    assert len(losses.unique()) == 5


@pytest.mark.parametrize(
    "options",
    [{}, {"opt": "sgd"}, {"dtype": BF16, "clip_grad": 0.1}, {"dtype": FP16}, {"dtype": BF16, "checkpointing": True}],
)
def test_ten_captured_steps_are_ten_compiled_ones(options):
    """Other masks would change a loss by a hundredth and more."""
    plain = on_gpu(cuda_graphs=False, **options)
    wanted, random = trained(plain, batches(10)), torch.cuda.get_rng_state()
    graph = on_gpu(cuda_graphs=True, **options)
    torch.testing.assert_close(trained(graph, batches(10)), wanted, rtol=1e-3, atol=0)
    assert torch.equal(torch.cuda.get_rng_state(), random)  # as many numbers drawn
    assert graph.taken == plain.taken and graph.taken >= 8
    assert close(graph, plain)


@pytest.mark.parametrize("dtype", [FP32, FP16])
@pytest.mark.parametrize("sizes", [[6] * 8, [6, 4, 4, 6, 6, 6, 4, 4]])
def test_batches_that_accumulate(dtype, sizes):
    imgs = [batch[:size] for batch, size in zip(batches(8), sizes, strict=True)]
    plain = on_gpu(dtype=dtype, accumulate=2, cuda_graphs=False)
    wanted = trained(plain, imgs)
    graph = on_gpu(dtype=dtype, accumulate=2, cuda_graphs=True)
    torch.testing.assert_close(trained(graph, imgs), wanted, rtol=1e-3, atol=0)
    assert graph.taken == plain.taken and all(not p.grad.any() for p in graph.parameters)
    assert close(graph, plain)
    graph.optimizer.zero_grad()  # which takes the gradients away: the graphs know where theirs are
    torch.cuda.manual_seed(3)
    wanted = trained(plain, imgs[2:4])
    torch.cuda.manual_seed(3)
    torch.testing.assert_close(trained(graph, imgs[2:4]), wanted, rtol=1e-2, atol=0)


def test_capturing_changes_nothing():
    step = on_gpu(dtype=FP16, accumulate=2, cuda_graphs=True)
    before, random, scale = weights(step).clone(), torch.cuda.get_rng_state(), step.scaler.state_dict()
    step.prepare(batches(1)[0].cuda())
    assert torch.equal(weights(step), before) and torch.equal(torch.cuda.get_rng_state(), random)
    assert step.scaler.state_dict() == scale and step.taken == 0
    state = step.optimizer.state_dict()["state"]
    assert state and not any(x.any() for entry in state.values() for x in entry.values())


def test_a_step_that_is_not_finite_is_skipped():
    imgs = torch.randn(3, 6, 3, 32, 32)
    imgs[1, 0, 0, 0, 0] = float("nan")
    step = on_gpu(dtype=BF16, cuda_graphs=True)
    step(imgs[0].cuda(), 2.0**-10)
    before = weights(step).clone()
    assert step(imgs[1].cuda(), 2.0**-10).isnan() and torch.equal(weights(step), before) and step.taken == 1
    assert step(imgs[2].cuda(), 2.0**-10).isfinite() and not torch.equal(weights(step), before) and step.taken == 2


@pytest.mark.parametrize("dtype", [FP32, FP16])
def test_a_run_is_saved_and_goes_on(dtype):
    imgs = batches(8)
    whole = on_gpu(dtype=dtype, cuda_graphs=True)
    trained(whole, imgs[:4])
    states = whole.model.state_dict(), whole.optimizer.state_dict(), whole.scaler.state_dict()
    model, optimizer, scaler = copy.deepcopy(states)
    random = torch.cuda.get_rng_state()
    group = optimizer["param_groups"][0]
    assert group["lr"] == LRS[3] and isinstance(group["lr"], float) and group["capturable"] is False
    wanted = trained(whole, imgs[4:], LRS[4:])
    other = on_gpu(dtype=dtype, cuda_graphs=True)
    trained(other, imgs[4:6])  # its graphs point to moments that the loading replaces
    for step in (other, on_gpu(dtype=dtype, cuda_graphs=True)):
        step.model.load_state_dict(model)
        load_optimizer(step.optimizer, copy.deepcopy(optimizer))  # loading copies nothing that fits as it is
        if dtype == FP16:
            step.scaler.load_state_dict(scaler)
        torch.cuda.set_rng_state(random)
        torch.testing.assert_close(trained(step, imgs[4:], LRS[4:]), wanted, rtol=1e-3, atol=0)


def test_the_host_does_not_wait():
    step, imgs = on_gpu(dtype=BF16, clip_grad=1.0), batches(1)[0].pin_memory()
    step(imgs, 2.0**-10)
    torch.cuda.synchronize()
    try:
        torch.cuda.set_sync_debug_mode("error")
        losses = [step(imgs, lr) for lr in LRS]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()


class Asks(nn.Module):
    """A loss whose host waits for the device: it neither compiles to one graph nor can be captured."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 1)

    def forward(self, imgs, labels):
        loss = nn.functional.dropout(self.head(imgs.float().mean((1, 2)) / 255), 0.1).square().mean()
        return loss * (1 if loss.item() > 0 else 2)


def test_what_cannot_be_captured_leaves_the_device_as_it_was(caplog):
    def losses(**options):
        torch.manual_seed(0)
        loss = Asks().cuda()
        step = TrainingStep(loss, make_optimizer(loss, "adamw", 1e-3, 0.0), **options)
        if options.get("cuda_graphs"):
            step._must_capture = False  # as if nobody had asked: captured first, and then not
        torch.cuda.manual_seed(1)
        return torch.stack([step(imgs.cuda(), 2.0**-10) for imgs in batches(4)])

    def pools():
        gc.collect()
        torch.cuda.empty_cache()
        return {tuple(segment["segment_pool_id"]) for segment in torch.cuda.memory_snapshot()}

    before, stream = pools(), torch.cuda.current_stream()
    fallen = losses(compile=False, cuda_graphs=True)
    assert "cuda_graphs: the step cannot be captured (" in caplog.text
    assert torch.equal(fallen, losses(compile=False)) and torch.cuda.current_stream() == stream
    assert torch.equal(fallen, losses())  # compiled, it falls back to the same
    assert pools() <= before  # none is left behind, with the memory of a step
    loss = Asks().cuda()
    step = TrainingStep(loss, make_optimizer(loss, "adamw", 1e-3, 0.0), compile=False, cuda_graphs=True)
    with pytest.raises(CannotCaptureError, match="the step cannot be captured"):
        step(batches(1)[0].cuda(), 1e-3)
    after = on_gpu(dtype=BF16, cuda_graphs=True)  # and another step is captured as ever
    assert trained(after, batches(3)).isfinite().all()


def test_what_is_captured_is_on_the_device_of_the_step():
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    capture, x = CudaCapture(device), torch.zeros(4, device=device)
    replay = capture.capture(lambda: x.add_(1))
    assert not x.any()
    replay()
    replay()
    assert (x == 2).all()
