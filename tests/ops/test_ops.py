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

HALVES = torch.bfloat16, torch.float16
BUILT = any(module and name.startswith("mae_fast._C") for name, module in sys.modules.items())
WITH_IDS = [op for op in ops.REFERENCE if "Tensor ids" in str(getattr(torch.ops.mae_fast, op).default._schema)]
IMPLEMENTATIONS = ["cpu", "reference", "cuda" if torch.cuda.is_available() else "triton"]  # "triton": interpreted


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


@pytest.mark.skipif(not BUILT, reason="csrc/ is not built")
@pytest.mark.parametrize("wrong", [-1, 6])
@pytest.mark.parametrize("op", WITH_IDS)
def test_cpp_reads_and_writes_nothing_out_of_bounds(op, wrong):
    args = list(schema_args(op))
    where = next(i for i, x in enumerate(args) if isinstance(x, torch.Tensor) and x.dtype == torch.int64)
    args[where] = args[where].index_fill(1, torch.tensor(1), wrong)
    with pytest.raises(IndexError, match=rf"{op}: ids out of 0\.\.5"):
        getattr(torch.ops.mae_fast, op)(*args)


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


def test_no_images():
    noise, imgs = torch.rand(0, 6), torch.rand(0, 3, 4, 6, requires_grad=True)
    shuffle, restore, _ = ops.random_masking(noise, 2)
    patches = ops.gather_patches(imgs, shuffle[:, :2], 2, (0,) * 3, (1,) * 3, torch.float32)
    mask_token = torch.randn(12, requires_grad=True)
    out = ops.unshuffle(patches, mask_token, torch.randn(1, 7, 12), restore)
    assert out.shape == (0, 7, 12)
    grads = torch.autograd.grad(out.sum(), [imgs, mask_token])
    assert grads[0].shape == imgs.shape and grads[1].eq(0).all()


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


def test_nothing_kept_nothing_masked():
    shuffle, _, mask = ops.random_masking(torch.rand(2, 6), 0)
    assert mask.eq(1).all()
    imgs = torch.randn(2, 3, 4, 6, requires_grad=True)
    patches = ops.gather_patches(imgs, shuffle[:, :0], 2, (0,) * 3, (1,) * 3, torch.float32)
    patches.sum().backward()
    assert patches.shape == (2, 0, 12) and imgs.grad.eq(0).all()
    assert ops.random_masking(torch.rand(2, 6), 6)[2].eq(0).all()


def bad_inputs():
    imgs, pixels, ids = torch.randn(2, 3, 4, 6), torch.zeros(2, 4, 6, 3, dtype=torch.uint8), torch.zeros(2, 1).long()
    three, tokens = (0.5,) * 3, torch.randn(2, 2, 8)
    f32 = torch.float32
    yield "noise", ops.random_masking, (torch.rand(6), 2)
    yield "noise", ops.random_masking, (torch.ones(2, 6).long(), 2)
    yield "len_keep", ops.random_masking, (torch.rand(2, 6), 7)
    yield "imgs", ops.gather_patches, (imgs[0], ids, 2, three, three, f32)
    yield "imgs", ops.gather_patches, (imgs.int(), ids, 2, three, three, f32)
    yield "patch_size", ops.gather_patches, (imgs, ids, 4, three, three, f32)
    yield "mean, std", ops.gather_patches, (pixels, ids, 2, (0.5,), three, f32)
    yield "ids", ops.gather_patches, (imgs, ids.int(), 2, three, three, f32)
    yield "ids", ops.gather_patches, (imgs, ids[:1], 2, three, three, f32)
    yield "ids", ops.gather_patches, (imgs, ids.expand(2, 7), 2, three, three, f32)
    yield "ids", ops.gather_patches, (imgs.to("meta"), ids, 2, three, three, f32)
    yield "dtype", ops.gather_patches, (imgs, ids, 2, three, three, torch.int64)
    yield "ids_restore", ops.unshuffle, (tokens, torch.randn(8), torch.randn(1, 7, 8), torch.zeros(2, 6))
    restore = torch.arange(6).expand(2, 6)
    yield "tokens", ops.unshuffle, (tokens[:1], torch.randn(8), torch.randn(1, 7, 8), restore)
    yield "tokens", ops.unshuffle, (torch.randn(2, 8, 8), torch.randn(8), torch.randn(1, 7, 8), restore)
    yield "mask_token", ops.unshuffle, (tokens, torch.randn(4), torch.randn(1, 7, 8), restore)
    yield "pos_embed", ops.unshuffle, (tokens, torch.randn(8), torch.randn(1, 6, 8), restore)
    yield "pos_embed", ops.unshuffle, (tokens, torch.randn(8), torch.randn(1, 7, 8, device="meta"), restore)
    yield "pred", ops.masked_mse, (torch.randn(2, 2, 12), imgs, ids, 2, three, three, True)
    yield "pred", ops.masked_mse, (torch.randn(2, 1, 13), imgs, ids, 2, three, three, True)
    norm = torch.randn(5), torch.randn(5), 1e-6, f32
    yield "x, weight, bias", ops.add_layer_norm, (torch.randn(2, 4), None, *norm)
    yield "y", ops.add_layer_norm, (torch.randn(2, 5), torch.randn(5), *norm)
    yield "x, bias", ops.bias_gelu, (torch.randn(2, 5), torch.randn(4))
    yield "x, bias", ops.bias_gelu, (torch.ones(2, 5).long(), torch.randn(5))
    yield "qkv", ops.attention, (torch.randn(2, 5, 2, 4, 8),)
    yield "qkv", ops.attention, (torch.ones(2, 5, 3, 4, 8).long(),)
    yield "qkv", ops.attention, (torch.randn(2, 0, 3, 4, 8),)
    yield "qkv", ops.attention, (torch.randn(2, 5, 3, 4, 0),)
    yield "ids", ops.masked_mse, (torch.randn(2, 0, 12), imgs, ids[:, :0], 2, three, three, True)


@pytest.mark.parametrize("name, op, args", list(bad_inputs()), ids=lambda x: getattr(x, "__name__", None))
def test_bad_input_is_named(name, op, args):
    with pytest.raises(ValueError, match=f"^{name}: .*expected|^{name}: "):
        op(*args)


def test_debug_checks_the_ids(monkeypatch):
    imgs, *rest = torch.randn(2, 3, 4, 6), 2, (0,) * 3, (1,) * 3, torch.float32
    monkeypatch.setattr("mae_fast.ops.checks.debug", True)
    ops.gather_patches(imgs, torch.tensor([[0, 5], [3, 1]]), *rest)
    for ids in ([[0, 6], [3, 1]], [[0, -1], [3, 1]], [[0, 5], [1, 1]]):
        with pytest.raises(ValueError, match=r"ids: expected distinct numbers in 0\.\.5"):
            ops.gather_patches(imgs, torch.tensor(ids), *rest)


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


@pytest.mark.skipif(not BUILT, reason="needs the C++ kernels")
@pytest.mark.parametrize("value, p", [(0.7, 16), (-2.117, 16), (2.64, 32)])
def test_a_flat_patch_is_zero_when_normalised(value, p):
    """What rounding leaves of its mean is divided by 1e-3, the root of the least variance."""
    imgs, ids = torch.full((1, 3, p, p), value), torch.zeros(1, 1, dtype=torch.int64)
    loss = ops.masked_mse(torch.zeros(1, 1, 3 * p * p), imgs, ids, p, [0.5] * 3, [0.5] * 3, True)
    assert loss < 1e-12
