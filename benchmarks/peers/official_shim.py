"""Loads models_mae.py from a user's unmodified clone of facebookresearch/mae, under today's PyTorch and NumPy.

That file wants timm 0.3.2, which no longer imports, and NumPy's old `np.float`. Here are the two classes that it takes
from timm, with the parameters, names and arithmetic of that release, and a way to load the file with them in place.
Nothing of the official code is in this project (CC BY-NC); nothing of the clone is changed.
"""

import importlib.util
import sys
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import numpy as np
from torch import nn

PRIVATE = "_mae_fast_official"  # the clone's modules stay importable under this name: torch.compile looks them up


class PatchEmbed(nn.Module):
    def __init__(self, img_size=224, patch_size=16, in_chans=3, embed_dim=768):
        super().__init__()
        self.img_size, self.patch_size = (img_size, img_size), (patch_size, patch_size)
        self.num_patches = (img_size // patch_size) ** 2
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, x):
        if x.shape[-2:] != self.img_size:
            raise ValueError(f"x: expected images of {self.img_size} pixels, got {tuple(x.shape)}")
        return self.proj(x).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self, dim, num_heads=8, qkv_bias=False, qk_scale=None):
        super().__init__()
        self.num_heads = num_heads
        self.fused_attn = False
        self.scale = qk_scale or (dim // num_heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        """Attention spelled out, as that release has it. Today's timm has `fused_attn`."""
        B, N, D = x.shape
        q, k, v = self.qkv(x).reshape(B, N, 3, self.num_heads, D // self.num_heads).permute(2, 0, 3, 1, 4)
        if self.fused_attn:
            return self.proj(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D))
        probs = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        return self.proj((probs @ v).transpose(1, 2).reshape(B, N, D))


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """Dropout and stochastic depth, which that release also has and the official model leaves at zero, are left out."""

    def __init__(self, dim, num_heads, mlp_ratio=4.0, qkv_bias=False, qk_scale=None, norm_layer=nn.LayerNorm):
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.attn = Attention(dim, num_heads, qkv_bias, qk_scale)
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def load(directory: Path) -> ModuleType:
    """The clone's models_mae module. FileNotFoundError names what is missing."""
    for file in (directory / "models_mae.py", directory / "util" / "pos_embed.py"):
        if not file.is_file():
            raise FileNotFoundError(f"no {file.name} in {file.parent}")
    numpy = ModuleType("numpy")  # for pos_embed.py alone: NumPy with the alias that it dropped in 1.24
    vars(numpy).update(vars(np), float=float)
    vision_transformer = _module("timm.models.vision_transformer", PatchEmbed=PatchEmbed, Block=Block)
    with _in_place(_module("timm"), _module("timm.models"), vision_transformer, _module("util")):
        pos_embed = _execute(directory / "util" / "pos_embed.py", f"{PRIVATE}_pos_embed")
        pos_embed.np = numpy
        with _in_place(pos_embed, names=["util.pos_embed"]):
            return _execute(directory / "models_mae.py", f"{PRIVATE}_models_mae")


def _module(name: str, **content) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


@contextmanager
def _in_place(*modules: ModuleType, names: list[str] | None = None):
    """sys.modules holds these, under their own names or the ones given, and afterwards whatever it held before."""
    names = names or [module.__name__ for module in modules]
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(zip(names, modules, strict=True))
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _execute(file: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
