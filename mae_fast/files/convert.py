"""A checkpoint of one codebase -> the same weights, bit for bit, in the layout of another."""

import json
from pathlib import Path

import torch
from torch import Tensor

from mae_fast.files import layouts
from mae_fast.files.atomic import save_atomic, write_atomic
from mae_fast.files.checkpoint import build, check_fit, read_checkpoint
from mae_fast.model import positions

LAYOUTS = ("official", "hf", "timm", "mae_fast")
POOLS = ("token", "avg")


def convert(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    encoder_only: bool = False,
    img_size: int | tuple[int, int] | None = None,
    pool: str = "token",
    force: bool = False,
    **overrides,
) -> list[str]:
    """Write the checkpoint source (anything `read_checkpoint` takes) to out; -> what is lost on the way, a line each.

    to: official or mae_fast, one file, in which resume finds the optimizer and all else that the source has of a run;
    timm, one file, an encoder for vit_*_patch*_224 with num_classes=0 and global_pool=pool, or with its head where the
    source is a classifier of that pool; hf, a folder for from_pretrained. Files are safetensors if named so, else
    torch.save's; for hf, out may also name the weights' file in the folder, model.safetensors (the default) or
    pytorch_model.bin.
    encoder_only: leave out the decoder, and the head of a classifier.
    img_size: pixels of the images that the positions are interpolated for. overrides: as in `load_pretrained`.

    Raises ValueError, before anything is written, for a checkpoint that is not a whole Masked Autoencoder or encoder,
    with the names of all keys that do not fit, and for files that are there already, unless force.
    """
    if to not in LAYOUTS:
        raise ValueError(f"to: expected one of {', '.join(LAYOUTS)}; got {to!r}")
    if pool not in POOLS:
        raise ValueError(f"pool: expected one of {', '.join(POOLS)}; got {pool!r}")
    state, config, run = read_checkpoint(source)
    with torch.device("meta"):  # for its keys and shapes
        model = build(config | overrides, source)
    has_decoder = not check_fit(model, state, source)
    config, notes = layouts.describe(model), []
    whole = len(state)
    state = {key: state[key].contiguous() for key in model.state_dict() if key in state}
    ours = dict(run.get("mae_fast", {}))
    head, head_pool, huggingface = ours.pop("head", {}), ours.pop("pool", "token"), ours.pop("huggingface", {})
    head = {} if encoder_only else {key: value.contiguous() for key, value in head.items()}

    if why := head and _no_place_for_head(head, head_pool, to, pool):
        notes.append(f"the head ({', '.join(head)}) is left out: {why}")
        head = {}
    if has_decoder and (encoder_only or to == "timm"):
        if not encoder_only:
            notes.append("the decoder is left out: timm has none")
        state = {key: value for key, value in state.items() if not layouts.is_decoder_key(key)}
    if img_size is not None:
        state, config = _resized(state, config, img_size)
    out, changed = Path(out), img_size is not None or encoder_only or len(state) < whole
    if changed or to in ("hf", "timm") or out.suffix == ".safetensors":
        if "optimizer" in run:
            notes.append("the optimizer and the rest of the run are left out: weights alone")
        run, ours = {}, {}
    if to in ("official", "timm") and config["norm_eps"] != 1e-6:
        notes.append(f"this layout does not tell the LayerNorm eps: {config['norm_eps']:g} here, 1e-06 in its models")

    if to in ("hf", "timm") and "value_range" in config:
        low, high = config["value_range"]
        notes.append(f"images for this model are (values - {low:g}) / {high - low:g}, then normalised by mean and std")

    named = layouts.name_norm(state, head_pool) | head if head else state  # as the classifier names its own
    if to == "hf":
        files = _huggingface(state, config, huggingface, out)
    elif to == "timm":
        files = {out: layouts.to_timm(state, pool) | head}
    elif out.suffix == ".safetensors":
        files = {out: named}
    else:
        record = {**(ours if to == "mae_fast" else {}), "config": config}
        files = {out: {"model": named, **run, "mae_fast": record}}
    there = [str(path) for path in files if path.exists()]
    if there and not force:
        raise ValueError(f"out: {', '.join(there)} exists already; force writes over it")
    for path, content in files.items():
        _save(content, path, {} if to == "hf" else {"mae_fast": json.dumps({"config": config})})
    return notes


def _no_place_for_head(head: dict[str, Tensor], head_pool: str, to: str, pool: str) -> str:
    """Why a layout cannot take the head of a classifier; "" where it can."""
    if to == "hf":
        return "Hugging Face's ViTMAE has none"
    if to == "timm" and "head.weight" not in head:
        return "timm's is one Linear, and this one has a BatchNorm before it"
    if to == "timm" and head_pool != pool:
        return f"it is of global_pool={head_pool}; keep it with pool={head_pool}"
    return ""


def _resized(state: dict[str, Tensor], config: dict, img_size: int | tuple[int, int]) -> tuple[dict[str, Tensor], dict]:
    p, sizes = config["patch_size"], (config["img_size"], [img_size] * 2 if isinstance(img_size, int) else [*img_size])
    if any(side < p or side % p for side in sizes[1]):
        raise ValueError(f"img_size: {img_size} is not a whole number of patches of {p} pixels")
    grids = [(height // p, width // p) for height, width in sizes]
    tables = {key: positions.resize(state[key], *grids) for key in ("pos_embed", "decoder_pos_embed") if key in state}
    return state | tables, config | {"img_size": sizes[1]}


def _huggingface(state: dict[str, Tensor], config: dict, theirs: dict, out: Path) -> dict[Path, dict]:
    names = ("model.safetensors", "pytorch_model.bin")  # those that from_pretrained looks for
    if out.name not in names and out.suffix in (".safetensors", ".bin", ".pth", ".pt"):
        raise ValueError(f"out: {out} is not a folder for from_pretrained, nor {' or '.join(names)} in one")
    weights = out if out.name in names else out / names[0]
    encoder_only = not any(map(layouts.is_decoder_key, state))
    return {
        weights: layouts.to_huggingface(state),
        weights.with_name("config.json"): layouts.to_huggingface_config(config, encoder_only, theirs),
        weights.with_name("preprocessor_config.json"): layouts.to_huggingface_preprocessor(config),
    }


def _save(content: dict, path: Path, metadata: dict[str, str]) -> None:
    """metadata: what shapes do not tell (heads, eps, mean, std), for a safetensors file without a config.json."""
    from safetensors.torch import save

    if path.suffix == ".json":
        write_atomic(path, lambda file: file.write(json.dumps(content, indent=2).encode()))
    elif path.suffix == ".safetensors":
        write_atomic(path, lambda file: file.write(save(content, {"format": "pt", **metadata})))
    else:
        save_atomic(content, path)
