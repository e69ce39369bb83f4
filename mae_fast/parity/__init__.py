"""Numerical parity: every fast path held to plain PyTorch by float64, on the machine at hand (`mae-fast parity`).

The rule, everywhere: err(fast, float64) <= 2 err(plain PyTorch at the same dtype, float64) + a floor.
"""
