"""Classifiers out of checkpoints: a pretrained encoder under a fresh head, or a finetuned or probed classifier."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from mae_fast.files import layouts
from mae_fast.files.checkpoint import CheckpointError, build, read_checkpoint
from mae_fast.model import positions
from mae_fast.model.vit import VisionTransformer, trunc_normal_

# Arguments of a Masked Autoencoder that a classifier has no use for.
_NOT_OURS = ("loss", "norm_eps", "norm_pix_loss")


def classifier_of(config: dict, classes: int, pooled: bool, drop_path: float = 0.0) -> VisionTransformer:
    """A fresh classifier of a configuration, such as `mae_fast.files.layouts.describe` gives of an encoder."""
    kept = {name: x for name, x in config.items() if name not in _NOT_OURS and not name.startswith("decoder_")}
    norm = partial(nn.LayerNorm, eps=config.get("norm_eps", 1e-6))
    return VisionTransformer(pooled, num_classes=classes, drop_path_rate=drop_path, norm_layer=norm, **kept)


def probe_head(model: VisionTransformer) -> None:
    """Put main_linprobe.py's head in place: BatchNorm without weights before the Linear; all else stays as it is."""
    model.head = nn.Sequential(nn.BatchNorm1d(model.head.in_features, affine=False, eps=1e-6), model.head)
    for name, p in model.named_parameters():
        p.requires_grad = name.startswith("head.")


def from_pretrained(
    path: str | Path,
    classes: int,
    pooled: bool,
    img_size: tuple[int, int],
    *,
    drop_path: float = 0.0,
    head_std: float = 2e-5,
    preset: dict | None = None,
) -> VisionTransformer:
    """A classifier on the encoder of a checkpoint (anything `read_checkpoint` takes), under a fresh head.

    pooled: classify the mean patch, whose norm (fc_norm) is fresh as well unless the checkpoint is a classifier of that
    kind. img_size: height, width; positions are interpolated for it. head_std: of the head's weights, normal, cut off
    at 2. preset: sizes that the checkpoint must have, or leaves open. Raises CheckpointError for a checkpoint that
    holds no such encoder, ValueError for an image size that is no whole number of patches.
    """
    state, config, rest = read_checkpoint(path)
    named = _whole(config, path, preset or {})
    p, old = named["patch_size"], named["img_size"]
    if any(side < p or side % p for side in img_size):
        raise ValueError(f"input_size: {img_size} is not a whole number of patches of {p} pixels")
    model = classifier_of(named | {"img_size": list(img_size)}, classes, pooled, drop_path)
    grids = [tuple(side // p for side in size) for size in (old, img_size)]
    state = {key: value for key, value in state.items() if not layouts.is_decoder_key(key)}
    state["pos_embed"] = positions.resize(state["pos_embed"], *grids)
    was_pooled = rest.get("mae_fast", {}).get("pool") == "avg"
    if pooled == was_pooled:
        state = layouts.name_norm(state, "avg" if pooled else "token")
    else:
        state = {key: value for key, value in state.items() if not key.startswith("norm.")}
    fresh = {key for key in model.state_dict() if key.startswith("head.") or (pooled and key.startswith("fc_norm."))}
    _load(model, state, path, may_miss=fresh)
    trunc_normal_(model.head.weight, std=head_std)
    return model


def load_classifier(path: str | Path) -> tuple[VisionTransformer, dict]:
    """The classifier that finetuning or a linear probe left in a checkpoint, ours or official, and what else it holds.

    Raises CheckpointError where the file holds none.
    """
    state, config, rest = read_checkpoint(path)
    found = rest.get("mae_fast", {})
    head = found.get("head")
    if not head:
        raise CheckpointError(f"{path}: holds no classifier; give a checkpoint of mae-fast finetune or linprobe")
    pool = found["pool"]
    weight = head.get("head.weight", head.get("head.1.weight"))
    model = classifier_of(_whole(config, path), len(weight), pool == "avg")
    if "head.1.weight" in head:
        probe_head(model)
    state = {key: value for key, value in state.items() if not layouts.is_decoder_key(key)}
    _load(model, layouts.name_norm(state, pool) | head, path)
    return model, rest


def load_classifier_weights(model: VisionTransformer, state: dict[str, Tensor], path: str | Path) -> None:
    """Copy the state of a run into the classifier that it trains; CheckpointError names every key that does not fit."""
    _load(model, layouts.unwrap(state), path)


def _whole(config: dict, path: str | Path, preset: dict | None = None) -> dict:
    """The configuration of the encoder, img_size (height, width). CheckpointError for what the file does not tell."""
    known = {name: value for name, value in config.items() if not name.startswith("decoder_")}
    for name, value in (preset or {}).items():
        if known.get(name) is None:
            known[name] = value
        elif known[name] != value:
            raise CheckpointError(f"model: its {name} is {value}, and that of {path} {known[name]}; leave model out")
    known = {name: value for name, value in known.items() if not name.startswith("decoder_")}
    with torch.device("meta"):
        return known | {"img_size": build(known, path).patch_embed.img_size}


def _load(model: nn.Module, state: dict[str, Tensor], path: str | Path, may_miss: set[str] = frozenset()) -> None:
    expected = model.state_dict()
    problems = {
        "missing": [key for key in expected if key not in state and key not in may_miss],
        "unexpected": [key for key in state if key not in expected],
        "wrong shape": [
            f"{key} {tuple(value.shape)} for {tuple(expected[key].shape)}"
            for key, value in state.items()
            if key in expected and value.shape != expected[key].shape
        ],
    }
    if any(problems.values()):
        text = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"{path}: does not fit this classifier, nothing was loaded. {text}")
    model.load_state_dict(state, strict=False)
