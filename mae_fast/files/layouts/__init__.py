"""What checkpoints of other codebases call things: their keys and their configuration, read and written.

"Official" is the layout of facebookresearch/mae, which is ours too. A configuration is the dict of arguments of
`MaskedAutoencoderViT`, with `norm_eps` in place of `norm_layer`.
"""

from mae_fast.files.layouts.huggingface import (
    HF_DEFAULTS,
    from_huggingface,
    huggingface_config,
    is_huggingface,
    to_huggingface,
    to_huggingface_config,
    to_huggingface_preprocessor,
)
from mae_fast.files.layouts.official import State, describe, is_decoder_key, official_config, split_head, unwrap
from mae_fast.files.layouts.timm import from_timm, name_norm, pool_of, to_timm

__all__ = [
    "describe",
    "from_huggingface",
    "huggingface_config",
    "is_decoder_key",
    "is_huggingface",
    "name_norm",
    "official_config",
    "pool_of",
    "split_head",
    "to_huggingface",
    "to_huggingface_config",
    "to_huggingface_preprocessor",
    "to_official",
    "to_timm",
    "unwrap",
]


def to_official(state: State, args: dict, settings: dict | None) -> tuple[State, dict]:
    """A state of any of these layouts -> the official keys and the configuration.

    args: saved with an official state; settings: config.json beside a Hugging Face one. Raises KeyError or ValueError
    for a state that is no Masked Autoencoder's.
    """
    if not is_huggingface(state):
        state = from_timm(state)
        return state, official_config(state, args)
    state = from_huggingface(state)
    if settings is not None:
        return state, huggingface_config(settings)
    return state, official_config(state, {}) | {"norm_eps": HF_DEFAULTS["layer_norm_eps"]}
