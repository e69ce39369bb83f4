"""mae_fast.memory: the model against what a step really keeps and holds, and the search for the largest batch."""

import sys
from unittest import mock

import pytest
import torch

import mae_fast
from benchmarks.counting.step_memory import peak, saved
from mae_fast.train import batch_size
from mae_fast.train import step_memory as counted
from mae_fast.train.batch_size import available_memory, choose_batch_size, search
from mae_fast.train.step_memory import step_memory

SIZES = dict(
    img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3,
    decoder_embed_dim=32, decoder_depth=3, decoder_num_heads=2,
)  # fmt: skip
FP32, BF16 = torch.float32, torch.bfloat16

fused = pytest.mark.skipif(
    mae_fast.backends()["attention"]["cpu"] != "cpp", reason="counted for the fused ops; the C++ kernels are not built"
)


def build(checkpointing=False):
    model = mae_fast.MaskedAutoencoderViT(**SIZES)
    model.activation_checkpointing = checkpointing
    return model


@fused
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype, stream", [(FP32, None), (BF16, None), (BF16, BF16)])
def test_activations_are_counted_to_the_byte(dtype, stream, checkpointing):
    model = build(checkpointing)
    model.stream = stream
    images = saved(model, 5, dtype) - saved(model, 2, dtype)
    assert images == 3 * step_memory(model, dtype).activations


@fused
@pytest.mark.parametrize("dtype", [FP32, BF16])
def test_without_a_kernel_gelu_keeps_float32(monkeypatch, dtype):
    """As on a GPU in eager mode."""
    monkeypatch.setattr(sys.modules["mae_fast.ops.bias_gelu"], "_KERNEL_ON", set())
    model = build()
    fewer = counted.backends() | {"bias_gelu": {"cpu": "reference"}}
    monkeypatch.setattr(counted, "backends", lambda: fewer)
    assert saved(model, 5, dtype) - saved(model, 2, dtype) == 3 * step_memory(model, dtype).activations


@fused
@pytest.mark.parametrize("dtype, checkpointing, below", [(FP32, False, 0.97), (BF16, False, 0.97), (BF16, True, 0.8)])
def test_the_peak_is_the_measured_one(dtype, checkpointing, below):
    """The model may say too much, with checkpointing most: two blocks' inputs are little beside one block's insides."""
    model, batch = build(checkpointing), 64
    measured = peak(model, batch, dtype)
    assert below < measured / step_memory(model, dtype).peak(batch) < 1.01


def test_the_parts():
    with torch.device("meta"):
        model = mae_fast.mae_vit_base_patch16()
    need, parameters = step_memory(model, BF16), sum(p.numel() for p in model.parameters())
    trained = parameters - 197 * (768 + 512)  # positions are fixed
    assert (need.weights, need.gradients, need.moments) == (4 * parameters, 4 * trained, 8 * trained)
    assert need.pixels == 3 * 224**2 and need.peak(3) == need.fixed + 3 * need.per_image
    assert step_memory(model, BF16, moments=1).moments == 4 * trained and step_memory(model, FP32).casts == 0


@pytest.mark.parametrize("true", [0, 1, 7, 100, 1000])
@pytest.mark.parametrize("guess", [0, 1, 90, 4000])
@pytest.mark.parametrize("limit", [64, 2000])
def test_search(true, guess, limit):
    tried = []
    found = search(lambda size: tried.append(size) or size <= true, guess, limit)
    best = min(true, limit)
    assert best - max(1, found // 16) <= found <= best or found == best
    assert not tried or (max(tried) <= limit and len(tried) <= 16 and len(set(tried)) == len(tried))


def test_on_a_cpu_the_batch_is_what_the_model_allows(monkeypatch):
    model = build()
    need = step_memory(model, FP32)
    free = need.fixed - need.weights + 100.5 * need.per_image
    monkeypatch.setattr(batch_size, "available_memory", lambda device: free / 0.9)
    batch, why = choose_batch_size(model, FP32, 0.75, limit=1000)
    assert batch == 96 and why.startswith("batch size 96: ") and "data" not in why
    batch, why = choose_batch_size(model, FP32, 0.75, limit=50)
    assert batch == 48 and "all that the data allow" in why
    with monkeypatch.context() as patch:
        patch.setattr(batch_size.distributed, "gather", lambda batch: [batch, 24])
        assert choose_batch_size(model, FP32, 0.75, limit=1000)[0] == 24  # what the other rank can
    monkeypatch.setattr(batch_size, "available_memory", lambda device: need.gradients)
    with pytest.raises(ValueError, match="batch_size: not even one image fits"):
        choose_batch_size(model, FP32, 0.75, limit=1000)


def test_a_trial_that_runs_out_of_memory_leaves_no_trace(monkeypatch):
    model, real = build(), batch_size._try
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)

    def little(model, batch, *rest):
        real(model, batch, *rest)
        if batch > 5:
            raise torch.OutOfMemoryError

    monkeypatch.setattr(batch_size, "_try", little)
    before, random = [p.clone() for p in model.parameters()], torch.get_rng_state()
    assert batch_size._fits(model, 5, BF16, 0.75, held=1000) and not batch_size._fits(model, 6, BF16, 0.75, held=1000)
    assert all(map(torch.equal, before, model.parameters())) and torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


def test_a_library_may_be_the_one_that_finds_no_memory(monkeypatch):
    def fits(error):
        monkeypatch.setattr(batch_size, "_try", mock.Mock(side_effect=RuntimeError(error)))
        return batch_size._fits(build(), 1, BF16, 0.75, held=0)

    assert not fits("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")
    assert not fits("Triton Error [CUDA]: out of memory")
    with pytest.raises(RuntimeError, match="illegal memory access"):
        fits("CUDA error: an illegal memory access was encountered")


def test_available_memory_is_shared_out(monkeypatch):
    whole = available_memory(torch.device("cpu"))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert 0.15 * whole < available_memory(torch.device("cpu")) < 0.4 * whole  # others take and give meanwhile
