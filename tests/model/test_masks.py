"""Masks by name: the exact share, the shape, the sample they belong to; several of each image; one of the user's."""

import pytest
import torch

import mae_fast
from mae_fast.config import MASKS
from mae_fast.model import masking
from tests.model.pairs import TINY, both, error, gradients, images

CPU = torch.device("cpu")
GRIDS = (14, 14), (4, 4), (9, 7), (1, 5)


def removed(mask, grid, ratio=0.75, batch=8):
    noise = masking.by_torch(mask)(batch, grid, CPU)
    return masking.draw_mask(noise, batch, grid, CPU, ratio)[2].view(batch, *grid).bool()


@pytest.mark.parametrize("mask", MASKS)
def test_the_share_is_exact(mask):
    assert tuple(masking.MASKS) == MASKS
    for grid in GRIDS:
        for ratio in (0.0, 0.4, 0.5, 0.75, 0.9, 1.0):
            L = grid[0] * grid[1]
            counts = removed(mask, grid, ratio).sum((1, 2))
            assert counts.eq(L - int(L * (1 - ratio))).all(), (grid, ratio, counts)


def test_blocks_hang_together():
    """Of two neighbours both are removed in many more places than where patches are drawn one by one."""
    torch.manual_seed(0)

    def together(mask):
        x = removed(mask, (14, 14), 0.5, batch=200)
        return (x[:, 1:] & x[:, :-1]).float().mean()

    assert together("block") > 0.38 and together("random") < 0.26
    x = removed("block", (14, 14), 0.5, batch=200)
    assert x.float().mean(0).min() > 0.3 and not (x == x[:1]).all()  # every patch is removed often, and masks differ


def test_the_grid_is_a_lattice():
    x = removed("grid", (14, 14), 0.75, batch=100)
    kept = torch.stack([(~x)[:, i::2, j::2].all((1, 2)) for i in (0, 1) for j in (0, 1)])
    assert kept.sum(0).eq(1).all() and kept.any(1).all()  # one of four, and each of them for some image
    x = removed("grid", (14, 14), 0.5, batch=100)
    assert (x[:, 1:] != x[:, :-1]).all() and (x[:, :, 1:] != x[:, :, :-1]).all()  # a chessboard


@pytest.mark.parametrize("masks", [1, 3])
@pytest.mark.parametrize("mask", MASKS)
def test_any_number_of_ranks_draws_the_same(mask, masks):
    """Batches of 12 samples on 1, 2 and 4 ranks: a rank's samples have consecutive places."""
    noise = masking.SampleNoise(7, CPU, mask)

    def of(place, batch):
        noise.at(3, place)
        return noise(batch, (6, 5), CPU, masks).view(masks, batch, 30)

    whole = of(20, 12)
    for ranks in (2, 4):
        each = 12 // ranks
        assert torch.equal(torch.cat([of(20 + each * rank, each) for rank in range(ranks)], dim=1), whole)
    assert whole.flatten(0, 1).unique(dim=0).shape[0] == 12 * masks
    assert not torch.equal(of(32, 12), whole)


@pytest.mark.parametrize("mask", MASKS)
def test_compiled_masks_are_the_same(mask):
    noise = masking.SampleNoise(7, CPU, mask)
    compiled = torch.compile(lambda: noise(4, (6, 5), CPU, 2), fullgraph=True, backend="aot_eager")
    for place in (0, 20):
        noise.at(1, place)
        assert torch.equal(compiled(), noise(4, (6, 5), CPU, 2))


@pytest.mark.parametrize("uint8", [True, False])
def test_several_masks_are_the_mean_of_each(uint8):
    fast, naive = both(norm_pix_loss=True)
    imgs, noise = images(fast, uint8=uint8), torch.rand(9, 16)
    expected = torch.stack([naive.training_loss(imgs, 0.75, part) for part in noise.split(3)]).mean()
    loss = fast.training_loss(imgs, 0.75, noise)
    assert error(loss, expected) < 1e-5
    wanted, found = gradients(naive, expected), gradients(fast, loss)
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-3, atol=2e-5)


def test_masks_of_a_loss():
    model = mae_fast.MaskedAutoencoderViT(**TINY, draw_noise=masking.by_torch("block"))
    seen, imgs = [], images(model)
    model.training_loss = lambda imgs, ratio, noise: seen.append(noise.shape)
    mae_fast.MAELoss(model, masks=4)(imgs)
    mae_fast.MAELoss(model, 0.75, masking.SampleNoise(0, CPU, "grid"), masks=2)(imgs)
    assert seen == [(12, 16), (6, 16)]
    with pytest.raises(ValueError, match=r"^masks: "):
        mae_fast.MAELoss(model, masks=0)


def test_a_mask_of_ones_own():
    wanted = torch.zeros(4, 4)
    wanted[1:, :] = 1  # 12 of 16
    assert torch.equal(removed(masking.fixed(wanted), (4, 4)), wanted.bool().expand(8, -1, -1))
    half = removed(masking.fixed(wanted), (4, 4), 0.5)
    assert not half[:, 0].any() and half.flatten(1).unique(dim=0).shape[0] > 1  # ties are drawn
    with pytest.raises(ValueError, match=r"^mask: .*\(4, 4\).*\(5, 4\)"):
        removed(masking.fixed(wanted), (5, 4))
    with pytest.raises(ValueError, match=r"^mask: expected"):
        masking.fixed(torch.zeros(16))
    with pytest.raises(ValueError, match=r"^mask: expected one of random, block, grid"):
        masking.SampleNoise(0, CPU, "blocks")


@pytest.mark.parametrize("shape", [(4, 16), (6, 15), (16,), (0, 16)])
def test_noise_that_is_no_number_of_masks_is_refused(shape):
    model = mae_fast.MaskedAutoencoderViT(**TINY)
    for call in (model.training_loss, model):
        with pytest.raises(ValueError, match=r"^noise: expected \(3, 16\)"):
            call(images(model), 0.75, torch.rand(shape))
    with pytest.raises(ValueError, match=r"^noise: "):
        model(images(model), 0.75, torch.rand(6, 16))  # one prediction an image
