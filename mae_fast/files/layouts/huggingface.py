"""Hugging Face's ViTMAE: keys in the spellings of every version of transformers, and config.json."""

import re

from torch import cat

from mae_fast.files.layouts.official import State, is_decoder_key, mlp_ratio

# Official name -> theirs, oldest spelling first: that of every checkpoint on the hub, which all versions read.
HF_TOP = {
    "cls_token": ["embeddings.cls_token"],
    "pos_embed": ["embeddings.position_embeddings"],
    "patch_embed.proj": ["embeddings.patch_embeddings.projection"],
    "norm": ["layernorm"],
    "blocks": ["encoder.layer", "layers"],
    "mask_token": ["decoder.mask_token"],
    "decoder_pos_embed": ["decoder.decoder_pos_embed"],
    "decoder_embed": ["decoder.decoder_embed"],
    "decoder_norm": ["decoder.decoder_norm"],
    "decoder_pred": ["decoder.decoder_pred"],
    "decoder_blocks": ["decoder.decoder_layers", "decoder.decoder_encoder.layer"],
}
HF_LAYER = {
    "norm1": ["layernorm_before"],
    "norm2": ["layernorm_after"],
    "attn.proj": ["attention.output.dense", "attention.o_proj"],
    "attn.q": ["attention.attention.query", "attention.q_proj"],
    "attn.k": ["attention.attention.key", "attention.k_proj"],
    "attn.v": ["attention.attention.value", "attention.v_proj"],
    "mlp.fc1": ["intermediate.dense"],
    "mlp.fc2": ["output.dense"],
}
BLOCK = re.compile(r"(?:decoder_)?blocks\.\d+\.")


def is_huggingface(state: State) -> bool:
    return any(key.removeprefix("vit.") in ("embeddings.cls_token", "embeddings.position_embeddings") for key in state)


def from_huggingface(state: State) -> State:
    """A ViTMAEForPreTraining or ViTMAEModel state -> the official keys, query, key and value packed into qkv."""
    top, layer = ([(hf, ours) for ours, theirs in table.items() for hf in theirs] for table in (HF_TOP, HF_LAYER))
    renamed = {}
    for key, value in state.items():
        key = _replace_start(key.removeprefix("vit."), top)
        if block := BLOCK.match(key):
            key = block[0] + _replace_start(key[block.end() :], layer)
        renamed[key] = value
    for key in [key for key in renamed if ".attn.q." in key]:
        parts = [renamed.get(key.replace(".attn.q.", f".attn.{part}.")) for part in "qkv"]
        if all(part is not None for part in parts):
            renamed[key.replace(".attn.q.", ".attn.qkv.")] = cat(parts)
            for part in "qkv":
                del renamed[key.replace(".attn.q.", f".attn.{part}.")]
    return renamed


def to_huggingface(state: State) -> State:
    """An official state -> the keys of ViTMAEForPreTraining, or of ViTMAEModel where there is no decoder."""
    top, layer = ([(ours, theirs[0]) for ours, theirs in table.items()] for table in (HF_TOP, HF_LAYER))
    vit = "vit." if any(map(is_decoder_key, state)) else ""
    split = {}
    for key, value in state.items():
        if ".attn.qkv." in key:
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                split[key.replace(".attn.qkv.", f".attn.{part}.")] = rows.clone()  # memory of its own, to be saved
        else:
            split[key] = value
    renamed = {}
    for key, value in split.items():
        prefix = "" if is_decoder_key(key) else vit
        if block := BLOCK.match(key):
            key = block[0] + _replace_start(key[block.end() :], layer)
        renamed[prefix + _replace_start(key, top)] = value
    return renamed


