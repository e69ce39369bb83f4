"""Where the coefficients of bias_gelu.cpp come from: python csrc/tools/fit_gelu.py

Phi(u) - 1/2 and gelu'(u) - 1/2 are odd: fit u P(s), s = 2 (u/A)^2 - 1, on 0 < u <= A, to the least largest error, by
least squares on Chebyshev points, reweighted towards where the error is largest (Lawson).
"""

from math import erf, sqrt

import numpy as np
from numpy.polynomial import chebyshev


def fit(f, A: float, terms: int):
    u = A * np.cos(np.linspace(0, np.pi / 2, 4001)[:-1])
    basis = chebyshev.chebvander(2 * (u / A) ** 2 - 1, terms - 1) * u[:, None]
    weights = np.ones_like(u)
    for _ in range(80):
        root = np.sqrt(weights)
        c = np.linalg.lstsq(basis * root[:, None], f(u) * root, rcond=None)[0]
        error = np.abs(basis @ c - f(u))
        weights *= (error / error.max() + 1e-3) ** 0.5
        weights /= weights.mean()
    return chebyshev.cheb2poly(c), error.max()


distribution = np.vectorize(lambda u: 0.5 * erf(u / sqrt(2)))


def derivative(u):
    return distribution(u) + u * np.exp(-u * u / 2) / sqrt(2 * np.pi)


for name, f, A, terms in (("kDistribution", distribution, 5.25, 15), ("kDerivative", derivative, 5.75, 18)):
    c, error = fit(f, A, terms)
    print(f"{name}: |u| <= {A}, error {error:.1e}\n  {', '.join(f'{np.float32(x):.9g}f' for x in c)}")
