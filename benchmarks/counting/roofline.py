"""What each GPU's datasheet allows a training step, from the model's dimensions alone: no measurement, no GPU.

    python -m benchmarks.counting.roofline [--presets small,base,large,huge] [--batch 256] [--stream 2] [--json FILE]

The kernels of a step run one after another, so their times add up. Three parts, bfloat16 under autocast:

* products: each product of the linear layers (benchmarks.counting.flops, ours, not the naive model's) takes the longer
  of its operations at the matrix units' dense peak and its factors and result through memory;
* attention: likewise; the backward pass computes the scores again, and each tensor is moved once;
* rest: all that is no product, bounded by memory. The fused ops (mae_fast.parity.cases): masking, gathering patches,
  the loss, GELU with its bias, and a residual addition with the norm after it, twice a block and once at the end.
  Gradients of the other biases read the gradient once. A parameter moves 44 bytes: 6 to be cast, 6 to cast its
  gradient back, 4 for the norm, 28 in AdamW. Positions, concatenations and norms' weights are left out; nothing stays
  in a cache.

`images/s` is the batch over the sum: no step built of these kernels can be faster on that GPU. `MFU` is then the share
of the peak that the model's FLOPs (the naive model's, the same for everybody) come to.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

import mae_fast
from benchmarks.counting import flops
from mae_fast.config import SIZES, Preset
from mae_fast.files.atomic import write_atomic
from mae_fast.model import stages
from mae_fast.parity.cases import MODULES, calls


@dataclass(frozen=True)
class Gpu:
    peak: float  # dense bfloat16 FLOP/s of the matrix units
    bandwidth: float  # bytes/s
    memory: float  # bytes


# NVIDIA's datasheets, SXM parts: half of the rate with sparsity where a sheet gives that; for B200 the HGX B200's.
GPUS = {
    "A100": Gpu(312e12, 2.039e12, 80e9),
    "H100": Gpu(989e12, 3.35e12, 80e9),
    "H200": Gpu(989e12, 4.8e12, 141e9),
    "B200": Gpu(2250e12, 8e12, 180e9),
}
C = 2  # bytes of a bfloat16 number
PARAMETER = 44  # bytes moved a parameter, see above


@dataclass(frozen=True)
class Work:
    """Of one step: each product, and each attention pass, as (FLOPs, bytes); the bytes of the rest."""

    products: list[tuple[float, float]]
    attention: list[tuple[float, float]]
    rest: float


def work(preset: Preset, batch: int, *, img_size: int = 224, mask_ratio: float = 0.75, stream: int = 2) -> Work:
    """The work of one step on a batch. stream: bytes a number of the residual stream."""
    linear, attention, rest = [], [], 0.0
    for product in flops.products(preset, batch, img_size=img_size, mask_ratio=mask_ratio):
        M, K, N = product.M, product.K, product.N
        if not product.attention:
            one = 2 * M * K * N, C * (M * K + K * N + M * N)
            linear += [one] * (2 + product.left_gradient) * product.layers
            if not product.name.endswith(("qkv", "proj", "fc1", "fc2")):  # whose biases other ops sum as they go
                rest += product.layers * C * M * N
    for op, _, shape, times in calls(stages.of_preset(preset, img_size, mask_ratio), batch):
        for moved, products in zip(MODULES[op].least_bytes(shape, C, stream), (2, 5), strict=True):
            if op == "attention":
                N, D = shape["N"], shape["H"] * shape["D"]
                attention += [(products * 2 * batch * N * N * D, moved)] * times
            else:
                rest += times * moved
    return Work(linear, attention, rest + PARAMETER * parameters(preset, img_size))


def parameters(preset: Preset, img_size: int = 224) -> int:
    """Trained parameters of a preset."""
    with torch.device("meta"):
        model = mae_fast.MaskedAutoencoderViT(**preset.kwargs(), img_size=img_size)
    return sum(x.numel() for x in model.parameters() if x.requires_grad)


def seconds(parts: list[tuple[float, float]], gpu: Gpu) -> float:
    return sum(max(operations / gpu.peak, size / gpu.bandwidth) for operations, size in parts)


def rows(presets: list[str], batch: int, stream: int = 2) -> list[dict]:
    """A row for each preset and GPU."""
    table = []
    for name in presets:
        step = work(SIZES[name], batch, stream=stream)
        own = sum(product.flops for product in flops.products(SIZES[name], batch))
        for gpu_name, gpu in GPUS.items():
            times = seconds(step.products, gpu), seconds(step.attention, gpu), step.rest / gpu.bandwidth
            rate = batch / sum(times)
            table.append({
                "preset": name, "gpu": gpu_name, "batch": batch, "gflop_per_image": own / batch / 1e9,
                "rest_mb_per_image": step.rest / batch / 1e6, "products_ms": times[0] * 1e3,
                "attention_ms": times[1] * 1e3, "rest_ms": times[2] * 1e3, "images_per_s": rate,
                "mfu": rate * flops.step_flops(SIZES[name]) / gpu.peak,
            })  # fmt: skip
    return table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.counting.roofline", description=__doc__.split("\n")[0])
    parser.add_argument("--presets", default="small,base,large,huge", help=f"of {', '.join(SIZES)}, with commas")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--stream", type=int, default=2, choices=[2, 4], help="bytes a number of the residual stream")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(argv)
    presets = options.presets.split(",")
    if unknown := [name for name in presets if name not in SIZES]:
        parser.error(f"--presets: no {', '.join(unknown)}; there are {', '.join(SIZES)}")
    if options.batch < 1:
        parser.error("--batch: expected at least 1")
    table = rows(presets, options.batch, options.stream)
    print("What the datasheets allow; nothing here is measured.")
    print("preset  GFLOP/image  rest MB/image   GPU  products ms  attention ms  rest ms  images/s at most   MFU")
    for row in table:
        print(
            f"{row['preset']:6} {row['gflop_per_image']:12.1f} {row['rest_mb_per_image']:14.1f}  {row['gpu']} "
            f"{row['products_ms']:12.2f} {row['attention_ms']:13.2f} {row['rest_ms']:8.2f} "
            f"{row['images_per_s']:17.0f} {row['mfu']:5.0%}"
        )
    if options.json:
        content = json.dumps({"gpus": {name: vars(gpu) for name, gpu in GPUS.items()}, "rows": table}, indent=1) + "\n"
        write_atomic(options.json, lambda file: file.write(content.encode()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
