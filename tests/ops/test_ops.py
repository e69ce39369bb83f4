"""The ops' contract: parity of every implementation with the reference, torch.library's own checks, bad input."""

import os
import subprocess
import sys
from itertools import product

import pytest
import torch

from mae_fast import ops, reference
from mae_fast.ops.builds import best_build
from mae_fast.parity.cases import CASES, make, run, schema_args
from tests.ops.implementations import BUILT, HALVES, IMPLEMENTATIONS


@pytest.mark.filterwarnings("ignore:.*deterministic", "ignore:Warning only once for all operators")
@pytest.mark.parametrize("name", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_parity(case, dtype, name, poisoned, assert_parity):
    if name == "triton" and case.op == "attention" and case.shape["N"] > 512:
        pytest.skip("a minute in the interpreter, of nothing that 257 tokens do not show")
    assert_parity(case, dtype, name)


def test_loaded_build():
    """One build is loaded, the best for this machine, and the one that test_cpus.py or `make sanitize` expects."""
    loaded = [m.__file__ for name, m in sys.modules.items() if name.startswith("mae_fast._C") and m]
    if not loaded:
        pytest.skip("the C++ kernels are not built")
    assert (
        len(loaded) == 1 and f"/{best_build()}." in loaded[0] and os.environ.get("MAE_FAST_BUILD", "") in loaded[0]
    ), loaded


@pytest.mark.parametrize("op", ops.REFERENCE)
def test_opcheck(op):
    torch.library.opcheck(getattr(torch.ops.mae_fast, op).default, schema_args(op))


@pytest.mark.skipif(not BUILT, reason="csrc/ is not built")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_same_bits_with_any_number_of_threads(case, dtype):
    args, grads, _ = make(case, dtype)
    outputs = getattr(ops, case.op)(*args)
    upstream = [
        torch.randn_like(x, dtype=torch.float32) for x in (outputs if isinstance(outputs, tuple) else (outputs,))
    ]
    results, before = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(getattr(ops, case.op), args, grads, upstream))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_noise_is_sorted_as_argsort_sorts_it():
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, float("inf"), -float("inf"), float("nan"), -float("nan"), 1e-45])
    for dtype in (torch.float64, torch.float32, *HALVES):
        noise = special.to(dtype)[torch.randint(len(special), (5, 101))]
        for a, b in zip(ops.random_masking(noise, 30), reference.random_masking(noise, 30), strict=True):
            assert torch.equal(a, b), dtype


def test_double_and_mixed_types():
    tokens, mask_token, pos_embed, restore = (x.detach() for x in schema_args("unshuffle"))
    for first, second in product((torch.float64, torch.float32, *HALVES), repeat=2):
        args = tokens.to(first), mask_token.to(second), pos_embed.to(second), restore
        torch.testing.assert_close(ops.unshuffle(*args), reference.unshuffle(*args))
        imgs, *rest, _ = (x.detach() if isinstance(x, torch.Tensor) else x for x in schema_args("gather_patches"))
        results = []
        for op in (ops, reference):
            leaf = imgs.to(first).requires_grad_()
            patches = op.gather_patches(leaf, *rest, second)
            results += [(patches.detach(), *torch.autograd.grad(patches.square().sum(), leaf))]
        torch.testing.assert_close(*results)


def pipeline(noise, imgs, pixels, weight, mask_token, pos_embed):
    """All four ops as a model calls them."""
    shuffle, restore, mask = ops.random_masking(noise, 2)
    mean, std = reference.IMAGENET_MEAN, reference.IMAGENET_STD
    patches = ops.gather_patches(imgs, shuffle[:, :2], 2, mean, std, weight.dtype)
    patches = patches + ops.gather_patches(pixels, shuffle[:, :2], 2, mean, std, weight.dtype)
    tokens = torch.cat([patches.mean(1, keepdim=True), patches], dim=1) @ weight
    x = ops.unshuffle(tokens, mask_token, pos_embed, restore)
    loss = ops.masked_mse(x[:, 1:], pixels, shuffle[:, 2:], 2, mean, std, True)
    return loss + ops.masked_mse(x[:, :4], pixels, shuffle[:, 2:], 2, mean, std, False), mask


def test_compile_with_any_batch():
    compiled = torch.compile(pipeline, fullgraph=True, backend="aot_eager")
    parameters = [torch.randn(shape, requires_grad=True) for shape in ((12, 12), (1, 1, 12), (1, 7, 12))]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for B in (3, 5, 8):
            imgs = torch.randn(B, 3, 4, 6, requires_grad=True)
            pixels = torch.randint(0, 256, (B, 4, 6, 3), dtype=torch.uint8)
            batch = torch.rand(B, 6), imgs, pixels
            for x in batch:
                torch._dynamo.mark_dynamic(x, 0)
            results = []
            for f in (compiled, pipeline):
                loss, mask = f(*batch, *parameters)
                results.append((loss, mask, *torch.autograd.grad(loss, [imgs, *parameters])))
            for a, b in zip(*results, strict=True):
                torch.testing.assert_close(a, b)


def test_no_graph_without_gradients():
    pred, *rest = schema_args("masked_mse")[:-1]
    with torch.no_grad():
        assert not ops.masked_mse(pred, *rest).requires_grad
    with torch.inference_mode():
        assert ops.masked_mse(pred, *rest) > 0
    assert ops.masked_mse(pred, *rest).requires_grad


def test_gradients_only_where_asked():
    tokens, mask_token, pos_embed, ids = schema_args("unshuffle")
    out = ops.unshuffle(tokens, mask_token.detach(), pos_embed.detach(), ids)
    out.sum().backward()
    assert tokens.grad is not None and mask_token.grad is None and pos_embed.grad is None


def test_backends_ask_the_dispatcher(implementation):
    table = ops.backends()
    assert set(table) == set(ops.REFERENCE)
    assert {row["cpu"] for row in table.values()} == {"cpp" if BUILT else "reference"}
    assert {op for op, row in table.items() if row["cuda"] == "triton"} == set(ops.TRITON)
    with implementation("triton"):
        assert ops.backends()["unshuffle"]["cpu"] != "reference"
    assert ops.backends() == table


@pytest.mark.parametrize("first", ["pass", "ops.bias_gelu(torch.ones(2, 3), torch.ones(3))"])
def test_backends_of_a_build_with_neither_cpp_nor_triton(first):
    code = """
import sys, warnings
builds = "_C", "_C_avx2", "_C_avx512", "_C_avx512_bf16"
sys.modules.update({"triton": None, **{f"mae_fast.{name}": None for name in builds}})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch
    import mae_fast
    from mae_fast import ops
    assert not caught, [str(w.message) for w in caught]  # a GPU wants no C++
    model = mae_fast.MaskedAutoencoderViT(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2,
                                          decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
    for _ in range(2):
        FIRST
        model.training_loss(torch.randn(2, 3, 16, 16)).backward()
        torch.compile(model.training_loss, fullgraph=True, backend="aot_eager")(torch.randn(2, 3, 16, 16))
assert len([w for w in caught if "pip install --no-build-isolation" in str(w.message)]) == 1, caught
assert {kind for row in ops.backends().values() for kind in row.values()} == {"reference"}, ops.backends()
"""
    subprocess.run([sys.executable, "-c", code.replace("FIRST", first)], check=True)
