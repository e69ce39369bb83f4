"""The fused attention in other packages' Vision Transformers: timm's, DINO's, any with query, key and value packed.

No class is known by name. A module is fused if it has `qkv`, `proj` and `num_heads`, no parameters but those of the two
linear layers, and gives what we give on random tokens.
"""

import copy

import torch
from torch import Tensor, nn

from mae_fast.dropin.forward_swap import ForwardSwap
from mae_fast.model.attention import ATTENTION, attend

TOLERANCE = 1e-6  # of the largest number, in float64
_swap = ForwardSwap()


def fuse_attention(module: nn.Module) -> dict[str, str]:
    """Compute attention by mae_fast's op wherever that changes no result; undone by `unfuse_attention`.

    -> {name of each attention in module: "fused", or why not}. Parameters, state dict and hooks of the linear layers
    stay. A fused attention runs its own forward where it is asked for more: dropout of its weights in training, a mask
    or any other argument, an input that is not (B, N, D). Raises ValueError where there is no packed attention at all.
    """
    found = {name: m for name, m in module.named_modules() if isinstance(getattr(m, "qkv", None), nn.Module)}
    if not found:
        raise ValueError(f"module: no attention with a packed qkv in {type(module).__name__}")
    result = {}
    for name, attention in found.items():
        reason = _why_not(attention)
        result[name] = reason or "fused"
        if reason is None:
            _swap.install(type(attention), _forward)
            _swap.turn_on(attention)
    return result


def unfuse_attention() -> None:
    """Undo every `fuse_attention`."""
    _swap.restore()


def _forward(original, self, x: Tensor, *args, **kwargs):
    asked = any(value is not None and value is not False for value in (*args, *kwargs.values()))
    drops = self.training and any(dropout.p for dropout in _dropouts(self))
    if asked or drops or not isinstance(x, Tensor) or x.dim() != 3:
        return original(self, x, *args, **kwargs)
    return _fused(self, x)


def _fused(self, x: Tensor) -> Tensor:
    x = self.proj(attend(ATTENTION["auto"], x, self.qkv, self.num_heads))
    return self.proj_drop(x) if hasattr(self, "proj_drop") else x


def _dropouts(attention: nn.Module) -> list[nn.Dropout]:
    """The dropouts that a fused attention would skip."""
    return [m for name, m in attention.named_children() if isinstance(m, nn.Dropout) and name != "proj_drop"]


def _why_not(attention: nn.Module) -> str | None:
    linear = [getattr(attention, name, None) for name in ("qkv", "proj")]
    if not all(isinstance(m, nn.Linear) for m in linear) or not isinstance(getattr(attention, "num_heads", None), int):
        return "expected linear layers qkv and proj, and num_heads"
    if linear[0].out_features % (3 * attention.num_heads):
        return f"qkv gives {linear[0].out_features} numbers, not three times {attention.num_heads} heads"
    own = {id(p) for m in linear for p in m.parameters()}
    if others := [name for name, p in attention.named_parameters() if id(p) not in own]:
        return f"has more parameters: {', '.join(others)}"
    return _check(attention)


@torch.no_grad()
def _check(attention: nn.Module) -> str | None:
    """Compare on a copy, in float64, dropout off, with weights so large that scores differ and a wrong scale shows."""
    generator = torch.Generator().manual_seed(0)
    try:
        probe = copy.deepcopy(attention).double().train()
        for p in probe.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype) * 2 * p.shape[-1] ** -0.5)
        for module in probe.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        x = torch.randn(2, 7, probe.qkv.in_features, generator=generator, dtype=torch.float64)
        x = x.to(probe.qkv.weight.device)
        expected = probe(x)
    except Exception as error:  # whatever a foreign forward raises is the answer
        return f"cannot be run on tokens alone: {type(error).__name__}: {error}"
    if not isinstance(expected, Tensor):
        return f"returns a {type(expected).__name__}, not the tokens alone"
    actual = _fused(probe, x)
    if actual.shape != expected.shape or (actual - expected).abs().max() > TOLERANCE * expected.abs().max():
        return "computes something else than softmax(q k^T / sqrt(Dh)) v"
    return None
