"""The models_mae module of facebookresearch/mae: its names, signatures and defaults, over the fast model.

    from mae_fast import models_mae

in place of `import models_mae` is the whole change to main_pretrain.py, to the demo notebook, and to code that derives
from the class: a subclass that overrides a piece of the model is run piece by piece, as there.
"""

from functools import partial

import torch
from torch import Tensor, nn

from mae_fast import config, model, ops
from mae_fast.model import masking


class MaskedAutoencoderViT(model.MaskedAutoencoderViT):
    """`mae_fast.MaskedAutoencoderViT` with the official defaults (LayerNorm's own eps, 1e-5) and argument names.

    ours: decoder_mlp_ratio, mean, std, attention, draw_noise, as in `mae_fast.MaskedAutoencoderViT`.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 1024,
        depth: int = 24,
        num_heads: int = 16,
        decoder_embed_dim: int = 512,
        decoder_depth: int = 8,
        decoder_num_heads: int = 16,
        mlp_ratio: float = 4.0,
        norm_layer=nn.LayerNorm,
        norm_pix_loss: bool = False,
        **ours,
    ):
        super().__init__(
            img_size, patch_size, in_chans, embed_dim, depth, num_heads, decoder_embed_dim, decoder_depth,
            decoder_num_heads, mlp_ratio, norm_layer, norm_pix_loss, **ours,
        )  # fmt: skip

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        own = {name for name in _PIECES if getattr(cls, name) is not getattr(MaskedAutoencoderViT, name)}
        cls._overrides_masking, cls._overrides_pieces = "random_masking" in own, bool(own)

    _overrides_masking = _overrides_pieces = False

    def random_masking(self, x: Tensor, mask_ratio: float) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, L, D) -> the kept rows (B, K, D), mask (B, L) with 1 = removed, ids_restore (B, L)."""
        B, L, D = x.shape
        len_keep = int(L * (1 - mask_ratio))
        ids_shuffle, ids_restore, mask = ops.random_masking(masking.uniform(B, (1, L), x.device), len_keep)
        return x.gather(1, ids_shuffle[:, :len_keep, None].expand(-1, -1, D)), mask, ids_restore

    def forward_encoder(self, x: Tensor, mask_ratio: float, noise: Tensor | None = None):
        """Images x -> latent (B, 1+K, D), mask (B, L) with 1 = removed, ids_restore (B, L)."""
        if not self._overrides_masking:
            return super().forward_encoder(x, mask_ratio, noise)
        if noise is not None:
            raise ValueError("noise: this model's own random_masking draws the mask, from no noise that is given")
        x = self.patch_embed(x) + self.pos_embed[:, 1:]
        x, mask, ids_restore = self.random_masking(x, mask_ratio)
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self.norm(self._run(self.blocks, torch.cat([cls, x], dim=1)).sum()), mask, ids_restore

    def forward_decoder(self, x: Tensor, ids_restore: Tensor) -> Tensor:
        """Latent x (B, 1+K, D), ids_restore (B, L) -> predicted pixels of every patch, in image order: (B, L, P)."""
        return super().forward_decoder(x, ids_restore)

    def forward(self, imgs: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None):
        """-> loss (scalar), pred (B, L, P) in image order, mask (B, L) with 1 = removed."""
        if not self._overrides_pieces:
            return super().forward(imgs, mask_ratio, noise)
        given = () if noise is None else (noise,)  # an overriding forward_encoder may not know it
        latent, mask, ids_restore = self.forward_encoder(imgs, mask_ratio, *given)
        pred = self.forward_decoder(latent, ids_restore)
        return self.forward_loss(imgs, pred, mask), pred, mask

    def training_loss(self, imgs: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None) -> Tensor:
        if not self._overrides_pieces:
            return super().training_loss(imgs, mask_ratio, noise)
        return self.forward(imgs, mask_ratio, noise)[0]


_PIECES = ("patchify", "random_masking", "forward_encoder", "forward_decoder", "forward_loss")


NORM = partial(nn.LayerNorm, eps=1e-6)  # of the named sizes

mae_vit_small_patch16_dec512d8b = partial(MaskedAutoencoderViT, **config.SMALL.kwargs(), norm_layer=NORM)  # ours
mae_vit_base_patch16_dec512d8b = partial(MaskedAutoencoderViT, **config.BASE.kwargs(), norm_layer=NORM)
mae_vit_large_patch16_dec512d8b = partial(MaskedAutoencoderViT, **config.LARGE.kwargs(), norm_layer=NORM)
mae_vit_huge_patch14_dec512d8b = partial(MaskedAutoencoderViT, **config.HUGE.kwargs(), norm_layer=NORM)

mae_vit_small_patch16 = mae_vit_small_patch16_dec512d8b
mae_vit_base_patch16 = mae_vit_base_patch16_dec512d8b
mae_vit_large_patch16 = mae_vit_large_patch16_dec512d8b
mae_vit_huge_patch14 = mae_vit_huge_patch14_dec512d8b
