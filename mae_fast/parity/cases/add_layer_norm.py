"""The cases of add_layer_norm, as mae_fast.parity.cases wants them."""

from itertools import product

import torch

from mae_fast.config import dtype_name
from mae_fast.model.precision import stream_dtype
from mae_fast.model.stages import Stages
from mae_fast.parity.cases.inputs import Call, Inputs, meta, strided

ROWS = [
    dict(B=1, D=8),
    dict(B=3, D=63, branch=False),
    dict(B=40, D=96, y_bias=False),
    dict(B=70, D=200, x="float32"),
    dict(B=33, D=130, x="float32", strided=True, large=True),
    dict(B=9, D=512, x="float32", branch=False),
    dict(B=5, N=7, D=72, scale=True),
    dict(B=17, D=130, x="float32", scale=True, y_bias=False),
]
EDGES = [
    dict(B=B, D=D, strided=B > 1, branch=branch, x="float32")
    for B, D, branch in product((1, 17), (7, 15, 17, 33, 66, 130), (False, True))
] + [dict(B=B, N=N, D=33, scale=True) for B, N in ((1, 1), (3, 5), (40, 1))]
SMALL = dict(B=3, D=10, scale=True)


def make(shape, dtype, device):
    """Draw inputs. branch, y_bias: whether there is something to add. scale: whether drop path scales the branch.

    x: the type of the residual stream, "float32", "stream" for the model's own, else that of the products.
    """
    B, N, D = shape["B"], shape.get("N", 2), shape["D"]
    x, y = (torch.randn(B, N, D, device=device) + 5 * shape.get("large", 0) for _ in range(2))
    own = stream_dtype(None, torch.float32, dtype, torch.device(device))
    x, y = x.to({"float32": torch.float32, "stream": own}.get(shape.get("x"), dtype)), y.to(dtype)
    x, y = (strided(x), strided(y)) if shape.get("strided") else (x, y)
    y_bias, weight, bias = (torch.randn(D, device=device) for _ in range(3))
    branch = shape.get("branch", True)
    args = (x, y if branch else None, y_bias if branch and shape.get("y_bias", True) else None, weight, bias)
    scale = None
    if shape.get("scale"):
        scale = (torch.rand(B, device=device) < 0.7) / 0.7  # some images lose their branch
    exact = (v if v is None else v.double() for v in args)
    grads = tuple(i for i, v in enumerate(args) if v is not None)
    exact_scale = scale if scale is None else scale.double()
    return Inputs((*args, 1e-6, dtype, scale), grads, (*exact, 1e-6, torch.float64, exact_scale))


def schemas(args):
    s, out, mean, rstd = torch.ops.mae_fast.add_layer_norm(*(x.detach() for x in args[:5]), *args[5:])
    backward = torch.randn_like(s), torch.randn_like(out), s, args[3].detach(), mean, rstd, True, True, args[7]
    return {"add_layer_norm": args, "add_layer_norm_backward": backward}


def least_bytes(shape, c, stream=4):
    """Count mean and 1/std of each row too. stream: bytes a number of the residual stream.

    Backward: x and y have one gradient, which is written twice where their types differ. last: no later block reads the
    sum, so that it has no gradient of its own.
    """
    rows, D = shape["B"] * shape.get("N", 2), shape["D"]
    if not shape.get("branch", True):
        return rows * (D * (stream + c) + 8) + 2 * D * 4, rows * (D * (2 * stream + c) + 8) + 3 * D * 4
    grads = (0 if shape.get("last") else stream) + (stream if stream == c else stream + c)
    return rows * (D * 2 * (stream + c) + 8) + 3 * D * 4, rows * (D * (stream + c + grads) + 8) + 4 * D * 4


def calls(step: Stages, batch: int):
    def call(where: str, rows: int, width: int, times: int, **more) -> Call:
        return Call(where, dict(B=batch, N=rows, D=width, x="stream", **more), times)

    for first, *others in ([step.encoder], [step.decoder, step.last]):
        yield call(f"first of {first.name}", first.tokens, first.width, 1, branch=False)
        yield call(first.name, first.tokens, first.width, first.layers - 1)
        yield call(f"{first.name}, second", first.rows, first.width, first.layers)
        for stage in others:
            yield call(stage.name, stage.tokens, stage.width, stage.layers)
            yield call(f"{stage.name}, second", stage.rows, stage.width, stage.layers)
        last = [first, *others][-1]
        yield call(f"after {last.name}", last.rows, last.width, 1, last=True)


def launches():
    bf16, fp32 = torch.bfloat16, torch.float32
    widths = (64 * 50, 384), (64 * 50, 768), (64 * 50, 1024), (64 * 65, 1280), (64 * 197, 512), (64, 32), (64, 4096)
    for (rows, D), stream in product(widths, (fp32, bf16)):
        x, y, weight, row = meta(rows, D, dtype=stream), meta(rows, D, dtype=bf16), meta(D), meta(rows)
        name = f"D={D} {dtype_name(stream)} stream"
        yield name, "add_layer_norm", (x, y, weight, weight, weight, 1e-6, bf16)
        yield name, "add_layer_norm_backward", (x, y, x, weight, row, row, stream is fp32, True)
        images, name = meta(64), f"{name}, drop path"
        yield name, "add_layer_norm", (x, y, weight, weight, weight, 1e-6, bf16, images)
        yield name, "add_layer_norm_backward", (x, y, x, weight, row, row, True, True, images)
