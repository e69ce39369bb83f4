"""The fast Masked Autoencoder: the names, arguments and state dict of the official release (He et al. 2022).

Shapes in suffixes: B images, L patches, K visible patches, P = p*p*C pixels of a patch, N tokens, D width.
"""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae_fast import config, ops
from mae_fast.model import masking
from mae_fast.model.attention import attention_named
from mae_fast.model.blocks import Block, PatchEmbed, check_sizes, run_blocks
from mae_fast.model.losses import check_loss
from mae_fast.model.positions import sincos_2d
from mae_fast.model.precision import compute_dtype, stream_dtype
from mae_fast.model.reconstruction import Reconstruction
from mae_fast.model.stream import Stream, add_norm
from mae_fast.pixels import Pixels


class MaskedAutoencoderViT(Reconstruction):
    """Masked Autoencoder with a Vision Transformer backbone.

    img_size: pixels, an int or (height, width); patch_size divides both. mean, std: per channel, of pixels in 0..1,
    used for uint8 images alone (default ImageNet's for three channels, else 0.5). pixel_type, value_range: of values in
    the files it was trained on, for those who open pictures for it (mae_fast.pixels). loss: the error of predicted
    pixels, a key of mae_fast.model.losses.PIXEL_LOSSES. attention: who computes it, a key of
    mae_fast.model.attention.ATTENTION. draw_noise: what masks are drawn from, see mae_fast.model.masking.
    Images are float (B, C, H, W), normalised, or uint8 (B, H, W, C), straight from a loader.
    """

    activation_checkpointing = False  # keep each block's input alone for the backward pass, which runs the block again
    stream: torch.dtype | None = None  # type of the residual stream, see mae_fast.model.precision

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
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        norm_pix_loss: bool = False,
        *,
        decoder_mlp_ratio: float | None = None,  # default: mlp_ratio
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        pixel_type: str = "uint8",
        value_range: tuple[float, float] | None = None,  # default: by pixel_type
        loss: str = "mse",
        attention: str = "auto",
        draw_noise: Callable = masking.uniform,
    ):
        super().__init__()
        attend = attention_named(attention)
        img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        check_sizes(img_size, patch_size, embed_dim, num_heads, decoder_embed_dim, decoder_num_heads)
        self.pixels = Pixels(in_chans, pixel_type, value_range, mean, std)
        self.mean, self.std = list(self.pixels.mean), list(self.pixels.std)
        check_loss(loss, norm_pix_loss)
        self.in_chans, self.norm_pix_loss, self.loss, self.draw_noise = in_chans, norm_pix_loss, loss, draw_noise
        self.missing_decoder_keys: tuple[str, ...] = ()  # set by load_pretrained for an encoder-only checkpoint
        hidden, decoder_hidden = int(embed_dim * mlp_ratio), int(decoder_embed_dim * (decoder_mlp_ratio or mlp_ratio))

        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        grid = self.patch_embed.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(sincos_2d(embed_dim, grid), requires_grad=False)
        self.blocks = nn.ModuleList(Block(embed_dim, num_heads, hidden, norm_layer, attend) for _ in range(depth))
        self.norm = norm_layer(embed_dim)

        self.decoder_embed = nn.Linear(embed_dim, decoder_embed_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_embed_dim))
        self.decoder_pos_embed = nn.Parameter(sincos_2d(decoder_embed_dim, grid), requires_grad=False)
        self.decoder_blocks = nn.ModuleList(
            Block(decoder_embed_dim, decoder_num_heads, decoder_hidden, norm_layer, attend)
            for _ in range(decoder_depth)
        )
        self.decoder_norm = norm_layer(decoder_embed_dim)
        self.decoder_pred = nn.Linear(decoder_embed_dim, patch_size**2 * in_chans)
        self.initialize_weights()

    def initialize_weights(self) -> None:
        """Xavier-uniform matrices, zero biases, normal(0.02) tokens: the official draws, in the official order."""
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.data.flatten(1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward_encoder(self, imgs: Tensor, mask_ratio: float, noise: Tensor | None = None):
        """-> latent (B, 1+K, D), mask (B, L) with 1 = removed, ids_restore (B, L)."""
        ids_shuffle, ids_restore, mask, len_keep = self._draw_mask(imgs, mask_ratio, noise)
        return self.norm(self._encoder(imgs, ids_shuffle[:, :len_keep]).sum()), mask, ids_restore

    def forward_decoder(self, latent: Tensor, ids_restore: Tensor) -> Tensor:
        """latent (B, 1+K, D), ids_restore (B, L) -> predicted pixels of every patch, in image order: (B, L, P)."""
        self.require_decoder()
        x = ops.unshuffle(self.decoder_embed(latent), self.mask_token, self.decoder_pos_embed, ids_restore)
        return self.decoder_pred(add_norm(self._run(self.decoder_blocks, x), self.decoder_norm)[1])[:, 1:]

    def forward(self, imgs: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None):
        """-> loss (scalar), pred (B, L, P) in image order, mask (B, L) with 1 = removed.

        noise (B, L): the patches with the lowest noise are kept; drawn from torch's generator when None.
        """
        ids_shuffle, ids_restore, mask, len_keep = self._draw_mask(imgs, mask_ratio, noise, for_loss=True)
        latent = add_norm(self._encoder(imgs, ids_shuffle[:, :len_keep]), self.norm)[1]
        pred = self.forward_decoder(latent, ids_restore)
        # With nothing kept, pred has as many rows as ids, and masked_mse would take them in the order of ids.
        ids_masked = ids_shuffle[:, len_keep:] if len_keep else ids_restore.sort(dim=1).values
        return self.masked_loss(imgs, pred, ids_masked), pred, mask

    def training_loss(self, imgs: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None) -> Tensor:
        """The loss of `forward`, same number and gradients, without what training throws away.

        Several masks of each image: noise (k * B, L), of image b in the rows b, B + b, ..; the mean of their losses.
        """
        pred, ids = self.predict_masked(imgs, mask_ratio, noise)
        pairs = zip(masking.of_each(pred, len(imgs)), masking.of_each(ids, len(imgs)), strict=True)
        losses = [self.masked_loss(imgs, *pair) for pair in pairs]
        return losses[0] if len(losses) == 1 else torch.stack(losses).mean()

    def predict_masked(
        self, imgs: Tensor, mask_ratio: float = 0.75, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """-> predictions of the masked patches alone, (B, K, P), and which those are, ids (B, K).

        noise as in `training_loss`: of several masks of each image the results are in the order of its rows.
        The decoder runs in [cls, visible, masked] order with positions to match: attention does not see the order, so
        nothing is unshuffled, and the rows to predict are one slice, the only one that the last block computes after
        its attention.
        """
        self.require_decoder()
        ids_shuffle, _, _, len_keep = self._draw_mask(imgs, mask_ratio, noise, for_loss=True, several=True)
        latent = add_norm(self._encoder(imgs, ids_shuffle[:, :len_keep]), self.norm)[1]
        visible, masks = self.decoder_embed(latent), len(ids_shuffle)
        masked = self.mask_token.to(visible.dtype).expand(masks, ids_shuffle.shape[1] - len_keep, -1)
        cls_pos, patch_pos = self.decoder_pos_embed[:, :1], self.decoder_pos_embed[0, 1:]
        positions = torch.cat([cls_pos.expand(masks, -1, -1), F.embedding(ids_shuffle, patch_pos)], dim=1)
        x = torch.cat([visible, masked], dim=1) + positions
        pred = self.decoder_pred(add_norm(self._run(self.decoder_blocks, x, 1 + len_keep), self.decoder_norm)[1])
        return pred, ids_shuffle[:, len_keep:]

    def encode(self, imgs: Tensor, layer: int | None = None) -> Tensor:
        """Features of the whole image, nothing masked: (B, 1+L, D), cls first, then patches in image order.

        layer: None for those after the last block and its norm; N for those after N blocks, without a norm.
        """
        self.patch_embed.check(imgs)
        if layer is not None and not 0 <= layer <= len(self.blocks):
            raise ValueError(f"layer: expected 0 to {len(self.blocks)}, the blocks of this encoder; got {layer}")
        x = self._encoder(imgs, self.patch_embed.all_ids(imgs), layer).sum()
        return self.norm(x) if layer is None else x

    def _draw_mask(self, imgs: Tensor, mask_ratio: float, noise: Tensor | None, for_loss=False, several=False):
        self.patch_embed.check(imgs)
        noise, grid = self.draw_noise if noise is None else noise, self.patch_embed.grid_size
        *drawn, len_keep = masking.draw_mask(noise, len(imgs), grid, imgs.device, mask_ratio, several)
        if for_loss and len_keep == self.patch_embed.num_patches:
            raise ValueError(
                f"mask_ratio: {mask_ratio} masks none of {len_keep} patches, so the loss would be 0 / 0; "
                "use forward_encoder or encode for features of whole images"
            )
        return *drawn, len_keep

    def _encoder(self, imgs: Tensor, ids_BK: Tensor, layer: int | None = None) -> Stream:
        """The patches `ids` of each image -> (B, 1+K, D), after so many blocks, or all, before the norm.

        ids (k B, K) of k masks of each image -> k B rows.
        """
        dtype = compute_dtype(imgs.device, self.patch_embed.proj.weight.dtype)
        p, sets = self.patch_embed.patch_size[0], masking.of_each(ids_BK, len(imgs))
        patches = [ops.gather_patches(imgs, ids, p, self.mean, self.std, dtype) for ids in sets]
        patches = patches[0] if len(patches) == 1 else torch.cat(patches)
        x = self.patch_embed(patches) + F.embedding(ids_BK, self.pos_embed[0, 1:])
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(x), -1, -1)
        return self._run(self.blocks[:layer], torch.cat([cls, x], dim=1))

    def _run(self, blocks: nn.ModuleList, x_BND: Tensor, first: int = 0) -> Stream:
        parameters, device = self.cls_token.dtype, x_BND.device
        dtype = stream_dtype(self.stream, parameters, compute_dtype(device, parameters), device)
        return run_blocks(blocks, x_BND.to(dtype), first, self.activation_checkpointing)

    def require_decoder(self) -> None:
        """ValueError where the decoder was never loaded (`load_pretrained` of an encoder-only checkpoint)."""
        if self.missing_decoder_keys:
            keys = self.missing_decoder_keys
            raise ValueError(
                "model: this one was loaded from an encoder-only checkpoint and cannot reconstruct: the file has no "
                "decoder, as those of finetuned classifiers and of timm have none. It lacks "
                f"{len(keys)} decoder keys, {keys[0]} to {keys[-1]} (model.missing_decoder_keys). "
                "Load the checkpoint of the pretraining, or train a new decoder with init_from"
            )


# The official constructors. dec512d8b: a decoder 512 wide, 8 blocks deep.
mae_vit_small_patch16_dec512d8b = partial(MaskedAutoencoderViT, **config.SMALL.kwargs())
mae_vit_base_patch16_dec512d8b = partial(MaskedAutoencoderViT, **config.BASE.kwargs())
mae_vit_large_patch16_dec512d8b = partial(MaskedAutoencoderViT, **config.LARGE.kwargs())
mae_vit_huge_patch14_dec512d8b = partial(MaskedAutoencoderViT, **config.HUGE.kwargs())

mae_vit_small_patch16 = mae_vit_small_patch16_dec512d8b
mae_vit_base_patch16 = mae_vit_base_patch16_dec512d8b
mae_vit_large_patch16 = mae_vit_large_patch16_dec512d8b
mae_vit_huge_patch14 = mae_vit_huge_patch14_dec512d8b
