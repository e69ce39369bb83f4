"""The fast model against the naive one, and the contract of both."""

import pytest
import torch

import mae_fast
from tests.model.pairs import SHAPES, TINY, both, error, gradients, images


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
