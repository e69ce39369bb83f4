"""The cases of masked_smooth_l1, as mae_fast.parity.cases wants them: those of masked_mse with a beta."""

import torch

from mae_fast import reference
from mae_fast.parity.cases import masked_mse
from mae_fast.parity.cases.inputs import Inputs

BETAS = 0.0, 1.0, 0.25
# Patches are read by the code that masked_mse reads them with, so a few shapes do.
ROWS = [masked_mse.ROWS[i] | {"beta": beta} for i, beta in zip((0, 1, 3, 4, 7, 8), 2 * BETAS, strict=True)]
EDGES = [shape | {"beta": BETAS[i % 2]} for i, shape in enumerate(masked_mse.EDGES[::3])]
SMALL = masked_mse.SMALL | {"beta": 0.5}


def make(shape, dtype, device):
    """Draw images and predictions. With beta 0 none is near its target, where rounding decides on the slope's sign."""
    (pred, *rest), grads, (exact, *exact_rest) = masked_mse.make(shape, dtype, device)
    beta = shape["beta"]
    if beta == 0:
        imgs, ids, patch_size, *numbers = exact_rest
        rows = ids if exact.shape[1] != ids.shape[1] else torch.arange(ids.shape[1], device=device).expand_as(ids)
        near = reference.masked_residual(exact, imgs, ids, patch_size, *numbers).abs() < 0.1
        shift = torch.zeros_like(exact).scatter(1, rows[..., None].expand_as(near), (near * 0.4).to(exact))
        pred = (exact + shift).to(dtype)
        exact = pred.double()
    return Inputs((pred, *rest, beta), grads, (exact, *exact_rest, beta))


def schemas(args):
    pred, _, ids, *_ = args
    slope = torch.rand_like(pred).detach() * 2 - 1
    return {"masked_smooth_l1": (*args, True), "masked_smooth_l1_backward": (slope, ids, torch.tensor(3.0), 6)}


least_bytes = masked_mse.least_bytes


def calls(step, batch):
    """None: a model's loss is masked_mse unless asked for another."""
    return ()


def launches():
    for name, op, args in masked_mse.launches():
        op = op.replace("mse", "smooth_l1")
        if op.endswith("_backward"):
            yield name, op, args
        else:
            *rest, with_grad = args
            for beta in (0.0, 1.0):
                yield f"{name}, beta={beta:g}", op, (*rest, beta, with_grad)
