"""Flags of the commands that run a checkpoint over pictures, and the model that they ask for."""

import argparse

import torch

from mae_fast.cli.arguments import positive
from mae_fast.config import DTYPES
from mae_fast.files.checkpoint import load_pretrained
from mae_fast.model import MaskedAutoencoderViT
from mae_fast.train.machine import available_device, products_in


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--checkpoint", required=True, help="official .pth, Hugging Face directory or checkpoint-N.pth")
    add("--device", help="cuda, cuda:N or cpu; default a GPU where there is one")
    add("--dtype", default="auto", choices=("auto", *DTYPES), help="of matrix products; auto as in pretrain")
    add("--batch_size", type=positive, default=64, help="pictures at a time; default 64")


def add_data(parser: argparse.ArgumentParser, pools: tuple[str, ...] = ("cls", "mean")) -> None:
    add = parser.add_argument
    add("--data_path", required=True, help="class folders, a flat folder, tar shards, a cache or CIFAR files")
    add("--num_workers", type=int, help="loader threads (DALI) or processes (Pillow); default the CPUs, at most 10")
    add("--loader", default="auto", choices=("auto", "dali", "pillow"))
    add("--pool", default="cls", choices=pools, help="the class token (default), the patches, or the mean of these")
    add("--layer", type=int, help="after so many blocks, without a norm; default all blocks and the norm")


def open_model(args: argparse.Namespace, **overrides) -> tuple[MaskedAutoencoderViT, torch.dtype]:
    """The checkpoint's model on its device, in eval mode, and the type of its matrix products."""
    device = torch.device(available_device(args.device or ("cuda" if torch.cuda.is_available() else "cpu")))
    dtype = DTYPES[products_in(args.dtype, "auto", device.type)]
    return load_pretrained(args.checkpoint, **overrides).eval().to(device), dtype
