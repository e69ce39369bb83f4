"""Kernels of a step by what they are for, from their names, and the least time that each kind can take.

The least time is that of our step (benchmarks.counting.roofline, taken apart): whoever needs more has kernels that move
or compute more, or slower ones. A side that spells attention out has its products among "products" here. Where Inductor
fuses several things, the first of KINDS that its name holds counts.
"""

import re
from pathlib import Path

from benchmarks.counting import roofline
from benchmarks.counting.roofline import Gpu
from benchmarks.harness import record
from mae_fast.config import Preset
from mae_fast.model import stages
from mae_fast.parity.cases import MODULES, calls

KINDS = {
    "optimizer": r"adam|multi_tensor|lpnorm|foreach|linalg_vector_norm|amp_",
    "attention": r"attention|flash|fmha|sdpa|softmax",
    "products": r"gemm|nvjet|cutlass|cublas|xmma|splitk|(?<![a-z])(add|b|baddb)?mm(?![a-z])|convol|cudnn",
    "GELU": r"gelu|(?<![a-z])erf(?![a-z])",
    "norms": r"layer_?norm|native_layer|rsqrt",
}
OTHER = "other"
OPS = {"add_layer_norm": "norms", "bias_gelu": "GELU"}
LONGEST = 8  # kernels that a kind names
UPDATE = 32  # of roofline.PARAMETER's bytes: the norm of the gradient and AdamW; the others are casts


def kind(name: str) -> str:
    """What a kernel, or on a CPU an op, is for."""
    return next((kind for kind, words in KINDS.items() if re.search(words, name.lower())), OTHER)


def by_kind(kernels: list[list]) -> dict[str, dict]:
    """[name, launches, seconds] of each kernel, longest first -> {kind: seconds, launches, its longest kernels}."""
    found = {name: {"kernel_s": 0.0, "launches": 0.0, "kernels": []} for name in [*KINDS, OTHER]}
    for name, launches, seconds in kernels:
        row = found[kind(name)]
        row["kernel_s"] += seconds
        row["launches"] += launches
        row["kernels"] += [[name, launches, seconds]] * (len(row["kernels"]) < LONGEST)
    return found


def least_seconds(preset: Preset, batch: int, gpu: Gpu, *, img_size: int = 224, stream: int = 2) -> dict[str, float]:
    """{kind: seconds} of our step on a GPU, or anything with a rate of products and a bandwidth."""
    work = roofline.work(preset, batch, img_size=img_size, stream=stream)
    rest = dict.fromkeys(["norms", "GELU", "optimizer", OTHER], 0.0)
    for op, _, shape, times in calls(stages.of_preset(preset, img_size, 0.75), batch):
        if op in OPS:
            rest[OPS[op]] += times * sum(MODULES[op].least_bytes(shape, roofline.C, stream))
    rest["optimizer"] = UPDATE * roofline.parameters(preset, img_size)
    rest[OTHER] = work.rest - sum(rest.values())
    least = {name: roofline.seconds(parts, gpu) for name, parts in
             (("products", work.products), ("attention", work.attention))}  # fmt: skip
    return least | {name: size / gpu.bandwidth for name, size in rest.items()}


def rates(file: Path, dtype: str) -> Gpu | None:
    """This machine as `mae-fast bench limits` measured it: products of a type and a copy. None: it did not."""
    rows = record.read(file)["rows"] if file.is_file() else []
    peak = max((row["rate"] for row in rows if row.get("unit") == "TFLOP/s" and row["dtype"] == dtype), default=0)
    bandwidth = max((row["rate"] for row in rows if row["side"] == "copy"), default=0)
    return Gpu(peak * 1e12, bandwidth * 1e9, 0) if peak and bandwidth else None
