"""What a Masked Autoencoder knows of pixels: patches, errors of predictions, and pictures put together again."""

import torch
from torch import Tensor, nn

from mae_fast import ops
from mae_fast.model.losses import PIXEL_LOSSES, from_unit, to_unit


class Reconstruction(nn.Module):
    """Methods of `MaskedAutoencoderViT`, whose attributes they read."""

    def patchify(self, imgs: Tensor) -> Tensor:
        """Images -> (B, L, P), normalised, patches row by row, each laid out (p, q, c)."""
        self.patch_embed.check(imgs)
        dtype = imgs.dtype if imgs.is_floating_point() else torch.float32
        p, ids = self.patch_embed.patch_size[0], self.patch_embed.all_ids(imgs)
        return ops.gather_patches(imgs, ids, p, self.mean, self.std, dtype)

    def unpatchify(self, x: Tensor) -> Tensor:
        """(B, L, P) -> (B, C, H, W), the inverse of patchify."""
        (p, _), (h, w), C = self.patch_embed.patch_size, self.patch_embed.grid_size, self.in_chans
        if x.dim() != 3 or x.shape[1:] != (h * w, p * p * C):
            raise ValueError(f"x: expected patches (B, {h * w}, {p * p * C}), got {tuple(x.shape)}")
        return x.reshape(-1, h, w, p, p, C).permute(0, 5, 1, 3, 2, 4).reshape(-1, C, h * p, w * p)

    def masked_loss(self, imgs: Tensor, pred: Tensor, ids: Tensor) -> Tensor:
        """The model's loss over the patches ids (B, K); pred (B, K, P), or (B, L, P) in image order -> a scalar."""
        p, loss = self.patch_embed.patch_size[0], PIXEL_LOSSES[self.loss]
        return loss.masked(pred, imgs, ids, p, self.mean, self.std, self.norm_pix_loss)

    def forward_loss(self, imgs: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """The model's loss of pred (B, L, P) over the patches where mask (B, L) is 1; any mask, any weights."""
        if not torch.compiler.is_compiling() and not mask.any():
            raise ValueError("mask: no patch is masked, so the loss would be 0 / 0")
        target = self.patchify(imgs).to(torch.promote_types(imgs.dtype, torch.float32))
        if self.norm_pix_loss:
            target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
        if self.loss == "bce":
            target, pred = to_unit(target, self.mean, self.std), pred.to(target.dtype)
        return (PIXEL_LOSSES[self.loss].each(pred, target).mean(-1) * mask).sum() / mask.sum()

    def to_pixels(self, pred: Tensor, target: Tensor) -> Tensor:
        """Predictions -> normalised pixels, (B, K, P) both, as `patchify` gives them; target: the true ones.

        Predictions of norm_pix_loss are brought back with the mean and the variance of the true patch; those of loss
        bce are logits.
        """
        pred = pred.to(target.dtype)
        if self.norm_pix_loss:
            return pred * (target.var(-1, keepdim=True) + 1e-6).sqrt() + target.mean(-1, keepdim=True)
        return from_unit(pred.sigmoid(), self.mean, self.std) if self.loss == "bce" else pred

    def paste(self, imgs: Tensor, pred: Tensor, ids: Tensor) -> Tensor:
        """Images with the patches ids (B, K) replaced by what pred (B, K, P) says of them: float (B, C, H, W),
        normalised. Gradients go to pred."""
        patches = self.patchify(imgs)
        patches = patches.to(torch.promote_types(patches.dtype, torch.float32))
        at = ids.unsqueeze(-1).expand(-1, -1, patches.shape[2])
        return self.unpatchify(patches.scatter(1, at, self.to_pixels(pred, patches.gather(1, at))))
