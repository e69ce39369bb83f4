"""A tutorial's dictionary of settings -> the recipe it means.

Keys: img_size, patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, decoder_embed_dim, decoder_depth,
decoder_num_heads, norm_pix_loss (of the model), mask_ratio, batch_size, epochs, lr, dataset, optimizer, scheduler
(of the training; the last three a name, or a dict with `name`), and any flag of `mae-fast pretrain` by its name.
"""

import difflib

import numpy as np

from mae_fast.recipe import SETTINGS, Pretrain

MODEL_KEYS = (
    "img_size", "patch_size", "in_chans", "embed_dim", "depth", "num_heads", "mlp_ratio",
    "decoder_embed_dim", "decoder_depth", "decoder_num_heads", "norm_pix_loss",
)  # fmt: skip
# Where a setting of the training goes. Sections may be flat: optimizer: adamw, or optimizer: {name: adamw, lr: 1e-4}.
FLAGS = {
    "img_size": "input_size",
    "norm_pix_loss": "norm_pix_loss",
    "save_interval": "save_every",
    "dataset": "data_path",
    "dataset.root": "data_path",
    "dataset.num_workers": "num_workers",
    "optimizer": "opt",
    "optimizer.name": "opt",
    "optimizer.lr": "lr",
    "optimizer.weight_decay": "weight_decay",
    "scheduler": "sched",
    "scheduler.name": "sched",
    "scheduler.min_lr": "min_lr",
    "scheduler.step_size": "decay_epochs",
    "scheduler.gamma": "decay_rate",
    "scheduler.factor": "decay_rate",
    "scheduler.patience": "patience_epochs",
    "scheduler.warmup_epochs": "warmup_epochs",
}
# What is so in any case, or has no counterpart.
FIXED = {"optimizer.betas": [0.9, 0.95], "optimizer.momentum": 0.9}
IGNORED = {
    "model_name", "log_interval", "plot_interval", "test_batch_size", "use_amp", "large_config", "base_config",
    "small_config", "dataset.name", "dataset.use_validation", "dataset.val_batch_size",
}  # fmt: skip


def recipe_of(config: dict, device: str = "cuda") -> Pretrain:
    """The recipe that a configuration means.

    Defaults are the official ones, but batch_size 32, epochs 100, lr 1.5e-4, absolute, and warmup over the first
    twentieth of the epochs, the paper's share.
    """
    values = {"batch_size": 32, "epochs": 100, "lr": 1.5e-4, "device": device}
    flat = _flat(config)
    for key, value in flat.items():
        name = FLAGS.get(key, key)
        if key in FIXED:
            if np.any(np.asarray(value) != FIXED[key]):
                raise ValueError(f"config: {key}: expected {FIXED[key]}, got {value}")
        elif name in SETTINGS:
            values[name] = _read(name, value, key)
        elif key not in IGNORED and key not in MODEL_KEYS:
            close = difflib.get_close_matches(key, [*MODEL_KEYS, *FLAGS, *SETTINGS], n=1)
            raise ValueError(f"config: {key} is no setting" + (f"; {close[0]}?" if close else ""))
    if "blr" in config and "lr" not in config:
        values["lr"] = None
    if "warmup_epochs" not in {FLAGS.get(key, key) for key in flat}:
        values["warmup_epochs"] = values["epochs"] / 20
    if not config.get("use_amp", True):
        values["dtype"] = "fp32"
    if "output_dir" in values:
        values["log_dir"] = values["output_dir"]
    try:
        return Pretrain.of(**values)
    except ValueError as error:
        raise ValueError(f"config: {error}") from None


def _read(name: str, value, key: str):
    """The value of a setting; YAML reads 1e-4 as a text, and tutorials write AdamW."""
    try:
        return SETTINGS[name].read(str(value).lower() if name in ("opt", "sched") else value)
    except ValueError as error:
        raise ValueError(f"config: {key}: expected {error}, got {value!r}") from None


def _flat(config: dict) -> dict:
    """{"optimizer": {"lr": 1}} -> {"optimizer.lr": 1}, for the sections there are."""
    flat = {}
    for key, value in config.items():
        section = isinstance(value, dict) and key in ("dataset", "optimizer", "scheduler")
        flat |= {f"{key}.{name}": inner for name, inner in value.items()} if section else {key: value}
    return flat
