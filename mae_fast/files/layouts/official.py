"""The official names; the configuration of a model, from the model or from a state dict."""

import math
import re

from torch import Tensor

from mae_fast.config import PRESETS

State = dict[str, Tensor]

DECODER_KEYS = ("mask_token", "decoder_")
ENCODER_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}  # width -> heads, of the ViT family
DECODER_HEADS = {512: 16}

# What wrappers put before every key of the network: DistributedDataParallel, torch.compile, Lightning, MMCV; nested too
WRAPPED = re.compile(
    r"(?:(?:module|_orig_mod|model|backbone)\.)+"
    r"(?=(?:patch_embed\.proj|(?:vit\.)?embeddings\.patch_embeddings\.projection)\.weight$)"
)
FINETUNED_HEAD = frozenset(("head.weight", "head.bias"))
PROBED_HEAD = frozenset(  # main_linprobe.py's BatchNorm1d(affine=False) and Linear
    f"head.{name}" for name in ("0.running_mean", "0.running_var", "0.num_batches_tracked", "1.weight", "1.bias")
)


def is_decoder_key(key: str) -> bool:
    return key.startswith(DECODER_KEYS)


def unwrap(state: State) -> State:
    """The state without the prefix that wrappers gave the network, `module._orig_mod.` for one.

    The prefix is that of the patch embedding, which every layout has. A key without it stays as it is, so that the
    check of the model names it, and nothing is stripped where two keys would become one.
    """
    prefix = next((match[0] for key in state if (match := WRAPPED.match(key))), "")
    unwrapped = {key.removeprefix(prefix): value for key, value in state.items()}
    return unwrapped if len(unwrapped) == len(state) else state


def split_head(state: State) -> tuple[State, State]:
    """-> the state without a classifier's head, and that head: {} where there is none.

    A head is taken out only if it is whole: one Linear on the encoder's width, as main_finetune.py and timm save it, or
    with main_linprobe.py's BatchNorm before it. Any other key of this name stays, to be named as unexpected.
    """
    head = {key: value for key, value in state.items() if key.startswith("head.")}
    linear = {FINETUNED_HEAD: "head", PROBED_HEAD: "head.1"}.get(frozenset(head))
    if linear is None or "patch_embed.proj.weight" not in state:
        return state, {}
    shape = (*head[f"{linear}.bias"].shape, state["patch_embed.proj.weight"].shape[0])
    if head[f"{linear}.weight"].shape != shape:
        return state, {}
    return {key: value for key, value in state.items() if key not in head}, head


def describe(model) -> dict:
    """The configuration of a `MaskedAutoencoderViT` or a classifier, as plain numbers that a checkpoint can hold.

    pixel_type and value_range are there where files are not of 8 bits, as Hugging Face's and the official ones are, and
    loss where it is not theirs, mse.
    """
    encoder, embed_dim = model.blocks[0], model.cls_token.shape[-1]
    pixels = model.pixels
    files = {"pixel_type": pixels.type, "value_range": list(pixels.value_range)}
    return {
        "img_size": list(model.patch_embed.img_size),
        "patch_size": model.patch_embed.patch_size[0],
        "in_chans": model.in_chans,
        "embed_dim": embed_dim,
        "depth": len(model.blocks),
        "num_heads": encoder.attn.num_heads,
        "mlp_ratio": mlp_ratio(encoder.mlp.fc1.out_features, embed_dim),
        "norm_eps": encoder.norm1.eps,
        "mean": model.mean,
        "std": model.std,
        **({} if pixels.as_bytes else files),
        **(_describe_decoder(model) if hasattr(model, "decoder_blocks") else {}),
    }


def _describe_decoder(model) -> dict:
    decoder, width = model.decoder_blocks[0], model.mask_token.shape[-1]
    return {
        "decoder_embed_dim": width,
        "decoder_depth": len(model.decoder_blocks),
        "decoder_num_heads": decoder.attn.num_heads,
        "decoder_mlp_ratio": mlp_ratio(decoder.mlp.fc1.out_features, width),
        "norm_pix_loss": model.norm_pix_loss,
        **({} if model.loss == "mse" else {"loss": model.loss}),
    }


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
