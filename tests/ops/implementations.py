"""Which implementations there are here."""

import sys

import torch

from mae_fast import ops

HALVES = torch.bfloat16, torch.float16


BUILT = any(module and name.startswith("mae_fast._C") for name, module in sys.modules.items())


WITH_IDS = [op for op in ops.REFERENCE if "Tensor ids" in str(getattr(torch.ops.mae_fast, op).default._schema)]


IMPLEMENTATIONS = ["cpu", "reference", "cuda" if torch.cuda.is_available() else "triton"]  # "triton": interpreted
