"""A stand-in for a clone of facebookresearch/mae, whose code imports an old timm."""

# Stands in for facebookresearch/mae: wants the same two classes of timm and the alias that NumPy dropped.
CLONE = {
    "util/pos_embed.py": """
import numpy as np

def zeros(n):
    return np.zeros(n, dtype=np.float)
""",
    "models_mae.py": """
import torch
from timm.models.vision_transformer import Block, PatchEmbed
from torch import nn
from util.pos_embed import zeros

from mae_fast.reference import MaskedAutoencoderViT as Naive

class MaskedAutoencoderViT(Naive):
    def __init__(self, img_size, patch_size, embed_dim, depth, num_heads, mlp_ratio, norm_layer, **rest):
        super().__init__(img_size, patch_size, 3, embed_dim, depth, num_heads, norm_layer=norm_layer, **rest)
        self.patch_embed = PatchEmbed(img_size, patch_size, 3, embed_dim)
        self.blocks = nn.Sequential(*(
            Block(embed_dim, num_heads, mlp_ratio, qkv_bias=True, qk_scale=None, norm_layer=norm_layer)
            for _ in range(depth)
        ))
        self.cls_token.data += torch.from_numpy(zeros(embed_dim)).float()
""",
}
