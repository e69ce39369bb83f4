"""The whole step from a graph: all but the capturing, with a stand-in that remembers a function and calls it."""

import pytest
import torch
from torch import nn

from mae_fast.train.optim import load_optimizer, make_optimizer
from mae_fast.train.step import TrainingStep
from tests.train.runs import same
from tests.train.steps import Remember, Waits, batches, build, graphed, taken


def scale_groups(step):
    for group, scale in zip(step.optimizer.param_groups, (0.5, 2.0), strict=True):
        group["lr_scale"] = scale
    return step


OPTIONS = [
    {},
    {"clip_grad": 0.1},
    {"accumulate": 2, "clip_grad": 0.1},
    {"accumulate": 3, "opt": "sgd"},
    {"dtype": torch.bfloat16, "checkpointing": True},
    {"dtype": torch.float16},
    {"dtype": torch.float16, "accumulate": 2},
    {"opt": "sgd"},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_replays_are_the_step_bit_for_bit(options):
    """Losses, weights, the optimizer's state as a file has it, the scaler's, and the random state."""
    plain, graphs = (taken(make(scale_groups(build(**options))), batches(6)) for make in (lambda step: step, graphed))
    assert same(plain, graphs)
    for group in graphs[2]["param_groups"]:
        assert isinstance(group["lr"], float) and not group.get("capturable")


def test_one_graph_for_all_batches_or_two_where_they_accumulate():
    for accumulate, wanted in ((1, 1), (2, 2)):
        step = graphed(build(accumulate=accumulate))
        capture = step.graphs._capture
        taken(step, batches(6))
        assert capture.captured == wanted and len(step.graphs._shapes) == 1


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_capturing_changes_nothing(accumulate, dtype):
    step = graphed(build(accumulate=accumulate, dtype=dtype))
    before = same_later(step)
    step.prepare(batches(1)[0])
    assert same(before, same_later(step)) and step.taken == 0
    moments = step.optimizer.state_dict()["state"]
    assert moments and not any(x.any() for entry in moments.values() for x in entry.values())
    assert all((p.grad is None) if accumulate == 1 else not p.grad.any() for p in step.parameters)


def same_later(step):
    weights = {name: x.clone() for name, x in step.model.state_dict().items()}
    return weights, step.scaler.state_dict(), torch.get_rng_state()


class Normalised(nn.Module):
    """A loss with running means, a parameter that is not trained, and one that gets no gradient."""

    def __init__(self):
        super().__init__()
        self.norm, self.head, self.unused = nn.BatchNorm1d(3), nn.Linear(3, 2), nn.Linear(2, 2)
        self.seen = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, imgs, labels):
        with torch.no_grad():
            self.seen += len(imgs)
        x = nn.functional.dropout(self.norm(imgs.float().mean((1, 2)) / 255), 0.1)
        return nn.functional.cross_entropy(self.head(x), labels)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_module_of_ones_own_finds_its_buffers_as_they_were(accumulate):
    def trained(make):
        torch.manual_seed(0)
        loss = Normalised()
        step = make(TrainingStep(loss, make_optimizer(loss, "adamw", 0.1, 0.1), accumulate=accumulate))
        imgs, labels = batches(4), torch.tensor([0, 1, 0, 1, 1, 0])
        losses = [step(batch, 2.0**-4, labels) for batch in imgs]
        return losses, loss.state_dict(), step.optimizer.state_dict()

    plain, graphs = trained(lambda step: step), trained(graphed)
    assert same(plain, graphs) and graphs[1]["seen"] == 24 and graphs[1]["norm.num_batches_tracked"] == 4


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_a_batch_of_another_shape_has_its_own_graph_also_amid_an_update(accumulate):
    sizes = [6, 4, 6, 6, 4, 2]
    imgs = [batch[:size] for batch, size in zip(batches(6), sizes, strict=True)]
    plain, graphs = (taken(make(build(accumulate=accumulate)), imgs) for make in (lambda step: step, graphed))
    assert same(plain, graphs)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_run_goes_on_from_a_state_that_is_loaded(accumulate, dtype):
    """Also into an optimizer that graphs point into."""
    imgs, options = batches(8), {"accumulate": accumulate, "dtype": dtype}
    whole, first, second = build(**options), graphed(build(**options)), graphed(build(**options))
    taken(second, imgs[:2])  # captured, and further on elsewhere
    taken(whole, imgs[:4])
    taken(first, imgs[:4])
    second.model.load_state_dict(first.model.state_dict())
    load_optimizer(second.optimizer, first.optimizer.state_dict())
    if dtype == torch.float16:
        second.scaler.load_state_dict(first.scaler.state_dict())
    assert not second.graphs.has(imgs[0], None)
    assert same(taken(second, imgs[4:])[:4], taken(whole, imgs[4:])[:4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("opt", ["adamw", "sgd"])
def test_a_step_that_is_not_finite_is_skipped_from_a_graph_too(dtype, opt):
    imgs = torch.randn(4, 6, 3, 32, 32)
    imgs[0, 0, 0, 0, 0] = imgs[2, 0, 0, 0, 0] = float("nan")  # the first, too: SGD begins its momentum then
    plain, graphs = (taken(make(build(dtype=dtype, opt=opt)), imgs) for make in (lambda step: step, graphed))
    assert [loss.isnan().item() for loss in graphs[0]] == [True, False, True, False] and graphs[4] == 2
    assert same([loss.nan_to_num() for loss in plain[0]], [loss.nan_to_num() for loss in graphs[0]])
    assert same(plain[1:], graphs[1:]) and all(x.isfinite().all() for x in graphs[1].values())


def test_a_replay_copies_in_and_out_and_does_nothing_else():
    """The rest is on the device. No wait, and no allocation but of the number that the caller keeps."""

    class Nothing(Remember):
        def capture(self, function):
            return lambda: None

    step = graphed(build(accumulate=2), Nothing())
    imgs = batches(1)[0]
    step.prepare(imgs)
    for lrs, wanted in (
        ([0.5, 0.5], ["copy_.default", "copy_.default", "fill_.Scalar", "clone.default"]),
        ([0.5, 0.5], ["copy_.default", "copy_.default", "clone.default"]),
    ):
        with Waits() as ops:
            for lr in lrs:
                step(imgs, lr)
        assert ops.ran == [f"aten.{name}" for name in wanted] and not ops.found
