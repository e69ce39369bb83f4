"""The fast model and the reference with the same weights."""

import torch

import mae_fast

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
