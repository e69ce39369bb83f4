"""Kernels of a step by what they are for, from their names, and the least time that each purpose can take.

Least: the products of the linear layers at the fastest product that was measured or, where that takes longer, their
factors and results through memory at the speed of a copy; attention likewise; all else what it must move, at that speed
(mae_fast.parity.cases, benchmarks.counting.roofline). Bias sums need no pass of their own: the kernel that makes a
gradient has it in registers. That is our step: whoever needs more has kernels that move or compute more, or slower
ones. A side that spells attention out has its products among the matrix products here.
"""

import re
from pathlib import Path

from benchmarks.counting import roofline
from benchmarks.counting.roofline import Gpu
from benchmarks.harness import record
from mae_fast.config import Preset
from mae_fast.model import stages
from mae_fast.parity.cases import MODULES, calls

# In the order of pictures. Inductor's fused kernels name all that they compute: the first of SEARCH that is in the name
# of a kernel is what it is for.
PURPOSES = {
    "matrix products": r"gemm|nvjet|cutlass|cublas|xmma|splitk|(?<![a-z])(add|b|baddb)?mm(?![a-z])|convol|cudnn",
    "attention, forward": r"^(?!triton_).*(attention|flash|fmha|sdpa)|softmax",  # triton_: Inductor's, around an op
    "attention, backward": r"^(?!triton_).*(attention|flash|fmha|sdpa)\w*?(bwd|backward)|softmax\w*backward",
    "GELU, forward": r"gelu|(?<![a-z])erf(?![a-z])",
    "GELU, backward": r"gelu\w*(bwd|backward)",
    "addition and norm": r"layer_?norm|rsqrt",
    "masking, patches, loss": r"^_(random_masking|gather_patches|unshuffle|masked_mse)",
    "AdamW, gradient norm": r"adam|multi_tensor|lpnorm|normtwoops|linalg_vector_norm|foreach|amp_",
    "bias sums, casts, copies": r"",
}
SEARCH = [
    "AdamW, gradient norm", "masking, patches, loss", "attention, backward", "attention, forward", "matrix products",
    "GELU, backward", "GELU, forward", "addition and norm", "bias sums, casts, copies",
]  # fmt: skip
OPS = {
    "attention": ("attention, forward", "attention, backward"),
    "bias_gelu": ("GELU, forward", "GELU, backward"),
    "add_layer_norm": ("addition and norm", "addition and norm"),
}
OPTIMIZER = 32  # bytes a parameter that AdamW and the norm move; the rest of roofline.PARAMETER is casts


def purpose(kernel: str) -> str:
    """What a kernel, or on a CPU an op, is for."""
    return next(name for name in SEARCH if re.search(PURPOSES[name], kernel.lower()))


def by_purpose(kernels: list[list]) -> dict[str, dict]:
    """[name, launches, seconds] of each kernel, longest first -> {purpose: seconds, launches, its kernels}."""
    found = {name: {"kernel_s": 0.0, "launches": 0.0, "kernels": []} for name in PURPOSES}
    for name, launches, seconds in kernels:
        row = found[purpose(name)]
        row["kernel_s"] += seconds
        row["launches"] += launches
        row["kernels"].append([name, launches, seconds])
    return found


def least_seconds(preset: Preset, batch: int, gpu: Gpu, *, img_size: int = 224, stream: int = 2) -> dict[str, float]:
    """{purpose: seconds} of our step on a GPU, or anything with a rate of products and a bandwidth."""
    work = roofline.work(preset, batch, img_size=img_size, stream=stream)
    least = dict.fromkeys(PURPOSES, 0.0)
    for op, _, shape, times in calls(stages.of_preset(preset, img_size), batch):
        names = OPS.get(op, ("masking, patches, loss",) * 2)
        products = 2 * batch * shape["N"] ** 2 * shape["H"] * shape["D"] if op == "attention" else 0
        sizes = MODULES[op].least_bytes(shape, roofline.C, stream)
        for name, size, number in zip(names, sizes, (2, 5), strict=True):
            least[name] += times * max(size / gpu.bandwidth, number * products / gpu.peak)
    parameters = roofline.parameters(preset, img_size) / gpu.bandwidth
    least["AdamW, gradient norm"] = OPTIMIZER * parameters
    least["bias sums, casts, copies"] = (roofline.PARAMETER - OPTIMIZER) * parameters
    return least | {"matrix products": roofline.seconds(work.products, gpu)}


def rates(file: Path, dtype: str) -> Gpu | None:
    """This machine as `mae-fast bench limits` measured it: products of a type and a copy. None: it did not."""
    rows = record.read(file)["rows"] if file.is_file() else []
    peak = max((row["rate"] for row in rows if row.get("unit") == "TFLOP/s" and row["dtype"] == dtype), default=0)
    bandwidth = max((row["rate"] for row in rows if row["side"] == "copy"), default=0)
    return Gpu(peak * 1e12, bandwidth * 1e9, 0) if peak and bandwidth else None
