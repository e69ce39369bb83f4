"""Runs a script from a clone of facebookresearch/mae under today's libraries: run_official.py MODELS SCRIPT ARGS.

The scripts were written for PyTorch 1.7 to 1.12, timm 0.3.2 and a GPU. What they miss since then is put back here, in
the libraries and not in the scripts. MODELS, the module that SCRIPT takes its models from, also gets a tiny one, under
the name "mae_vit_tiny_patch8".
"""

import argparse
import collections.abc
import contextlib
import importlib
import math
import random
import runpy
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from mae_fast.config import TINY

_, models, script, *_ = sys.argv
sys.argv = sys.argv[2:]
sys.path[0] = str(Path(script).parent)

# Gone from PyTorch (util/misc.py, timm) and from NumPy (util/pos_embed.py).
six = ModuleType("torch._six")
six.inf, six.container_abcs = math.inf, collections.abc
sys.modules[six.__name__] = six
np.float = float

# torch.load reads weights only by default, and the official checkpoints hold this too.
torch.serialization.add_safe_globals([argparse.Namespace])

# torchvision beside another build of PyTorch than its own lacks its operators, which its import needs declared.
with contextlib.suppress(RuntimeError):  # declared already: its own build
    for op in ("nms", "qnms"):
        torch.library.define(f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
functional = importlib.import_module("torchvision.transforms.functional")
functional._get_image_size = functional.get_image_size  # its old name (util/crop.py)

if not torch.cuda.is_available():
    torch.cuda.synchronize = lambda *args: None  # the training engines call it after every step

# timm's augmentations draw from Python's generator, which the scripts do not seed.
random.seed(0)

module = importlib.import_module(models)
if hasattr(module, "MaskedAutoencoderViT"):
    build, sizes = module.MaskedAutoencoderViT, TINY.kwargs()
else:
    build, sizes = module.VisionTransformer, {k: v for k, v in TINY.kwargs().items() if not k.startswith("decoder_")}
    sizes["qkv_bias"] = True
module.mae_vit_tiny_patch8 = partial(build, **sizes, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6))

runpy.run_path(script, run_name="__main__")
