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

from mae_fast.files import hub, layouts
from mae_fast.files.archive import compressed_member
from mae_fast.model import MaskedAutoencoderViT


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file, what is wrong and what to do."""


def load_file(path: str | Path) -> dict:
    """A dict saved by torch.save, read without running anything it contains.

    Official checkpoints hold an argparse.Namespace; that class is allowed and no other. Raises FileNotFoundError, or
    CheckpointError naming what a hostile or foreign file asked for.
    """
    if member := compressed_member(path):
        raise CheckpointError(
            f"{path}: refused, {member!r} in it is compressed and may unpack to any size; save it again"
        )
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL (\S+)|Trying to (?:call|instantiate) \S+ (\S+)", str(error))
        if wanted is None:
            raise CheckpointError(f"{path}: not a checkpoint that torch can read") from None
        name = wanted[1] or wanted[2]
        raise CheckpointError(f"{path}: refused, it asks to load {name}, which is code and not weights") from None
    except Exception as error:  # a damaged pickle or archive raises anything: IndexError, UnicodeDecodeError, ...
        if isinstance(error, OSError) and error.filename is not None:  # not there, or not to be read
            raise
        raise CheckpointError(f"{path}: damaged, or not a torch checkpoint ({_first_line(error)})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict of weights, found {type(content).__name__}")
    return content


def load_pretrained(path: str | Path, **overrides) -> MaskedAutoencoderViT:
    """A model from a checkpoint of any origin (`read_checkpoint`); exact, on the CPU.

    overrides: arguments of `MaskedAutoencoderViT` that the file lacks or holds wrongly, such as
    num_heads of an unusual width or norm_pix_loss.

    An encoder-only checkpoint gives a model that encodes; what its decoder lacks is warned about, listed in
    `model.missing_decoder_keys`, and reconstruction is refused. Of a finetuned or probed classifier the encoder loads,
    and the head is left out with a warning.
    """
    state, config = read_state(path)
    model = build(config | overrides, path)
    load_weights(model, state, path)
    return model


def build(config: dict, path: str | Path) -> MaskedAutoencoderViT:
    """A model of the configuration read from the checkpoint at path; CheckpointError names what the file lacks."""
    for name, value in config.items():
        if value is None:
            raise CheckpointError(
                f"{path}: does not tell {name}; say load_pretrained(path, {name}=...), or mae-fast convert --{name}"
            )
    if "img_size" not in config:
        raise CheckpointError(f"{path}: its image is not square; say load_pretrained(path, img_size=(height, width))")
    norm = {"norm_layer": partial(nn.LayerNorm, eps=config["norm_eps"])} if "norm_eps" in config else {}
    return MaskedAutoencoderViT(**norm | {name: value for name, value in config.items() if name != "norm_eps"})


def read_state(path: str | Path) -> tuple[dict, dict]:
    """The weights of a checkpoint under their official names, and what it holds of the model's configuration.

    The head of a classifier is left out, with a warning.
    """
    state, config, rest = read_checkpoint(path)
    if head := rest.get("mae_fast", {}).get("head"):
        warnings.warn(f"{path}: a classifier; its head is left out: {', '.join(head)}", stacklevel=3)
    return state, config


def read_checkpoint(path: str | Path) -> tuple[dict, dict, dict]:
    """-> weights under their official names, configuration, and what else the file holds (optimizer, epoch, args, ...).

    path: a file of torch.save or safetensors with official, timm or Hugging Face names; a Hugging Face directory; the
    name of one on the Hugging Face hub, which is downloaded. The configuration is what the file holds: its own record
    where we wrote it, config.json, or the shapes and the arguments saved with them. Prefixes of wrappers (module.,
    _orig_mod., model., backbone.) are stripped.

    What the official names have no place for comes in the third value, under mae_fast: the head of a classifier, with
    the pool (token or avg) that it takes its features from; huggingface, the config.json of a Hugging Face model.
    """
    if not Path(path).exists() and hub.is_name(str(path)):
        path = hub.download(str(path))
    path = Path(path)
    state, rest, settings = _read_directory(path) if path.is_dir() else _read_file(path)
    state, head = layouts.split_head(layouts.unwrap(state))
    beside = {"head": head, "pool": layouts.pool_of(state)} if head else {}
    if settings is not None and layouts.is_huggingface(state):
        beside["huggingface"] = _read_json((path if path.is_dir() else path.parent) / "config.json")
    args = rest.get("args")
    try:
        state, config = layouts.to_official(state, vars(args) if isinstance(args, argparse.Namespace) else {}, settings)
    except KeyError as error:
        found = ", ".join([*map(str, [*state, *rest])][:5])
        raise CheckpointError(f"{path}: not a Masked Autoencoder: no {error.args[0]} (found {found}, ...)") from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    ours = rest.get("mae_fast", {})
    return state, config | ours.get("config", {}), rest | ({"mae_fast": ours | beside} if beside else {})


def load_weights(model: MaskedAutoencoderViT, state: dict, path: str | Path) -> None:
    """Copy an official state into model, all of it or nothing; CheckpointError names every key that does not fit.

    A state with no decoder at all is taken as encoder-only: warned about and noted in model.missing_decoder_keys.
    """
    missing = check_fit(model, state, path)
    model.load_state_dict(state, strict=not missing)
    model.missing_decoder_keys = missing
    if missing:
        warnings.warn(
            f"{path}: encoder only; it can encode but not reconstruct. Missing: {', '.join(missing)}", stacklevel=3
        )


def check_fit(model: MaskedAutoencoderViT, state: dict, path: str | Path) -> tuple[str, ...]:
    """-> the decoder's keys where the state has none of them, () where it has all.

    CheckpointError names every other missing key, every unexpected and every mis-shaped one.
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
        if any(problem.startswith("pos_embed ") for problem in reshaped):
            text += ". Another image size? mae_fast.convert.convert(..., img_size=...) interpolates the positions"
        raise CheckpointError(f"{path}: does not fit this model, nothing was loaded. {text}")
    return tuple(missing)


