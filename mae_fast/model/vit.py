"""The classifier that a pretrained encoder is finetuned or probed as. Its official names: mae_fast.models_vit."""

import math

import torch
from torch import Tensor, nn

from mae_fast import ops
from mae_fast.model.attention import attention_named
from mae_fast.model.blocks import Block, PatchEmbed, run_blocks
from mae_fast.model.linear import is_plain
from mae_fast.model.precision import compute_dtype
from mae_fast.pixels import Pixels


def trunc_normal_(x: Tensor, std: float) -> None:
    """Fill with normal(std) cut off at -2 and 2, by the inverse distribution function: timm's draws.

    nn.init.trunc_normal_ of PyTorch 2.13 draws other numbers from the same seed.
    """
    bound = math.erf(2 / (std * math.sqrt(2)))
    with torch.no_grad():
        x.uniform_(-bound, bound).erfinv_().mul_(std * math.sqrt(2)).clamp_(-2, 2)


class DropPath(nn.Module):
    """Stochastic depth (Huang et al. 2016): in training, zero a branch for whole images, scale up what is left.

    One torch.rand of the branch's type per image and call: the draws of timm.
    """

    def __init__(self, drop_prob: float):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.drop_prob
        return x / keep * self.kept(x)

    def kept(self, x: Tensor) -> Tensor:
        """Draw whether each image keeps its branch x (B, ...): 1 or 0, in the type of x, as (B, 1, ...)."""
        drawn = torch.rand(len(x), *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device)
        return (1 - self.drop_prob + drawn).floor()


class DropPathBlock(Block):
    """The pretraining block, with stochastic depth on both branches."""

    def __init__(self, dim: int, num_heads: int, hidden: int, norm_layer, attention, drop_path: float):
        super().__init__(dim, num_heads, hidden, norm_layer, attention)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def branch(self, module: nn.Module, cls: type, *args) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As in Block, with what drop path draws as the scale."""
        drop = self.drop_path
        if is_plain(drop, nn.Identity) or (is_plain(drop, DropPath) and not drop.training):
            return super().branch(module, cls, *args)
        if not is_plain(drop, DropPath):  # another module in its place, or somebody looks at what it gives
            return drop(module(*args)), None, None
        y, bias, _ = super().branch(module, cls, *args)
        kept = drop.kept(y).flatten()
        return y, bias, kept.to(torch.promote_types(torch.float32, y.dtype)) / (1 - drop.drop_prob)


class VisionTransformer(nn.Module):
    """Vision Transformer for classification: images -> logits (B, num_classes).

    Images are float (B, C, H, W), normalised, or uint8 (B, H, W, C), normalised here by mean and std.
    global_pool: classify the norm (fc_norm) of the mean patch, as finetuning does, instead of the class token of the
    normed sequence (norm), as linear probing does. drop_path_rate: that of the last block; it grows linearly from 0.
    num_classes 0: no head, features (B, D). The other arguments as in `mae_fast.MaskedAutoencoderViT`.
    Source: He et al. 2022, appendix A.1.
    """

    def __init__(
        self,
        global_pool: bool = False,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_path_rate: float = 0.0,
        norm_layer=nn.LayerNorm,
        *,
        mean: tuple[float, ...] | None = None,
        std: tuple[float, ...] | None = None,
        pixel_type: str = "uint8",
        value_range: tuple[float, float] | None = None,
        attention: str = "auto",
    ):
        super().__init__()
        if not qkv_bias:
            raise ValueError("qkv_bias: only True; every Masked Autoencoder has these biases")
        img_size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.num_classes, self.global_pool, self.in_chans = num_classes, global_pool, in_chans
        self.pixels = Pixels(in_chans, pixel_type, value_range, mean, std)
        self.mean, self.std = list(self.pixels.mean), list(self.pixels.std)
        self.num_features = self.embed_dim = embed_dim
        hidden, attend = int(embed_dim * mlp_ratio), attention_named(attention)

        self.patch_embed = PatchEmbed(img_size, patch_size, in_chans, embed_dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + self.patch_embed.num_patches, embed_dim))
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()  # float32, as in timm
        self.blocks = nn.ModuleList(
            DropPathBlock(embed_dim, num_heads, hidden, norm_layer, attend, rate) for rate in rates
        )
        norm = norm_layer(embed_dim)
        if not global_pool:
            self.norm = norm
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.initialize_weights()
        if global_pool:
            self.fc_norm = norm

    def initialize_weights(self) -> None:
        """Normal(0.02) matrices, positions and class token, cut off at 2; zero biases: timm's draws, in its order."""
        trunc_normal_(self.pos_embed, std=0.02)
        trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed", "cls_token"}

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str = "") -> None:
        """A fresh head; global_pool is there for timm's signature and has no effect there either."""
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """-> what the head sees: (B, D)."""
        if x.dtype == torch.uint8:
            self.patch_embed.check(x)
            p, dtype = self.patch_embed.patch_size[0], compute_dtype(x.device, torch.float32)
            x = ops.gather_patches(x, self.patch_embed.all_ids(x), p, self.mean, self.std, dtype)
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        x = run_blocks(self.blocks, x).sum()
        return self.fc_norm(x[:, 1:].mean(dim=1)) if self.global_pool else self.norm(x)[:, 0]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.forward_features(x))
