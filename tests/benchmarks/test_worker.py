"""What a side of `mae-fast bench turns` is made of, and when it says that memory was short."""

import torch

import mae_fast
from benchmarks.peers import sides, worker
from mae_fast.model.attention import auto, sdpa
from tests.benchmarks.small import TINY

KWARGS = TINY.kwargs() | {"img_size": 32, "norm_pix_loss": True}


def made(spec, device="cpu"):
    state = mae_fast.MaskedAutoencoderViT(**KWARGS).state_dict()
    built, absent = sides.build([spec], state, KWARGS, device, None)
    assert not absent
    return built[spec]


def test_each_choice_is_undone_alone(monkeypatch):
    asked = {}

    class Step(sides.TrainingStep):
        def __init__(self, *arguments, **how):
            asked.update(how)
            super().__init__(*arguments, **how)

    monkeypatch.setattr(sides, "TrainingStep", Step)
    seen = {}
    for spec in sides.turns_specs("bf16", "cpu"):
        if spec.undone is not None:
            asked.clear()
            side = made(spec)
            attention = {module.attention for module in side.peer.model.modules() if hasattr(module, "attention")}
            asked.pop("dtype")
            seen[spec.undone] = dict(asked), side.peer.model.stream, attention
    assert seen == {
        "": ({}, None, {auto}),
        "no CUDA graph": ({"cuda_graphs": False}, None, {auto}),
        "no compile": ({"compile": False}, None, {auto}),
        "fp32 stream": ({}, torch.float32, {auto}),
        "attention sdpa": ({}, None, {sdpa}),
    }


def test_peers_are_compiled_in_both_modes(monkeypatch):
    modes = []
    monkeypatch.setattr(torch, "compile", lambda f, **how: modes.append(how["mode"]) or f)
    for spec in sides.turns_specs("bf16", "cuda"):
        if spec.compiled:
            sides.Side(spec, sides.peers.Peer(None, lambda imgs: imgs), None, "cpu")
    assert modes == [None, "reduce-overhead"] * 2


def test_want_of_memory_is_told_from_other_errors():
    def raised(first, second):
        try:
            try:
                raise first
            except Exception as error:
                raise second from error
        except Exception as error:
            return error

    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert worker.crowded(full) and worker.crowded(raised(full, RuntimeError("cannot compile")))
    assert not worker.crowded(raised(ValueError("shape"), RuntimeError("cannot compile")))


def test_a_step_on_the_cpu_is_timed_and_profiled():
    def step():
        return torch.ones(4, 4) @ torch.ones(4, 4)

    taken = worker.timed(step, 3, "cpu")
    assert len(taken["seconds"]) == 3 and taken["wall_s"] > 0
    names = [name for name, _, _ in worker.profiled(step, 2, "cpu")["kernels"]]
    assert "aten::mm" in names
