"""What checkpoints of other codebases call things: their keys, their configuration, and how to read ours off a state.

"Official" is the layout of facebookresearch/mae, which is ours too. A configuration is the dict of arguments of
`MaskedAutoencoderViT`, with `norm_eps` in place of `norm_layer`.
"""

import re

from torch import Tensor, cat

from mae_fast.config import PRESETS

State = dict[str, Tensor]

DECODER_KEYS = ("mask_token", "decoder_")
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # width -> heads, of the ViT family
DECODER_HEADS = {512: 16}


def is_decoder_key(key: str) -> bool:
    return key.startswith(DECODER_KEYS)


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
        "mlp_ratio": encoder.mlp.fc1.out_features / embed_dim,
        "decoder_mlp_ratio": decoder.mlp.fc1.out_features / decoder_embed_dim,
        "norm_eps": model.norm.eps,
        "norm_pix_loss": model.norm_pix_loss,
        "mean": model.mean,
        "std": model.std,
    }


# ---- official ----


def official_config(state: State, args: dict) -> dict:
    """Configuration read off an official state and the arguments saved with it, where there are any.

    Raises ValueError naming what neither tells (the number of heads of an unusual width, a non-square image).
    """
    D, C, p, _ = state["patch_embed.proj.weight"].shape
    config = {"patch_size": p, "in_chans": C, "embed_dim": D, "norm_eps": 1e-6}
    config["depth"] = _count_blocks(state, "blocks")
    config["mlp_ratio"] = state["blocks.0.mlp.fc1.weight"].shape[0] / D
    config["norm_pix_loss"] = bool(args.get("norm_pix_loss", False))
    preset = PRESETS.get(args.get("model"))
    named = preset.num_heads if preset and preset.embed_dim == D else None
    config["num_heads"] = named or ENCODER_HEADS.get(D)

    if "decoder_embed.weight" in state:
        width = state["decoder_embed.weight"].shape[0]
        config["decoder_embed_dim"], config["decoder_depth"] = width, _count_blocks(state, "decoder_blocks")
        config["decoder_mlp_ratio"] = state["decoder_blocks.0.mlp.fc1.weight"].shape[0] / width
        config["decoder_num_heads"] = DECODER_HEADS.get(width)

    side = int((state["pos_embed"].shape[1] - 1) ** 0.5)
    if side**2 == state["pos_embed"].shape[1] - 1:
        config["img_size"] = side * p
    return config


def _count_blocks(state: State, prefix: str) -> int:
    return 1 + max(int(m[1]) for key in state if (m := re.match(rf"{prefix}\.(\d+)\.", key)))


# ---- Hugging Face ----

# Their three spellings, oldest to newest, of what is inside one layer.
HF_LAYER = {
    r"layernorm_before\.": "norm1.",
    r"layernorm_after\.": "norm2.",
    r"attention\.output\.dense\.|attention\.o_proj\.": "attn.proj.",
    r"attention\.attention\.query\.|attention\.q_proj\.": "attn.q.",
    r"attention\.attention\.key\.|attention\.k_proj\.": "attn.k.",
    r"attention\.attention\.value\.|attention\.v_proj\.": "attn.v.",
    r"intermediate\.dense\.|mlp\.fc1\.": "mlp.fc1.",
    r"output\.dense\.|mlp\.fc2\.": "mlp.fc2.",
}
HF_TOP = {
    r"embeddings\.cls_token$": "cls_token",
    r"embeddings\.position_embeddings$": "pos_embed",
    r"embeddings\.patch_embeddings\.projection\.": "patch_embed.proj.",
    r"layernorm\.": "norm.",
    r"(encoder\.layer|layers)\.(?=\d)": "blocks.",
    r"decoder\.(decoder_layers|decoder_encoder\.layer)\.(?=\d)": "decoder_blocks.",
    r"decoder\.(?=mask_token|decoder_)": "",
}


def from_huggingface(state: State) -> State:
    """A ViTMAEForPreTraining or ViTMAEModel state -> the official keys, query, key and value packed into qkv."""
    renamed = {_rename(key.removeprefix("vit."), (HF_TOP, HF_LAYER)): value for key, value in state.items()}
    for key in [key for key in renamed if ".attn.q." in key]:
        parts = [renamed.pop(key.replace(".attn.q.", f".attn.{part}."), None) for part in "qkv"]
        if all(part is not None for part in parts):
            renamed[key.replace(".attn.q.", ".attn.qkv.")] = cat(parts)
    return renamed


def _rename(key: str, tables: tuple[dict[str, str], ...]) -> str:
    """Replace the start of the key by the first table, then, inside a block, the start of the rest by the second."""
    for table in tables:
        head, rest = re.match(r"((?:decoder_)?blocks\.\d+\.)?(.*)", key).groups(default="")
        for pattern, name in table.items():
            if match := re.match(pattern, rest):
                key = head + name + rest[match.end() :]
                break
    return key


def huggingface_config(config: dict) -> dict:
    """config.json of a ViTMAE directory -> configuration. Raises ValueError naming a setting we do not have."""
    for name, ours in {"hidden_act": "gelu", "qkv_bias": True}.items():
        if config.get(name, ours) != ours:
            raise ValueError(f"config.json: {name}={config[name]!r} is not supported, only {ours!r}")
    get = {**HF_DEFAULTS, **config}.get
    return {
        "img_size": get("image_size"),
        "patch_size": get("patch_size"),
        "in_chans": get("num_channels"),
        "embed_dim": get("hidden_size"),
        "depth": get("num_hidden_layers"),
        "num_heads": get("num_attention_heads"),
        "mlp_ratio": get("intermediate_size") / get("hidden_size"),
        "decoder_embed_dim": get("decoder_hidden_size"),
        "decoder_depth": get("decoder_num_hidden_layers"),
        "decoder_num_heads": get("decoder_num_attention_heads"),
        "decoder_mlp_ratio": get("decoder_intermediate_size") / get("decoder_hidden_size"),
        "norm_eps": get("layer_norm_eps"),
        "norm_pix_loss": get("norm_pix_loss"),
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
