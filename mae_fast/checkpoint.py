"""Checkpoints in and out: files that are safe to open, models that load whole or not at all."""

import argparse
import json
import pickle
import re
import warnings
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mae_fast import layouts
from mae_fast.model import MaskedAutoencoderViT


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what is wrong and what to do."""


def load_file(path: str | Path) -> dict:
    """A dict saved by torch.save, read without running anything it contains.

    Official checkpoints hold an argparse.Namespace; that class is allowed and no other. Raises FileNotFoundError, or
    CheckpointError naming what a hostile or foreign file asked for.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)|Trying to (?:call|instantiate) \S+ (\S+)", str(error))
        if wanted is None:
            raise CheckpointError(f"{path}: not a checkpoint that torch can read ({_first_line(error)})") from None
        name = wanted[1] or wanted[2]
        raise CheckpointError(f"{path}: refused, it asks to load {name}, which is code and not weights") from None
    except (RuntimeError, EOFError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged, or not a torch checkpoint ({_first_line(error)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict of weights, found {type(content).__name__}")
    return content


def load_pretrained(path: str | Path, **overrides) -> MaskedAutoencoderViT:
    """A model from an official .pth, a Hugging Face ViTMAE directory or a checkpoint of ours; exact, on the CPU.

    overrides: arguments of `MaskedAutoencoderViT` that the file does not tell or tells wrongly, such as
    num_heads of an unusual width or norm_pix_loss.

    An encoder-only checkpoint gives a model that encodes; what its decoder lacks is warned about, listed in
    `model.missing_decoder_keys`, and reconstruction is refused.
    """
    state, config = read_state(path)
    config |= overrides
    for name, value in config.items():
        if value is None:
            raise CheckpointError(f"{path}: does not tell {name}; say load_pretrained(path, {name}=...)")
    if "img_size" not in config:
        raise CheckpointError(f"{path}: its image is not square; say load_pretrained(path, img_size=(height, width))")
    if "norm_layer" not in config:
        config["norm_layer"] = partial(nn.LayerNorm, eps=config["norm_eps"])
    config.pop("norm_eps", None)
    model = MaskedAutoencoderViT(**config)
    load_weights(model, state, path)
    return model


def read_state(path: str | Path) -> tuple[dict, dict]:
    """The weights of a checkpoint under their official names, and what it tells of the model's configuration."""
    path = Path(path)
    return _read_directory(path) if path.is_dir() else _read_file(path)


def load_weights(model: MaskedAutoencoderViT, state: dict, path: str | Path) -> None:
    """Copy an official state into model, all of it or nothing; CheckpointError names every key that does not fit.

    A state with no decoder at all is taken as encoder-only: warned about and noted in model.missing_decoder_keys.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    without_decoder = bool(missing) and missing == [key for key in expected if layouts.is_decoder_key(key)]
    problems = {"missing": [] if without_decoder else missing, "unexpected": unexpected, "wrong shape": reshaped}
    if any(problems.values()):
        text = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"{path}: does not fit this model, nothing was loaded. {text}")
    model.load_state_dict(state, strict=not without_decoder)
    model.missing_decoder_keys = tuple(missing)
    if without_decoder:
        warnings.warn(
            f"{path}: encoder only; it can encode but not reconstruct. Missing: {', '.join(missing)}", stacklevel=3
        )


def _read_file(path: Path) -> tuple[dict, dict]:
    content = load_file(path)
    state = content.get("model", content)
    if not isinstance(state, dict) or "patch_embed.proj.weight" not in state:
        keys = ", ".join(list(map(str, content))[:5])
        raise CheckpointError(f"{path}: not a Masked Autoencoder: no patch_embed.proj.weight (found {keys}, ...)")
    if "mae_fast" in content:
        return state, dict(content["mae_fast"]["config"])
    try:
        return state, layouts.official_config(state, vars(content.get("args", argparse.Namespace())))
    except KeyError as error:
        raise CheckpointError(f"{path}: not a Masked Autoencoder: no {error.args[0]}") from None


def _read_directory(path: Path) -> tuple[dict, dict]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file as load_safetensors

    files = sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not (path / "config.json").is_file() or not files:
        raise CheckpointError(
            f"{path}: not a Hugging Face ViTMAE directory: expected config.json and model.safetensors or "
            "pytorch_model.bin. For a training run's folder, name one checkpoint-N.pth in it"
        )
    state: dict = {}
    for file in files:
        try:
            state |= load_safetensors(file) if file.suffix == ".safetensors" else load_file(file)
        except SafetensorError as error:
            raise CheckpointError(f"{file}: damaged ({error})") from None
    config = json.loads((path / "config.json").read_text())
    try:
        return layouts.from_huggingface(state), layouts.huggingface_config(config)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
