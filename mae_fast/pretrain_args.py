"""The flags of `mae-fast pretrain`: all those of the official main_pretrain.py, same names and defaults, and ours."""

import argparse
import difflib
from pathlib import Path

import yaml

from mae_fast.config import PRESETS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("as in the official main_pretrain.py").add_argument
    add("--batch_size", default=64, type=number_or_auto, help="images per process and forward pass; auto: all that fit")
    add("--epochs", default=400, type=int)
    add("--accum_iter", default=1, type=int, help="forward passes per optimizer step")
    add("--model", default="mae_vit_large_patch16", metavar="MODEL", choices=PRESETS, help=", ".join(PRESETS))
    add("--input_size", default=224, type=int, help="image side in pixels")
    add("--mask_ratio", default=0.75, type=float, help="share of patches removed")
    add("--norm_pix_loss", action="store_true", help="predict patches normalised by their own mean and variance")
    add("--weight_decay", default=0.05, type=float)
    add("--lr", default=None, type=float, help="absolute learning rate (default: from blr)")
    add("--blr", default=1e-3, type=float, help="base learning rate: lr = blr * effective batch / 256")
    add("--min_lr", default=0.0, type=float)
    add("--warmup_epochs", default=40, type=int)
    add("--data_path", default="/datasets01/imagenet_full_size/061417/", help="folder of images, or CIFAR files")
    add("--output_dir", default="./output_dir", help="checkpoints and log.txt; empty to save nothing")
    add("--log_dir", default="./output_dir", help="TensorBoard events")
    add("--device", default="cuda", help="cuda or cpu; the CPU where there is no CUDA device")
    add("--seed", default=0, type=int)
    add("--resume", default="", help="checkpoint to go on from, ours or official")
    add("--start_epoch", default=0, type=int)
    add("--num_workers", default=10, type=int, help="loader threads (DALI) or processes (Pillow), at most one a CPU")
    add("--pin_mem", action="store_true", default=True, help="no effect: batches for a GPU are always pinned")
    add("--no_pin_mem", action="store_false", dest="pin_mem", help="no effect")
    add("--world_size", default=1, type=int, help="processes, where Slurm started them")
    add("--local_rank", default=-1, type=int, help="no effect: the launcher tells")
    add("--dist_on_itp", action="store_true")
    add("--dist_url", default="env://")

    add = parser.add_argument_group("ours").add_argument
    add("--config", metavar="FILE.yaml", help="defaults for any of these flags, by name")
    add("--dtype", default="auto", choices=["auto", "fp32", "bf16", "fp16"], help="auto: bf16 on CUDA, fp32 on CPU")
    add("--fp8", action="store_true", help="linear layers of a Large or Huge encoder in float8 (sm_89 or more)")
    add("--compile", action="store_true", help="torch.compile the step")
    add("--cuda_graphs", action="store_true", help="replay the compiled step from CUDA graphs; for small batches")
    add("--activation_checkpointing", action="store_true", help="less memory for a third more arithmetic")
    add("--clip_grad", default=None, type=float, help="largest gradient norm")
    add("--opt", default="adamw", choices=["adamw", "sgd"])
    add("--sched", default="cosine", choices=["cosine", "step", "plateau"])
    add("--decay_epochs", default=30, type=int, help="epochs between drops of --sched step")
    add("--decay_rate", default=0.1, type=float, help="factor of a drop of --sched step or plateau")
    add("--patience_epochs", default=10, type=int, help="epochs without a better loss before --sched plateau drops")
    add("--init_from", default="", help="weights to start from: official .pth, Hugging Face directory or ours")
    add("--auto_resume", action="store_true", help="go on from the newest checkpoint in output_dir, if any")
    add("--save_every", default=20, type=int, help="epochs between checkpoints")
    add("--augment", default="light", choices=["light", "medium", "strong"], help="light is the paper's")
    add("--loader", default="auto", choices=["auto", "dali", "pillow"])
    add("--on-bad-image", "--on_bad_image", default="skip", choices=["skip", "stop", "convert"],
        help="unreadable, 16-bit, CMYK or palette: skip and count, stop and name, or convert what can be")  # fmt: skip


def number_or_auto(text: str) -> int | str:
    return text if text == "auto" else int(text)


def apply_config(parser: argparse.ArgumentParser, path: str) -> None:
    """Make the values of a YAML file the defaults of the flags with those names; the command line still wins.

    Raises ValueError naming the file and the key that is not a flag or whose value does not fit it.
    """
    try:
        values = yaml.safe_load(Path(path).read_text()) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: not YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected flags and values, one `name: value` a line")
    actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
    for name, value in values.items():
        if name not in actions:
            close = difflib.get_close_matches(str(name), actions, n=1)
            raise ValueError(f"{path}: {name} is not a flag of pretrain" + (f"; {close[0]}?" if close else ""))
        action = actions[name]
        if action.nargs == 0:
            fits = isinstance(value, bool)
        else:
            try:
                unset = value is None and action.default is None  # such as lr
                value = value if unset or action.type is None else action.type(str(value))
                fits = not action.choices or value in action.choices
            except ValueError:
                fits = False
        if not fits:
            allowed = ", ".join(action.choices) if action.choices else getattr(action.type, "__name__", "true or false")
            raise ValueError(f"{path}: {name}: {value!r} does not fit (expected {allowed})")
        parser.set_defaults(**{name: value})


def check(args: argparse.Namespace) -> None:
    """ValueError naming the first flag whose value cannot work."""
    for name in ("batch_size", "epochs", "accum_iter", "input_size", "save_every", "decay_epochs"):
        if getattr(args, name) != "auto" and getattr(args, name) < 1:
            raise ValueError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    if not 0 < args.mask_ratio <= 1:
        raise ValueError(f"--mask_ratio: expected more than 0, at most 1, got {args.mask_ratio}")
    if args.resume and args.init_from:
        raise ValueError("--resume and --init_from: give one; resume goes on with a run, init_from starts a new one")
