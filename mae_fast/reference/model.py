"""The Masked Autoencoder of He et al. 2022 (arXiv 2111.06377), section 3, with the official names and keys."""

from collections import OrderedDict
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from mae_fast.config import IMAGENET_MEAN, IMAGENET_STD
from mae_fast.reference.ops import attention, normalize, patchify, random_masking, take, unpatchify, unshuffle


def sincos_2d(dim: int, grid: tuple[int, int]) -> Tensor:
    """Fixed positions (1, 1+L, dim): a zero row for cls, then [sin x, cos x, sin y, cos y], a quarter of dim each."""
    frequency = 10000 ** -(np.arange(dim // 4, dtype=np.float64) / (dim / 4))
    rows = [np.zeros(dim)]
    for y in range(grid[0]):
        for x in range(grid[1]):
            angles = x * frequency, y * frequency
            rows.append(np.concatenate([f(a) for a in angles for f in (np.sin, np.cos)]))
    return torch.from_numpy(np.stack(rows)).float().unsqueeze(0)


def pixel_error(loss, pred, target, mean, std):
    """The error of each number of predicted patches (B, L, P); target: normalised pixels."""
    if loss == "bce":  # pred are logits of pixels in 0..1
        mean, std = (torch.tensor(v).repeat(pred.shape[-1] // len(v)).to(target) for v in (mean, std))
        target = (target * std + mean).clamp(0, 1)
    names = {
        "mse": "mse_loss",
        "l1": "l1_loss",
        "smooth_l1": "smooth_l1_loss",
        "bce": "binary_cross_entropy_with_logits",
    }
    return getattr(nn.functional, names[loss])(pred.to(target.dtype), target, reduction="none")


class Attention(nn.Module):
    def __init__(self, dim, num_heads):
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        return self.proj(attention(self.qkv(x).unflatten(-1, (3, self.num_heads, -1))))


class Block(nn.Module):
    def __init__(self, dim, num_heads, hidden, norm_layer):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads)
        self.norm2 = norm_layer(dim)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(dim, hidden), gelu=nn.GELU(), fc2=nn.Linear(hidden, dim)))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MaskedAutoencoderViT(nn.Module):
    """The Masked Autoencoder as in the paper. Arguments and state dict as `mae_fast.MaskedAutoencoderViT`."""

    def __init__(self, img_size=224, patch_size=16, in_chans=3, embed_dim=1024, depth=24, num_heads=16,
                 decoder_embed_dim=512, decoder_depth=8, decoder_num_heads=16, mlp_ratio=4.0,
                 norm_layer=partial(nn.LayerNorm, eps=1e-6), norm_pix_loss=False, *, decoder_mlp_ratio=None,
                 mean=None, std=None, loss="mse"):  # fmt: skip
        super().__init__()
        mean = mean or (IMAGENET_MEAN if in_chans == 3 else (0.5,) * in_chans)
        std = std or (IMAGENET_STD if in_chans == 3 else (0.5,) * in_chans)
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.grid = grid = height // patch_size, width // patch_size
        self.patch_size, self.mean, self.std, self.norm_pix_loss = patch_size, mean, std, norm_pix_loss
        self.loss = loss
        hidden, decoder_hidden = int(embed_dim * mlp_ratio), int(decoder_embed_dim * (decoder_mlp_ratio or mlp_ratio))

        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(sincos_2d(embed_dim, grid), requires_grad=False)
        self.blocks = nn.Sequential(*(Block(embed_dim, num_heads, hidden, norm_layer) for _ in range(depth)))
        self.norm = norm_layer(embed_dim)
        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(sincos_2d(decoder_embed_dim, grid), requires_grad=False)
        self.decoder_blocks = nn.Sequential(
            *(Block(decoder_embed_dim, decoder_num_heads, decoder_hidden, norm_layer) for _ in range(decoder_depth))
        )
        self.decoder_norm = norm_layer(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_chans)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def patchify(self, imgs):
        return patchify(imgs, self.patch_size)

    def unpatchify(self, x):
        return unpatchify(x, self.patch_size, self.grid)

    def embed(self, imgs):
        """All patches with their positions: (B, L, D)."""
        if imgs.dtype == torch.uint8:
            imgs = normalize(imgs, self.mean, self.std).to(self.pos_embed.dtype)
        return self.patch_embed.proj(imgs).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]

    def encoder(self, x):
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.norm(self.blocks(torch.cat([cls, x], dim=1)))

    def forward_encoder(self, imgs, mask_ratio, noise=None):
        x = self.embed(imgs)
        noise = torch.rand(x.shape[:2], device=x.device) if noise is None else noise
        len_keep = int(x.shape[1] * (1 - mask_ratio))
        ids_shuffle, ids_restore, mask = random_masking(noise, len_keep)
        return self.encoder(take(x, ids_shuffle[:, :len_keep])), mask, ids_restore

    def forward_decoder(self, latent, ids_restore):
        x = unshuffle(self.decoder_embed(latent), self.mask_token, self.decoder_pos_embed, ids_restore)
        return self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))[:, 1:]

    def forward_loss(self, imgs, pred, mask):
        target = self.patchify(normalize(imgs, self.mean, self.std))
        if self.norm_pix_loss:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (pixel_error(self.loss, pred, target, self.mean, self.std).mean(-1) * mask).sum() / mask.sum()

    def forward(self, imgs, mask_ratio=0.75, noise=None):
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio, noise)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask

    def training_loss(self, imgs, mask_ratio=0.75, noise=None):
        return self(imgs, mask_ratio, noise)[0]

    def encode(self, imgs):
        return self.encoder(self.embed(imgs))
