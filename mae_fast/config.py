"""What is fixed: the published model sizes and pixel statistics, and the names of the types."""

from dataclasses import asdict, dataclass

import torch

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Types that matrix products compute in, by the names that flags and tables use.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Types of the residual stream; None is left to mae_fast.model.precision.
STREAMS = {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}

# Errors of predicted pixels, and ways to draw masks.
LOSSES = ("mse", "l1", "smooth_l1", "bce")
MASKS = ("random", "block", "grid")


def dtype_name(dtype: torch.dtype) -> str:
    """torch.bfloat16 -> "bfloat16"."""
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True)
class Preset:
    """One published size. Base, Large and Huge: He et al. 2022, table 1 and appendix A; Small: the standard ViT-S."""

    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    mlp_ratio: float = 4.0

    def kwargs(self) -> dict:
        return asdict(self)


SMALL = Preset(patch_size=16, embed_dim=384, depth=12, num_heads=6)
BASE = Preset(patch_size=16, embed_dim=768, depth=12, num_heads=12)
LARGE = Preset(patch_size=16, embed_dim=1024, depth=24, num_heads=16)
HUGE = Preset(patch_size=14, embed_dim=1280, depth=32, num_heads=16)

# Ours, not the paper's: learns something in minutes on two CPU cores, for demonstrations and tests of the whole path.
TINY = Preset(
    patch_size=8, embed_dim=96, depth=3, num_heads=3, decoder_embed_dim=64, decoder_depth=2, decoder_num_heads=2
)

# The names of the official release's constructors; `--model` takes these.
PRESETS = {
    "mae_vit_small_patch16": SMALL,
    "mae_vit_base_patch16": BASE,
    "mae_vit_large_patch16": LARGE,
    "mae_vit_huge_patch14": HUGE,
}
PRESETS |= {f"{name}_dec512d8b": preset for name, preset in PRESETS.items()}
PRESETS["mae_vit_tiny_patch8"] = TINY

# By size alone, as benchmarks and checks take them.
SIZES = {"tiny": TINY, "small": SMALL, "base": BASE, "large": LARGE, "huge": HUGE}

# The names of main_finetune.py's and main_linprobe.py's models; as --model they are also taken with mae_ before them.
CLASSIFIERS = ("vit_large_patch16", "vit_base_patch16", "vit_huge_patch14", "vit_small_patch16", "vit_tiny_patch8")
CLASSIFIERS += tuple(f"mae_{name}" for name in CLASSIFIERS)
