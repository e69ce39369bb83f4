"""What is compiled and captured where nobody asked, and what happens where that cannot be done."""

import logging
from functools import partial

import pytest
import torch
from torch import nn

import mae_fast
from benchmarks.counting import flops
from mae_fast.config import PRESETS
from mae_fast.train import compiling
from mae_fast.train.graph import MOST, CannotCaptureError
from mae_fast.train.optim import make_optimizer
from mae_fast.train.step import TrainingStep
from tests.train.runs import same
from tests.train.steps import Classify, Remember, batches, build, graphed, taken

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture
def pays(monkeypatch):
    """A CPU where compiling pays, with a backend that takes no minute."""
    monkeypatch.setattr(compiling, "pays_on_cpu", lambda loss, images: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "dtype": torch.float16}, {"dtype": torch.bfloat16}])
@pytest.mark.parametrize("graph", [False, True])
def test_prepared_or_not_the_numbers_are_the_same(pays, options, graph):
    def trained(prepare):
        step = build(**options)
        assert step.compiled
        step = graphed(step) if graph else step
        if prepare:
            step.prepare(torch.zeros_like(batches(1)[0]))
        return taken(step, batches(4))

    prepared = trained(True)
    assert same(trained(False), prepared)
    if not graph:
        eager = taken(build(compile=False, **options), batches(4))
        assert same(prepared[0], eager[0])


class Breaks(Classify):
    """Its graph breaks: the host must know a number."""

    def forward(self, imgs, labels):
        loss = super().forward(imgs + (1 if torch.rand(()).item() < 0.5 else 0), labels)
        return loss * (1 if loss.item() > 0 else 2)


def classified(compile):
    torch.manual_seed(0)
    loss = Breaks()
    step = TrainingStep(loss, make_optimizer(loss, "adamw", 0.1, 0.0), compile=compile)
    labels = torch.tensor([0, 1, 0, 1, 1, 0])
    return [step(imgs, 0.1, labels) for imgs in batches(3)], loss.state_dict(), step


def test_a_loss_that_does_not_compile_goes_on_as_it_is(pays, caplog):
    *plain, _ = classified(compile=False)
    *fallen, step = classified(compile=None)
    assert same(plain, fallen) and not step.compiled
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("mae_fast")]
    assert line.startswith("Warning: compile: the loss does not compile (")  # whatever this PyTorch calls it
    assert line.endswith("training goes on uncompiled. compile=False does not try") and "\n" not in line


def test_it_is_an_error_where_compiling_was_asked_for(pays):
    with pytest.raises(compiling.CompileError, match="does not compile"):
        classified(compile=True)


def test_a_machine_without_a_compiler_says_what_to_install(pays, monkeypatch, caplog):
    monkeypatch.setattr(compiling.shutil, "which", lambda command: None)
    assert not build().compiled
    assert caplog.messages == [
        "Warning: compile: there is no C++ compiler; install g++, or name one in the environment's CXX; training goes "
        "on uncompiled. compile=False does not try"
    ]
    assert not build(compile=False).compiled and len(caplog.messages) == 1
    with pytest.raises(ValueError, match=r"compile: there is no C\+\+ compiler; install g\+\+"):
        build(compile=True)


def test_what_a_gpu_needs(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(compiling, "find_spec", lambda name: name)
    monkeypatch.setattr(compiling.shutil, "which", lambda command: command if command == "gcc" else None)
    assert compiling.obstacle(GPU) == ""
    monkeypatch.setattr(compiling.shutil, "which", lambda command: None)
    assert compiling.obstacle(GPU).startswith("Triton finds no C compiler for its launchers; install gcc")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "P40")
    assert compiling.obstacle(GPU) == "Triton needs a GPU of compute capability 7.0, and P40 is older"
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    assert compiling.obstacle(GPU) == "Triton is not installed; pip install triton"


@pytest.mark.parametrize("name", ["mae_vit_small_patch16", "mae_vit_base_patch16", "mae_vit_large_patch16"])
def test_a_cpu_compiles_for_runs_of_hours(monkeypatch, name):
    with torch.device("meta"):
        loss = mae_fast.MAELoss(getattr(mae_fast, name)())
    counted = sum(product.flops for product in flops.products(PRESETS[name], 1) if not product.attention)
    assert compiling.product_flops(loss.model, 0.75) == pytest.approx(counted, rel=0.01)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    hour = {"mae_vit_small_patch16": 8.3, "mae_vit_base_patch16": 5.6}.get(name, 2.6) * 3600  # images (README)
    assert not compiling.pays_on_cpu(loss, int(1.7 * hour)) and compiling.pays_on_cpu(loss, int(2.4 * hour))
    assert not compiling.pays_on_cpu(loss, None) and not compiling.pays_on_cpu(nn.Linear(2, 2), 10**9)


def test_a_step_of_unknown_length_does_not_compile_on_a_cpu():
    assert not build().compiled and build().graphs is None
    assert not build(images=1000).compiled


def test_more_than_a_few_shapes_go_on_without(caplog):
    imgs = [batch[: 1 + index] for index, batch in enumerate(batches(MOST + 1))]
    step = graphed(build(accumulate=2))
    assert same(taken(build(accumulate=2), imgs), taken(step, imgs)) and step.graphs is None
    (line,) = caplog.messages
    assert line.startswith(f"Warning: cuda_graphs: batches of more than {MOST} shapes; training goes on without")


class Refuses(Remember):
    def capture(self, function):
        raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_cannot_be_captured_goes_on_without_and_says_so(accumulate, caplog):
    options = {"accumulate": accumulate, "dtype": torch.float16}
    step = graphed(build(**options), Refuses())
    assert same(taken(build(**options), batches(4)), taken(step, batches(4))) and step.graphs is None
    assert caplog.messages == [
        "Warning: cuda_graphs: the step cannot be captured (RuntimeError: operation not permitted when stream is "
        "capturing); training goes on without a graph. cuda_graphs=False does not try"
    ]


def test_it_is_an_error_where_a_graph_was_asked_for():
    step = graphed(build(), Refuses())
    step._must_capture = True
    with pytest.raises(CannotCaptureError, match="operation not permitted"):
        step(batches(1)[0], 1e-3)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_setting_that_changes_is_not_overlooked(accumulate, caplog):
    def trained(step):
        before = taken(step, batches(3))[0]
        step.optimizer.param_groups[1]["weight_decay"] = 0.5
        return before, taken(step, batches(3))

    assert same(trained(build(accumulate=accumulate)), trained(graphed(build(accumulate=accumulate))))
    assert "the optimizer's settings have changed" in caplog.text


def test_an_optimizer_with_a_first_step_of_its_own_is_not_captured(caplog):
    step = graphed(build(opt="sgd"))
    step.optimizer.param_groups[0]["dampening"] = 0.1
    step(batches(1)[0], 1e-3)
    assert step.graphs is None and "optimizer: expected Adam, AdamW, or SGD without dampening" in caplog.text


def test_one_rank_alone_warns(monkeypatch, caplog):
    monkeypatch.setattr(compiling.distributed, "rank", lambda: 1)
    compiling.warn("compile", "no")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
