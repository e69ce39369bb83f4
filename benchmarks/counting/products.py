"""The matrix products of a training step run alone: what is left of it when all else costs nothing.

Each product is laid out in memory as the step has it (F.linear's weight is (N, K)) and written to a tensor that is
there already. Layers of one shape share their tensors, so caches help here more than they can in a step: the limit
errs to the low side, and a step's distance from it to the high side.
"""

from collections.abc import Callable
from functools import partial

import torch

from benchmarks.counting.flops import Product


def groups(products: list[Product]) -> dict[str, list[Product]]:
    """Split the products into those of linear layers and those of attention."""
    return {
        "linear products alone": [product for product in products if not product.attention],
        "attention products alone": [product for product in products if product.attention],
    }


def run_alone(products: list[Product], device: str, dtype: torch.dtype = torch.bfloat16) -> Callable[[], None]:
    """-> a function that runs every product once: forward, left gradient, right gradient, for each layer."""
    calls = [call for product in products for call in _calls(product, device, dtype) * product.layers]

    def run() -> None:
        for call in calls:
            call()

    return run


def _calls(product: Product, device: str, dtype: torch.dtype) -> list[Callable]:
    M, K, N = product.M, product.K, product.N
    copies, multiply = ((product.heads,), torch.bmm) if product.attention else ((), torch.mm)

    def draw(rows, columns):
        return torch.randn(*copies, rows, columns, device=device).to(dtype)

    left, grad = draw(M, K), draw(M, N)
    if product.name.endswith(" mix"):  # the values lie as (K, N), and so does their gradient
        right = draw(K, N)
        pairs = [(left, right), (grad, right.mT), (left.mT, grad)]
    else:
        right = draw(N, K)
        pairs = [(left, right.mT), (grad, right), (grad.mT, left)]
    if not product.left_gradient:
        del pairs[1]
    return [partial(multiply, a, b, out=multiply(a, b)) for a, b in pairs]
