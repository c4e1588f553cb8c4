"""Elementary functions in single precision that the compiler can turn into vector instructions.

The C library's take one number at a time. These are polynomials without branches, the same operations for every
element wherever it stands in an array, so that a value does not depend on its neighbours. Polynomials: Cephes (S. L.
Moshier, expf.c and logf.c) and M. Giles, "Approximating the erfinv function", GPU Computing Gems (2011).
"""

from __future__ import annotations

import math

import numba
import numpy as np

from qshower.model.likelihood import SCALE_CENTRE, SCALE_HALF

_f, _i = np.float32, np.int32
# 1.5 · 2^23: adding it rounds to the nearest whole number, which is then in the lowest bits.
_ROUNDER = _f(12582912.0)
_LN2_HIGH, _LN2_LOW = _f(0.693359375), _f(-2.12194440e-4)
_ONE_BITS, _HALF_ROOT_BITS = _i(0x3F800000), _i(0x3F3504F3)


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def exp(x: np.float32) -> np.float32:
    """e^x for −87 ≤ x ≤ 88, x clamped to that; relative error below 1e−7."""
    inside = min(max(x, _f(-87)), _f(88))
    rounded = inside * _f(1.44269504) + _ROUNDER
    power = rounded - _ROUNDER
    r = inside - power * _LN2_HIGH - power * _LN2_LOW
    y = _f(1.9875691500e-4) * r + _f(1.3981999507e-3)
    y = (y * r + _f(8.3334519073e-3)) * r + _f(4.1665795894e-2)
    y = (y * r + _f(1.6666665459e-1)) * r + _f(5.0000001201e-1)
    y = y * r * r + r + _f(1)
    return _f(y * _i((_f(rounded).view(_i) << _i(23)) + _ONE_BITS).view(_f))


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def log(x: np.float32) -> np.float32:
    """ln x for normal x > 0; relative error below 1e−7, absolute where |ln x| < 1."""
    bits = _f(x).view(_i)
    power = (bits - _HALF_ROOT_BITS) >> _i(23)
    m = _i(bits - (power << _i(23))).view(_f) - _f(1)
    p = _f(7.0376836292e-2) * m - _f(1.1514610310e-1)
    p = (p * m + _f(1.1676998740e-1)) * m - _f(1.2420140846e-1)
    p = (p * m + _f(1.4249322787e-1)) * m - _f(1.6668057665e-1)
    p = (p * m + _f(2.0000714765e-1)) * m - _f(2.4999993993e-1)
    p = p * m + _f(3.3333331174e-1)
    square, exponent = m * m, _f(power)
    return _f(m + (p * m * square + exponent * _LN2_LOW - _f(0.5) * square) + exponent * _LN2_HIGH)


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def normal_quantile(p: np.float32) -> np.float32:
    """z with Φ(z) = p for 1e−7 ≤ p ≤ 1 − 1e−7; relative error below 1e−6, absolute where |z| < 0.01."""
    w = -log(_f(4) * p * (_f(1) - p))
    c = w - _f(2.5)
    middle = _f(2.81022636e-08) * c + _f(3.43273939e-07)
    middle = (middle * c - _f(3.5233877e-06)) * c - _f(4.39150654e-06)
    middle = (middle * c + _f(0.00021858087)) * c - _f(0.00125372503)
    middle = (middle * c - _f(0.00417768164)) * c + _f(0.246640727)
    middle = middle * c + _f(1.50140941)
    c = _f(math.sqrt(max(w, _f(0)))) - _f(3)
    tail = _f(-0.000200214257) * c + _f(0.000100950558)
    tail = (tail * c + _f(0.00134934322)) * c - _f(0.00367342844)
    tail = (tail * c + _f(0.00573950773)) * c - _f(0.0076224613)
    tail = (tail * c + _f(0.00943887047)) * c + _f(1.00167406)
    tail = tail * c + _f(2.83297682)
    return _f(_f(1.41421356) * (_f(2) * p - _f(1)) * (middle if w < _f(5) else tail))


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def scale(raw: np.float32) -> np.float32:
    """Standard deviation of a component with raw output ``raw``, as ``qshower.model.likelihood`` defines it."""
    tanh = _f(1) - _f(2) / (exp(_f(2 / SCALE_HALF) * (raw - _f(SCALE_CENTRE))) + _f(1))
    return exp(_f(SCALE_CENTRE) + _f(SCALE_HALF) * tanh)
