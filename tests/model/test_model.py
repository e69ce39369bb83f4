"""The fast model against the naive one, and the contract of both."""

import warnings

import pytest
import torch
from torch import nn

import mae_fast
from mae_fast import config
from mae_fast.files import layouts

TINY = dict(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=4,
            decoder_embed_dim=32, decoder_depth=2, decoder_num_heads=4)  # fmt: skip

SHAPES = {
    "plain": {},
    "norm_pix": {"norm_pix_loss": True},
    "non-square": {"img_size": (24, 48)},
    "one channel": {"in_chans": 1, "patch_size": 4},
    "five channels, one patch wide": {"in_chans": 5, "img_size": (64, 8)},
    "other decoder width": {"decoder_mlp_ratio": 2.0, "mlp_ratio": 3.0},
}


def both(seed=0, **changes):
    """The fast and the naive model with the same weights, away from the zeros and ones of initialisation."""
    torch.manual_seed(seed)
    fast = mae_fast.MaskedAutoencoderViT(**TINY | changes)
    with torch.no_grad():
        for p in fast.parameters():
            if p.requires_grad and p.ndim == 1:
                p += 0.1 * torch.randn_like(p)
    naive = mae_fast.reference.MaskedAutoencoderViT(**TINY | changes)
    naive.load_state_dict(fast.state_dict(), strict=True)
    return fast, naive


def images(model, batch=3, uint8=False):
    C, (h, w) = model.in_chans, model.patch_embed.img_size
    return torch.randint(0, 256, (batch, h, w, C), dtype=torch.uint8) if uint8 else torch.randn(batch, C, h, w)