def _read_file(path: Path) -> tuple[dict, dict, dict | None]:
    """-> the weights as they are named there, what else the file holds, and the settings beside it."""
    if path.suffix == ".safetensors":
        state, metadata = _load_safetensors(path)
        rest = {"mae_fast": _parse(metadata["mae_fast"], path)} if "mae_fast" in metadata else {}
    else:
        content = load_file(path)
        wrapped = next((key for key in ("model", "state_dict") if isinstance(content.get(key), dict)), None)
        state = content[wrapped] if wrapped else content
        rest = {key: value for key, value in content.items() if key != wrapped} if wrapped else {}
    state = {key: value for key, value in state.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    return state, rest, _huggingface_settings(path.parent)


def _read_directory(path: Path) -> tuple[dict, dict, dict | None]:
    files = sorted(path.glob("model*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    settings = _huggingface_settings(path)
    if settings is None or not files:
        raise CheckpointError(
            f"{path}: not a Hugging Face ViTMAE directory: expected config.json and model.safetensors or "
            "pytorch_model.bin. For a training run's folder, name one checkpoint-N.pth in it"
        )
    state, rest = {}, {}
    for file in files:  # one, or the shards of a large model
        part, rest, _ = _read_file(file)
        state |= part
    return state, rest, settings


def _load_safetensors(path: Path) -> tuple[dict, dict]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None


def _huggingface_settings(folder: Path) -> dict | None:
    """config.json of the folder, if any, with the pixel statistics of preprocessor_config.json."""
    settings = _read_json(folder / "config.json")
    return settings and (_read_json(folder / "preprocessor_config.json") or {}) | settings


def _read_json(path: Path) -> dict | None:
    return _parse(path.read_bytes(), path) if path.is_file() else None


def _parse(text: str | bytes, path: Path) -> dict:
    """The dict that JSON in a file says; CheckpointError naming the file where it says another thing."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a dict of settings, found {type(content).__name__}")
    return content


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