def _replace_start(key: str, table: list[tuple[str, str]]) -> str:
    for old, new in table:
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def huggingface_config(config: dict) -> dict:
    """config.json of a ViTMAE directory, with preprocessor_config.json -> configuration.

    Raises ValueError naming a setting that we do not have.
    """
    for name, ours in {"hidden_act": "gelu", "qkv_bias": True}.items():
        if config.get(name, ours) != ours:
            raise ValueError(f"config.json: {name}={config[name]!r} is not supported, only {ours!r}")
    get = {**HF_DEFAULTS, **config}.get
    told = {ours: get(name) for ours, name in {"mean": "image_mean", "std": "image_std"}.items()}
    return {
        **{name: values for name, values in told.items() if values and len(values) == get("num_channels")},
        **{name: config[name] for name in (*OURS, "loss") if name in config},
        "img_size": get("image_size"),
        "patch_size": get("patch_size"),
        "in_chans": get("num_channels"),
        "embed_dim": get("hidden_size"),
        "depth": get("num_hidden_layers"),
        "num_heads": get("num_attention_heads"),
        "mlp_ratio": mlp_ratio(get("intermediate_size"), get("hidden_size")),
        "decoder_embed_dim": get("decoder_hidden_size"),
        "decoder_depth": get("decoder_num_hidden_layers"),
        "decoder_num_heads": get("decoder_num_attention_heads"),
        "decoder_mlp_ratio": mlp_ratio(get("decoder_intermediate_size"), get("decoder_hidden_size")),
        "norm_eps": get("layer_norm_eps"),
        "norm_pix_loss": get("norm_pix_loss"),
    }


def to_huggingface_config(config: dict, encoder_only: bool, theirs: dict) -> dict:
    """What `describe` gave -> config.json of a ViTMAE directory. Raises ValueError for a non-square image.

    theirs: the config.json that the model came with, of which all stays that our configuration does not tell
    (mask_ratio, initializer_range, ...).
    """
    height, width = config["img_size"]
    if height != width:
        raise ValueError(f"img_size: Hugging Face's ViTMAE takes square images, not {height} x {width}")
    D, decoder_D = config["embed_dim"], config["decoder_embed_dim"]
    return {
        **theirs,
        "architectures": ["ViTMAEModel" if encoder_only else "ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        "image_size": height,
        "patch_size": config["patch_size"],
        "num_channels": config["in_chans"],
        "hidden_size": D,
        "num_hidden_layers": config["depth"],
        "num_attention_heads": config["num_heads"],
        "intermediate_size": int(D * config["mlp_ratio"]),
        "decoder_hidden_size": decoder_D,
        "decoder_num_hidden_layers": config["decoder_depth"],
        "decoder_num_attention_heads": config["decoder_num_heads"],
        "decoder_intermediate_size": int(decoder_D * config["decoder_mlp_ratio"]),
        "layer_norm_eps": config["norm_eps"],
        "norm_pix_loss": config["norm_pix_loss"],
        **{name: config[name] for name in ("loss",) if name in config},
        "hidden_act": "gelu",
        "qkv_bias": True,
    }


def to_huggingface_preprocessor(config: dict) -> dict:
    """What `describe` gave -> preprocessor_config.json, which holds image size and pixel statistics."""
    height, width = config["img_size"]
    low, high = config.get("value_range", (0, 255))
    return {
        **{name: config[name] for name in OURS if name in config},
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic, as MAE's own crops
        "do_rescale": True,
        "rescale_factor": 1 / (high - low),  # what is subtracted first, low, has no name there
        "do_normalize": True,
        "image_mean": config["mean"],
        "image_std": config["std"],
    }


# In preprocessor_config.json, where pictures are not of 8 bits: transformers has no names for these, and keeps them.
OURS = ("pixel_type", "value_range")

# What ViTMAEConfig means by a setting that config.json leaves out.
HF_DEFAULTS = {
    "image_size": 224,
    "patch_size": 16,
    "num_channels": 3,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "decoder_hidden_size": 512,
    "decoder_num_hidden_layers": 8,
    "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048,
    "layer_norm_eps": 1e-12,
    "norm_pix_loss": False,
}