def error(actual, expected):
    return ((actual - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("uint8", [False, True], ids=["float", "uint8"])
@pytest.mark.parametrize("mask_ratio", [0.75, 0.4, 1.0])
def test_numbers_and_gradients_match_the_reference(changes, uint8, mask_ratio):
    fast, naive = both(**changes)
    imgs = images(fast, uint8=uint8)
    noise = torch.rand(len(imgs), fast.patch_embed.num_patches)
    expected = naive(imgs, mask_ratio, noise)
    actual = fast(imgs, mask_ratio, noise)
    assert error(actual[0], expected[0]) < 1e-5
    assert error(actual[1], expected[1]) < 1e-5
    assert torch.equal(actual[2], expected[2])
    wanted = gradients(naive, expected[0])
    for loss in (actual[0], fast.training_loss(imgs, mask_ratio, noise)):
        assert error(loss, expected[0]) < 1e-5
        got = gradients(fast, loss)
        assert got.keys() == wanted.keys()
        # A gradient that is zero but for rounding (the key bias: softmax does not see it) has no relative error.
        scale = max(g.abs().max() for g in wanted.values())
        for name, grad in wanted.items():
            assert torch.allclose(got[name], grad, rtol=0, atol=1e-5 * max(grad.abs().max(), 1e-2 * scale)), name


def test_pieces_match_the_reference():
    fast, naive = both()
    imgs, noise = images(fast), torch.rand(3, 16)
    latent, mask, ids_restore = fast.forward_encoder(imgs, 0.75, noise)
    wanted = naive.forward_encoder(imgs, 0.75, noise)
    assert latent.shape == (3, 5, 48)
    assert error(latent, wanted[0]) < 1e-5
    assert torch.equal(mask, wanted[1]) and torch.equal(ids_restore, wanted[2])
    pred = fast.forward_decoder(latent, ids_restore)
    assert error(pred, naive.forward_decoder(latent, ids_restore)) < 1e-5
    odd_mask = torch.rand(3, 16)  # not a mask that any ratio gives
    assert error(fast.forward_loss(imgs, pred, odd_mask), naive.forward_loss(imgs, pred, odd_mask)) < 1e-5
    assert error(fast.encode(imgs), naive.encode(imgs)) < 1e-5
    assert torch.equal(fast.patchify(imgs), naive.patchify(imgs))
    assert torch.equal(fast.unpatchify(fast.patchify(imgs)), imgs)
    pixels = images(fast, uint8=True)
    normalised = mae_fast.reference.normalize(pixels, fast.mean, fast.std)
    assert error(fast.patchify(pixels), naive.patchify(normalised)) < 1e-6


def test_images_may_require_a_gradient():
    fast, naive = both(norm_pix_loss=True)
    imgs, noise = images(fast), torch.rand(3, 16)
    grads = []
    for model in (fast, naive):
        leaf = imgs.clone().requires_grad_()
        grads.append(torch.autograd.grad(model(leaf, 0.75, noise)[0], leaf)[0])
    assert error(*grads) < 1e-5


def test_float64_agrees_to_its_own_precision():
    fast, naive = both(norm_pix_loss=True)
    fast, naive = fast.double(), naive.double()
    imgs, noise = images(fast).double(), torch.rand(3, 16)
    assert error(fast.training_loss(imgs, 0.75, noise), naive(imgs, 0.75, noise)[0]) < 1e-13
    imgs = images(fast, uint8=True)
    assert error(fast.training_loss(imgs, 0.75, noise), naive(imgs, 0.75, noise)[0]) < 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_stays_near_the_reference(dtype):
    fast, naive = both(norm_pix_loss=True)
    imgs, noise = images(fast, batch=8), torch.rand(8, 16)
    exact = naive.double()(imgs.double(), 0.75, noise)[0]
    naive.float()
    with torch.autocast("cpu", dtype):
        plain, ours = naive(imgs, 0.75, noise)[0], fast.training_loss(imgs, 0.75, noise)
    assert abs(ours - exact) <= 2 * abs(plain - exact) + 2e-3 * exact


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_weights_train(dtype):
    fast, _ = both()
    fast = fast.to(dtype)
    loss = fast.training_loss(images(fast, uint8=True))
    assert all(g.isfinite().all() for g in gradients(fast, loss).values())


def test_same_seed_same_mask_and_no_change_of_global_state():
    fast, naive = both()
    imgs = images(fast)
    torch.manual_seed(7)
    mask = fast(imgs)[2]
    after = torch.rand(1)
    torch.manual_seed(7)
    assert torch.equal(naive(imgs)[2], mask)
    assert torch.equal(torch.rand(1), after)


def test_same_seed_same_initial_weights():
    torch.manual_seed(3)
    fast = mae_fast.MaskedAutoencoderViT(**TINY)
    torch.manual_seed(3)
    naive = mae_fast.reference.MaskedAutoencoderViT(**TINY)
    for (name, a), (other, b) in zip(fast.state_dict().items(), naive.state_dict().items(), strict=True):
        assert name == other and torch.equal(a, b), name


@pytest.mark.parametrize("method", ["forward", "training_loss"])
def test_trains_compiled_with_one_graph_and_no_recompile(method):
    """Zero graph breaks (fullgraph) and, after two steps, no new graph when only the content of the batch changes."""
    fast, naive = both(norm_pix_loss=True)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    step = torch.compile(getattr(fast, method), fullgraph=True)
    optimizer = torch.optim.AdamW(fast.parameters(), lr=1e-3)
    for i in range(5):
        imgs, noise = images(fast, uint8=True), torch.rand(3, 16)
        naive.load_state_dict(fast.state_dict())
        wanted = naive(imgs, 0.75, noise)[0]
        out = step(imgs, 0.75, noise)
        loss = out[0] if method == "forward" else out
        assert error(loss, wanted) < 1e-5, i
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if i == 1:
            graphs = counters["stats"]["unique_graphs"]
    assert counters["stats"]["unique_graphs"] == graphs == 1
    assert not counters["graph_break"]


def test_compiles_with_dynamic_sizes():
    fast, naive = both()
    torch._dynamo.reset()
    forward = torch.compile(fast.forward, fullgraph=True, dynamic=True, backend="aot_eager")
    for mask_ratio in (0.75, 0.5, 1.0):
        imgs, noise = images(fast), torch.rand(3, 16)
        assert error(forward(imgs, mask_ratio, noise)[0], naive(imgs, mask_ratio, noise)[0]) < 1e-5


def test_compiles_as_a_module():
    fast, naive = both()
    imgs, noise = images(fast), torch.rand(3, 16)
    loss, pred, mask = torch.compile(fast, fullgraph=True)(imgs, 0.75, noise)
    wanted = naive(imgs, 0.75, noise)
    assert error(loss, wanted[0]) < 1e-5 and error(pred, wanted[1]) < 1e-5 and torch.equal(mask, wanted[2])


def test_fully_sharded(tmp_path):
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        fast, naive = both()
        mesh = init_device_mesh("cpu", (1,))
        for block in (*fast.blocks, *fast.decoder_blocks):
            fully_shard(block, mesh=mesh)
        fully_shard(fast, mesh=mesh)
        register_fsdp_forward_method(fast, "training_loss")
        imgs, noise = images(fast), torch.rand(3, 16)
        wanted = gradients(naive, naive(imgs, 0.75, noise)[0])
        for method in (lambda *a: fast(*a)[0], fast.training_loss):
            got = gradients(fast, method(imgs, 0.75, noise))
            assert error(got["blocks.1.mlp.fc1.weight"].full_tensor(), wanted["blocks.1.mlp.fc1.weight"]) < 1e-5
            assert got.keys() == wanted.keys()
    finally:
        dist.destroy_process_group()


def test_inference_mode_and_checkpointed_blocks():
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import apply_activation_checkpointing

    fast, naive = both()
    imgs, noise = images(fast), torch.rand(3, 16)
    with torch.inference_mode():
        assert error(fast(imgs, 0.75, noise)[1], naive(imgs, 0.75, noise)[1]) < 1e-5
    wanted = gradients(fast, fast.training_loss(imgs, 0.75, noise))
    apply_activation_checkpointing(fast, check_fn=lambda module: type(module).__name__ == "Block")
    got = gradients(fast, fast.training_loss(imgs, 0.75, noise))
    for name, grad in got.items():
        assert torch.equal(grad, wanted[name.replace("_checkpoint_wrapped_module.", "")])


@pytest.mark.parametrize("name, millions", [("small", 22), ("base", 86), ("large", 303), ("huge", 631)])
def test_presets_have_the_published_sizes(name, millions):
    constructor = next(n for n in config.PRESETS if name in n)
    with torch.device("meta"), warnings.catch_warnings():
        model = getattr(mae_fast, constructor)(norm_pix_loss=True)
        assert getattr(mae_fast, f"{constructor}_dec512d8b")().norm_pix_loss is False
    assert all(p.is_meta for p in model.parameters())  # all of it on the device that was asked for
    encoder = [p for n, p in model.named_parameters() if not layouts.is_decoder_key(n)]
    assert sum(p.numel() for p in encoder) / 1e6 == pytest.approx(millions, rel=0.02)
    assert len(model.decoder_blocks) == 8 and model.decoder_embed.out_features == 512
    assert model.decoder_blocks[0].attn.num_heads == 16 and model.norm.eps == 1e-6


BAD_CALLS = {
    "imgs": lambda m: m(torch.randn(2, 3, 32, 40)),
    "imgs ": lambda m: m(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)),
    "imgs  ": lambda m: m(torch.zeros(2, 3, 32, 32, dtype=torch.int64)),
    "imgs   ": lambda m: m.patchify(torch.randn(3, 32, 32)),
    "noise": lambda m: m(torch.randn(2, 3, 32, 32), 0.75, torch.rand(2, 9)),
    "mask_ratio": lambda m: m(torch.randn(2, 3, 32, 32), 1.5),
    "mask_ratio ": lambda m: m(torch.randn(2, 3, 32, 32), 0.0),
    "mask_ratio  ": lambda m: m.training_loss(torch.randn(2, 3, 32, 32), 1e-18),
    "mask": lambda m: m.forward_loss(torch.randn(2, 3, 32, 32), torch.randn(2, 16, 192), torch.zeros(2, 16)),
    "x": lambda m: m.unpatchify(torch.randn(2, 9, 192)),
}


@pytest.mark.parametrize("argument", BAD_CALLS)
def test_bad_calls_name_the_argument(argument):
    fast, _ = both()
    with pytest.raises(ValueError, match=rf"^{argument.strip()}\b"):
        BAD_CALLS[argument](fast)


@pytest.mark.parametrize(
    "argument, value",
    [
        ("img_size", 33),
        ("img_size", (32, 36)),
        ("embed_dim", 50),
        ("decoder_embed_dim", 30),
        ("mean", (0.5, 0.5)),
        ("embed_dim", 0),
        ("in_chans", 0),
    ],
)
def test_bad_sizes_name_the_argument(argument, value):
    with pytest.raises(ValueError, match=rf"^{argument}\b"):
        mae_fast.MaskedAutoencoderViT(**TINY | {argument: value})
    with pytest.raises(ValueError, match=r"^embed_dim\b"):
        mae_fast.MaskedAutoencoderViT(**TINY | {"num_heads": 0})


def test_nothing_masked_still_encodes():
    fast, naive = both()
    imgs, noise = images(fast), torch.rand(3, 16)
    latent, mask, _ = fast.forward_encoder(imgs, 0.0, noise)
    assert latent.shape == (3, 17, 48) and mask.sum() == 0
    assert error(latent, naive.forward_encoder(imgs, 0.0, noise)[0]) < 1e-5


def test_custom_norm_layer_is_used():
    fast = mae_fast.MaskedAutoencoderViT(**TINY, norm_layer=nn.RMSNorm)
    assert isinstance(fast.decoder_blocks[1].norm2, nn.RMSNorm)


def test_layers_that_are_wrapped_or_hooked_run_themselves():
    """The block hands the parameters of plain layers to fused ops, past the layers: not of those that do more."""
    fast, naive = both()
    calls = []

    class Adapted(nn.Linear):
        def forward(self, x):
            calls.append("adapted")
            return super().forward(x)

    block = fast.blocks[0]
    block.norm1.register_forward_hook(lambda *_: calls.append("norm1"))
    block.norm2.register_forward_pre_hook(lambda *_: calls.append("norm2"))
    adapted = Adapted(48, 192)
    adapted.load_state_dict(block.mlp.fc1.state_dict())
    block.mlp.fc1 = adapted
    imgs, noise = images(fast), torch.rand(3, 16)
    assert error(fast(imgs, 0.75, noise)[0], naive(imgs, 0.75, noise)[0]) < 1e-5
    assert calls == ["norm1", "norm2", "adapted"]


@pytest.mark.parametrize("name", ["fused", "sdpa", "reference"])
def test_every_attention_gives_the_same_numbers(name):
    _, naive = both()
    fast = mae_fast.MaskedAutoencoderViT(**TINY, attention=name)
    fast.load_state_dict(naive.state_dict())
    imgs, noise = images(fast), torch.rand(3, 16)
    assert error(fast(imgs, 0.75, noise)[1], naive(imgs, 0.75, noise)[1]) < 1e-5


def test_an_unknown_attention_is_named():
    with pytest.raises(ValueError, match="attention: expected one of auto, fused, sdpa"):
        mae_fast.MaskedAutoencoderViT(**TINY, attention="flash")


@pytest.mark.parametrize("imgs", [torch.zeros(0, 3, 32, 32), torch.zeros(0, 32, 32, 3, dtype=torch.uint8)])
@pytest.mark.parametrize("call", ["forward", "training_loss"])
def test_a_batch_of_no_images_is_refused_by_name(imgs, call):
    model = mae_fast.MaskedAutoencoderViT(**TINY)
    with pytest.raises(ValueError, match="imgs: expected at least one image"):
        getattr(model, call)(imgs)
