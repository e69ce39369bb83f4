"""The encoder's linear layers in float8: opt-in, for Large and Huge, and never part of a parity claim.

Each of a layer's three products takes both factors in float8, scaled by one number a tensor so that its largest
magnitude becomes the type's largest: activations and weights in e4m3, gradients in e5m2, which has the wider range
(Micikevicius et al. 2022, arXiv 2209.05433). Sums are float32, results bfloat16; weights, biases, norms, GELU and
attention stay what they are. The products are PyTorch's `torch._scaled_mm`; it runs on CPUs too, for tests.
"""

import torch
from torch import Tensor, nn

from mae_fast.model import MaskedAutoencoderViT

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


class Float8Linear(nn.Linear):
    """A linear layer of multiples of 16 in and out, under the same names; float (..., in) -> bfloat16 (..., out)."""

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        # The weight's gradient sums over the rows, by sixteens: rows of zeros add nothing.
        padded = nn.functional.pad(rows, (0, 0, 0, -len(rows) % 16))
        out = _Float8Product.apply(padded, self.weight)[: len(rows)]
        return (out + self.bias.to(out.dtype)).unflatten(0, x.shape[:-1])


class _Float8Product(torch.autograd.Function):
    """x (M, K), weight (N, K) -> x weight^T (M, N) in bfloat16; M, K and N multiples of 16."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor) -> Tensor:
        x8, x_scale = quantise(x, E4M3)
        w8, w_scale = quantise(weight, E4M3)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.dtypes = x.dtype, weight.dtype
        return _product(x8, x_scale, w8, w_scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        g8, g_scale = quantise(grad, E5M2)
        grad_x = _product(g8, g_scale, w8.t().contiguous(), w_scale)
        grad_w = _product(g8.t().contiguous(), g_scale, x8.t().contiguous(), x_scale)
        return grad_x.to(ctx.dtypes[0]), grad_w.to(ctx.dtypes[1])


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """-> x / scale in dtype, and scale, a float32 scalar; both stay on the device."""
    limit = torch.finfo(dtype).max
    scale = x.abs().amax().float().clamp(min=1e-12) / limit
    return (x.float() / scale).clamp(-limit, limit).to(dtype), scale


def _product(a: Tensor, a_scale: Tensor, b: Tensor, b_scale: Tensor) -> Tensor:
    """a (M, K), b (N, K), both float8 -> a b^T in bfloat16. The hardware wants both factors with K innermost."""
    return torch._scaled_mm(a, b.t(), scale_a=a_scale, scale_b=b_scale, out_dtype=torch.bfloat16)


def use_float8(model: MaskedAutoencoderViT) -> None:
    """Turn the linear layers of the encoder's blocks into Float8Linear, in place; parameters and keys stay the same."""
    for name, layer in model.blocks.named_modules():
        if type(layer) is nn.Linear:
            if layer.in_features % 16 or layer.out_features % 16:
                raise ValueError(f"fp8: blocks.{name} is {layer.in_features} x {layer.out_features}, not by sixteens")
            layer.__class__ = Float8Linear  # the same parameters, hooks and place


def require_float8(device: torch.device, dtype: torch.dtype, width: int) -> None:
    """ValueError where float8 cannot run or is not meant to: the wrong device, another dtype, a narrower encoder."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else "a CPU"
        raise ValueError(f"--fp8: needs a GPU of compute capability sm_89 or more (Ada, Hopper, Blackwell), not {name}")
    if dtype != torch.bfloat16:
        raise ValueError(f"--fp8: all that is not float8 runs in bfloat16; got {dtype}, say --dtype bf16")
    if width < 1024:
        raise ValueError("--fp8: for the encoders of Large and Huge, 1024 wide or more; drop it for smaller ones")
