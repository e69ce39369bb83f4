"""The models_vit module of facebookresearch/mae: the classifier that a pretrained encoder is finetuned or probed as.

    from mae_fast import models_vit

in place of `import models_vit` is the whole change to main_finetune.py and main_linprobe.py. Parameters, their names,
order and initial draws are those of that file over timm 0.3.2.
"""

from functools import partial

from torch import nn

from mae_fast import config
from mae_fast.model.vit import VisionTransformer


def _constructor(preset: config.Preset) -> partial:
    encoder = {name: value for name, value in preset.kwargs().items() if not name.startswith("decoder_")}
    return partial(VisionTransformer, **encoder, norm_layer=partial(nn.LayerNorm, eps=1e-6))


vit_small_patch16 = _constructor(config.SMALL)  # ours: the official file has no Small
vit_base_patch16 = _constructor(config.BASE)
vit_large_patch16 = _constructor(config.LARGE)
vit_huge_patch14 = _constructor(config.HUGE)
