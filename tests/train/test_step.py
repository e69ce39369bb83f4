"""The training step: one graph, no waiting for the device, the numbers of the plain loop whatever is switched on."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import mae_fast
from mae_fast.train.optim import make_optimizer
from mae_fast.train.step import TrainingStep
from tests.train.steps import SIZES, Classify, Waits, batches, build


def plain_weights(updates, accumulate=1, clip=None, checkpointing=False):
    """Of as many updates, by a loop without TrainingStep."""
    torch.manual_seed(0)
    model = mae_fast.MaskedAutoencoderViT(**SIZES)
    model.activation_checkpointing = checkpointing
    optimizer = torch.optim.AdamW(make_optimizer(model, "adamw", 1e-3, 0.05).param_groups, betas=(0.9, 0.95))
    torch.manual_seed(1)
    for group in batches(updates * accumulate).split(accumulate):
        for imgs in group:
            (model.training_loss(imgs) / accumulate).backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


@pytest.mark.parametrize(
    "updates, options",
    [(3, {"clip_grad": 0.1}), (2, {"accumulate": 2, "clip_grad": 0.1}), (3, {"checkpointing": True})],
)
def test_it_is_the_plain_loop(updates, options):
    accumulate = options.get("accumulate", 1)
    step = build(**options)
    losses = [step(imgs, 1e-3) for imgs in batches(updates * accumulate)]
    assert [loss is None for loss in losses] == ([True] * (accumulate - 1) + [False]) * updates
    plain = plain_weights(updates, accumulate, options.get("clip_grad"), options.get("checkpointing", False))
    for name, wanted in plain.items():
        assert torch.allclose(step.model.state_dict()[name], wanted, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("checkpointing", [False, True])
def test_one_graph_and_no_break(monkeypatch, checkpointing):
    """fullgraph makes a break an error; the CPU's code generator, a minute of it, is left out."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    step = build(checkpointing, dtype=torch.bfloat16, compile=True)
    losses = [step(imgs, 1e-3) for imgs in batches(3)]
    eager = build(dtype=torch.bfloat16)
    assert torch.equal(torch.stack(losses), torch.stack([eager(imgs, 1e-3) for imgs in batches(3)]))
    assert counter.frame_count == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_host_never_waits(dtype):
    step = build(dtype=dtype, accumulate=2, clip_grad=1.0)
    with Waits() as waits:
        for imgs in batches(4):
            loss = step(imgs, 1e-3)
    assert waits.found == []
    with waits:
        loss.item()
    assert waits.found == ["aten._local_scalar_dense.default"]  # so it does see one


def test_cuda_graphs_say_what_they_need():
    with pytest.raises(ValueError, match="cuda_graphs: needs a CUDA device and one process; got cpu and 1"):
        build(cuda_graphs=True, compile=True)


def test_the_optimizer_must_be_fused():
    model = mae_fast.MaskedAutoencoderViT(**SIZES)
    with pytest.raises(ValueError, match="optimizer: expected a fused one"):
        TrainingStep(model, torch.optim.AdamW(model.parameters()))


class Shapes(TorchDispatchMode):
    """The shapes and types of all results."""

    def __init__(self):
        super().__init__()
        self.seen = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, torch.Tensor) and x.is_floating_point():
                self.seen.add(tuple(x.shape))
        return result


def test_nothing_is_made_that_need_not_be():
    """No target or prediction of a visible patch, no attention probabilities; the naive model makes all of them."""
    B, L, P, visible = 6, 16, 192, 4
    imgs = batches(1)[0]
    probabilities = {(B, 3, 1 + visible, 1 + visible), (B, 2, 1 + L, 1 + L)}
    step = build()
    with Shapes() as shapes:
        step(imgs, 1e-3)
    if mae_fast.backends()["attention"]["cpu"] != "cpp":
        pytest.skip("the C++ kernels are not built")
    assert (B, L - visible, P) in shapes.seen  # the predictions of masked patches, which masked_mse leaves as residual
    assert not shapes.seen & {(B, L, P), (B, 1 + L, P), *probabilities}
    naive = mae_fast.reference.MaskedAutoencoderViT(**SIZES)
    with Shapes() as shapes:
        naive(imgs)[0].backward()
    assert {(B, L, P), (B, 1 + L, P), *probabilities} <= shapes.seen


@pytest.mark.parametrize("wrong", [{"accumulate": 0}, {"clip_grad": -1.0}, {"clip_grad": float("nan")}])
def test_numbers_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected .*at least"):
        build(**wrong)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"lr": float("nan")}, {"weight_decay": float("nan")}])
def test_an_optimizer_of_such_numbers_is_refused_too(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: expected a finite number"):
        make_optimizer(torch.nn.Linear(2, 2), "adamw", **{"lr": 1e-3, "weight_decay": 0.05} | wrong)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_any_loss_module_is_trained_with_labels(accumulate):
    torch.manual_seed(0)
    loss = Classify()
    step = TrainingStep(loss, make_optimizer(loss, "adamw", 0.1, 0.0), accumulate=accumulate)
    labels = torch.tensor([0, 1] * 4)
    imgs = (labels * 200)[:, None, None, None].expand(-1, 4, 4, 3).to(torch.uint8)
    losses = [step(imgs, 0.1, labels) for _ in range(20 * accumulate)]
    losses = [loss.item() for loss in losses if loss is not None]
    assert len(losses) == 20 and losses[-1] < losses[0] / 2


def test_a_model_stands_for_its_loss():
    def trained(wrap):
        torch.manual_seed(0)
        model = mae_fast.MaskedAutoencoderViT(**SIZES)
        step = TrainingStep(wrap(model), make_optimizer(model, "adamw", 1e-3, 0.05), mask_ratio=0.5)
        torch.manual_seed(1)
        return [step(imgs, 1e-3).item() for imgs in batches(2)]

    assert trained(lambda model: model) == trained(lambda model: mae_fast.MAELoss(model, 0.5))
