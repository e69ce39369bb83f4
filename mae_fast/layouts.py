"""What checkpoints of other codebases call things: their keys, their configuration, and how to read ours off a state.

"Official" is the layout of facebookresearch/mae, which is ours too. A configuration is the dict of arguments of
`MaskedAutoencoderViT`, with `norm_eps` in place of `norm_layer`.
"""

import math
import re

from torch import Tensor, cat

from mae_fast.config import PRESETS

State = dict[str, Tensor]

DECODER_KEYS = ("mask_token", "decoder_")
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # width -> heads, of the ViT family
DECODER_HEADS = {512: 16}


def is_decoder_key(key: str) -> bool:
    return key.startswith(DECODER_KEYS)


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


# ---- our own ----


def describe(model) -> dict:
    """The configuration of a `MaskedAutoencoderViT`, as plain numbers that a checkpoint can hold."""
    encoder, decoder = model.blocks[0], model.decoder_blocks[0]
    embed_dim, decoder_embed_dim = model.cls_token.shape[-1], model.mask_token.shape[-1]
    return {
        "img_size": list(model.patch_embed.img_size),
        "patch_size": model.patch_embed.patch_size[0],
        "in_chans": model.in_chans,
        "embed_dim": embed_dim,
        "depth": len(model.blocks),
        "num_heads": encoder.attn.num_heads,
        "decoder_embed_dim": decoder_embed_dim,
        "decoder_depth": len(model.decoder_blocks),
        "decoder_num_heads": decoder.attn.num_heads,
        "mlp_ratio": mlp_ratio(encoder.mlp.fc1.out_features, embed_dim),
        "decoder_mlp_ratio": mlp_ratio(decoder.mlp.fc1.out_features, decoder_embed_dim),
        "norm_eps": model.norm.eps,
        "norm_pix_loss": model.norm_pix_loss,
        "mean": model.mean,
        "std": model.std,
    }


# ---- official ----


def official_config(state: State, args: dict) -> dict:
    """Configuration read off an official state and the arguments saved with it, where there are any.

    What neither tells is None (the heads of an unusual width) or left out (img_size, where it is not square).
    Raises KeyError or ValueError for a state that is no Masked Autoencoder's.
    """
    D, C, p, _ = state["patch_embed.proj.weight"].shape
    config = {"patch_size": p, "in_chans": C, "embed_dim": D, "norm_eps": 1e-6}
    config["depth"] = _count_blocks(state, "blocks")
    config["mlp_ratio"] = mlp_ratio(state["blocks.0.mlp.fc1.weight"].shape[0], D)
    config["norm_pix_loss"] = bool(args.get("norm_pix_loss", False))
    preset = PRESETS.get(args.get("model"))
    named = preset.num_heads if preset and preset.embed_dim == D else None
    config["num_heads"] = named or ENCODER_HEADS.get(D)

    if any(map(is_decoder_key, state)):
        width = state["decoder_embed.weight"].shape[0]
        config["decoder_embed_dim"], config["decoder_depth"] = width, _count_blocks(state, "decoder_blocks")
        config["decoder_mlp_ratio"] = mlp_ratio(state["decoder_blocks.0.mlp.fc1.weight"].shape[0], width)
        named = preset.decoder_num_heads if preset and preset.decoder_embed_dim == width else None
        config["decoder_num_heads"] = named or DECODER_HEADS.get(width)

    side = int((state["pos_embed"].shape[1] - 1) ** 0.5)
    if side**2 == state["pos_embed"].shape[1] - 1:
        config["img_size"] = side * p
    return config


def _count_blocks(state: State, prefix: str) -> int:
    return 1 + max((int(m[1]) for key in state if (m := re.match(rf"{prefix}\.(\d+)\.", key))), default=-1)


def mlp_ratio(hidden: int, dim: int) -> float:
    """The ratio of which `int(dim * ratio)` is hidden again."""
    ratio = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


# ---- timm ----


def from_timm(state: State) -> State:
    """A timm VisionTransformer state without its head -> the official keys: fc_norm is the norm of average pooling."""
    pooled = "fc_norm.weight" in state and "norm.weight" not in state
    return {key.replace("fc_norm.", "norm.") if pooled else key: value for key, value in state.items()}


def to_timm(state: State, pool: str) -> State:
    """The encoder of an official state -> the keys of timm's vit_*_patch*_224 with global_pool=pool, num_classes=0.

    pool: token, which norms the sequence and takes the class token, or avg, which norms (fc_norm) the mean patch.
    """
    norm = {"token": "norm.", "avg": "fc_norm."}[pool]
    encoder = {key: value for key, value in state.items() if not is_decoder_key(key)}
    return {norm + key.removeprefix("norm.") if key.startswith("norm.") else key: encoder[key] for key in encoder}


# ---- Hugging Face ----

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


def to_huggingface_config(config: dict, encoder_only: bool) -> dict:
    """What `describe` gave -> config.json of a ViTMAE directory. Raises ValueError for a non-square image."""
    height, width = config["img_size"]
    if height != width:
        raise ValueError(f"img_size: Hugging Face's ViTMAE takes square images, not {height} x {width}")
    D, decoder_D = config["embed_dim"], config["decoder_embed_dim"]
    return {
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
        "hidden_act": "gelu",
        "qkv_bias": True,
    }


def to_huggingface_preprocessor(config: dict) -> dict:
    """What `describe` gave -> preprocessor_config.json, which tells image size and pixel statistics."""
    height, width = config["img_size"]
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,  # bicubic, as MAE's own crops
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": config["mean"],
        "image_std": config["std"],
    }


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
