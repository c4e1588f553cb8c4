"""Elementary functions of the drawing kernels: the same bits on every kind of processor, and vectors of them.

The C library's depend on its version and on the processor, and take one number at a time. These are polynomials
without branches in additions, products and fused multiply-adds of IEEE 754, each rounded once: a value depends neither
on its neighbours in an array nor on how many of them the compiler works on together. Polynomials: Cephes (S. L.
Moshier, expf.c and logf.c) and M. Giles, "Approximating the erfinv function", GPU Computing Gems (2011); those of
``gelu`` and ``below`` were fitted for this module.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils as cgutils_untyped
from numba.core import types

from qshower.model.decoder_shape import SCALE_CENTRE, SCALE_HALF
from qshower.sampler.jit.vectors import Call, emitted

cgutils: Any = cgutils_untyped

_f, _i = np.float32, np.int32
_FUSED = ir.FunctionType(ir.FloatType(), [ir.FloatType()] * 3)
# 1.5 · 2^23: adding it rounds to the nearest whole number, which is then in the lowest bits.
_ROUNDER = _f(12582912.0)
_LN2_HIGH, _LN2_LOW = _f(0.693359375), _f(-2.12194440e-4)
_ONE_BITS, _HALF_ROOT_BITS = _i(0x3F800000), _i(0x3F3504F3)
_LN2 = 0.6931471805599453
# Of ln(erfc(x) e^(x²) / t) in Chebyshev polynomials of 2t − 1, t = 2 / (2 + x).
_ERFC = (
    -0.6513268598908546, 0.6419697923564901, 0.01947647320418598, -0.009561514786808766, -0.0009465953444819168,
    0.0003668394978526598, 4.2523324806988013e-05, -2.0278578112590776e-05, -1.6242900046158453e-06,
    1.3036558355755918e-06, 1.5626441700620757e-08, -8.523809586774882e-08, 6.5290543675863645e-09,
    5.059343589289224e-09, -9.913642696968325e-10, -2.2736499295106964e-10, 9.646776933806092e-11,
    2.3941879478635786e-12, -6.8861811800754566e-12, 8.946408680343054e-13, 3.1294438909020877e-13,
    -1.1256998367206062e-13, 2.563997125605207e-16, 7.213602286812805e-15,
)  # fmt: skip


@emitted(lambda _a, _b, _c: types.float32)
def fma(call: Call) -> Any:
    """a · b + c of float32, rounded once."""
    fused = cgutils.get_or_insert_function(call.builder.module, _FUSED, "llvm.fma.f32")
    arguments = zip(call.values, call.kinds, strict=True)
    return call.builder.call(
        fused, [call.context.cast(call.builder, value, kind, types.float32) for value, kind in arguments]
    )


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def exp(x: np.float32) -> np.float32:
    """e^x for −87 ≤ x ≤ 88, x clamped to that; relative error below 1e−7."""
    inside = min(max(x, _f(-87)), _f(88))
    rounded = fma(inside, _f(1.44269504), _ROUNDER)
    power = rounded - _ROUNDER
    r = fma(power, -_LN2_LOW, fma(power, -_LN2_HIGH, inside))
    y = fma(_f(1.9875691500e-4), r, _f(1.3981999507e-3))
    y = fma(fma(y, r, _f(8.3334519073e-3)), r, _f(4.1665795894e-2))
    y = fma(fma(y, r, _f(1.6666665459e-1)), r, _f(5.0000001201e-1))
    y = fma(y, r * r, r) + _f(1)
    return _f(y * _i((_f(rounded).view(_i) << _i(23)) + _ONE_BITS).view(_f))


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def log(x: np.float32) -> np.float32:
    """ln x for normal x > 0; relative error below 1e−7, absolute where |ln x| < 1."""
    bits = _f(x).view(_i)
    power = (bits - _HALF_ROOT_BITS) >> _i(23)
    m = _i(bits - (power << _i(23))).view(_f) - _f(1)
    p = fma(_f(7.0376836292e-2), m, _f(-1.1514610310e-1))
    p = fma(fma(p, m, _f(1.1676998740e-1)), m, _f(-1.2420140846e-1))
    p = fma(fma(p, m, _f(1.4249322787e-1)), m, _f(-1.6668057665e-1))
    p = fma(fma(p, m, _f(2.0000714765e-1)), m, _f(-2.4999993993e-1))
    p = fma(p, m, _f(3.3333331174e-1))
    square, exponent = m * m, _f(power)
    low = fma(p * m, square, fma(exponent, _LN2_LOW, _f(-0.5) * square))
    return _f(fma(exponent, _LN2_HIGH, m + low))


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def normal_quantile(p: np.float32) -> np.float32:
    """z with Φ(z) = p for 1e−7 ≤ p ≤ 1 − 1e−7; relative error below 1e−6, absolute where |z| < 0.01."""
    w = -log(_f(4) * p * (_f(1) - p))
    c = w - _f(2.5)
    middle = fma(_f(2.81022636e-08), c, _f(3.43273939e-07))
    middle = fma(fma(middle, c, _f(-3.5233877e-06)), c, _f(-4.39150654e-06))
    middle = fma(fma(middle, c, _f(0.00021858087)), c, _f(-0.00125372503))
    middle = fma(fma(middle, c, _f(-0.00417768164)), c, _f(0.246640727))
    middle = fma(middle, c, _f(1.50140941))
    c = _f(math.sqrt(max(w, _f(0)))) - _f(3)
    tail = fma(_f(-0.000200214257), c, _f(0.000100950558))
    tail = fma(fma(tail, c, _f(0.00134934322)), c, _f(-0.00367342844))
    tail = fma(fma(tail, c, _f(0.00573950773)), c, _f(-0.0076224613))
    tail = fma(fma(tail, c, _f(0.00943887047)), c, _f(1.00167406))
    tail = fma(tail, c, _f(2.83297682))
    return _f(_f(1.41421356) * (_f(2) * p - _f(1)) * (middle if w < _f(5) else tail))


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def scale(raw: np.float32) -> np.float32:
    """Standard deviation of a component with raw output ``raw``, as ``qshower.model.likelihood`` defines it."""
    tanh = _f(1) - _f(2) / (exp(_f(2 / SCALE_HALF) * (raw - _f(SCALE_CENTRE))) + _f(1))
    return exp(fma(_f(SCALE_HALF), tanh, _f(SCALE_CENTRE)))


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def gelu(x: np.float32) -> np.float32:
    """x Φ(x); absolute error below 2e−7 |x|."""
    c = min(max(x, _f(-5.3)), _f(5.3))
    s = c * c
    p = fma(_f(2.405021426454823e-08), s, _f(6.3790485000936314e-06))
    p = fma(fma(p, s, _f(0.00016033444262575358)), s, _f(0.004627993330359459))
    p = fma(fma(p, s, _f(0.03293578699231148)), s, _f(0.3989422619342804))
    q = fma(_f(1.2371648381304112e-06), s, _f(7.135223131626844e-05))
    q = fma(fma(q, s, _f(0.0018365714931860566)), s, _f(0.02813882566988468))
    q = fma(fma(q, s, _f(0.2492240071296692)), s, _f(1))
    return _f(x * fma(c, p / q, _f(0.5)))


@numba.njit(nogil=True, forceinline=True, error_model="numpy")
def hardswish(x: np.float32) -> np.float32:
    """x min(max(x + 3, 0), 6) / 6."""
    return _f(x * min(max(x + _f(3), _f(0)), _f(6)) * _f(1 / 6))


@numba.njit(nogil=True, error_model="numpy")
def log_64(x: float) -> float:
    """ln x of a normal double x > 0; relative error below 1e−15, absolute where |ln x| < 1."""
    bits = np.float64(x).view(np.int64)
    power = (bits - np.int64(0x3FE6A09E667F3BCD)) >> np.int64(52)
    m = np.int64(bits - (power << np.int64(52))).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    square, total = s * s, 0.0
    for n in range(21, 1, -2):
        total = (total + 1.0 / n) * square
    return 2.0 * s * (1.0 + total) + float(power) * _LN2


@numba.njit(nogil=True, error_model="numpy")
def exp_64(x: float) -> float:
    """e^x of a double, −700 ≤ x ≤ 700, clamped to that; relative error below 1e−14."""
    inside = min(max(x, -700.0), 700.0)
    power = math.floor(inside / _LN2 + 0.5)
    r = inside - power * 0.693147180369123816490 - power * 1.90821492927058770002e-10
    total = 1.0
    for n in range(14, 0, -1):
        total = 1.0 + total * r / n
    return total * np.int64((np.int64(power) + np.int64(1023)) << np.int64(52)).view(np.float64)


@numba.njit(nogil=True, error_model="numpy")
def below(z: float) -> float:
    """Standard normal probability of values below the double z; relative error below 1e−12, in the lower tail too."""
    x = abs(z) * 0.7071067811865476
    t = 2.0 / (2.0 + x)
    y, one, two = 2.0 * t - 1.0, 0.0, 0.0
    for k in range(len(_ERFC) - 1, 0, -1):
        one, two = 2.0 * y * one - two + _ERFC[k], one
    tail = 0.5 * t * exp_64(y * one - two + _ERFC[0] - x * x)
    return tail if z < 0 else 1.0 - tail


@numba.njit(nogil=True, error_model="numpy")
def sine(half_turns: float) -> float:
    """sin(π t) of a double; absolute error below 1e−11."""
    t = half_turns - 2.0 * math.floor(0.5 * half_turns + 0.5)
    # sin(π t) = sin(π (±1 − t)) brings t into [−1/2, 1/2].
    x = math.pi * ((1.0 - t) if t > 0.5 else (-1.0 - t) if t < -0.5 else t)
    square, total = x * x, 1.0
    for n in range(16, 0, -2):
        total = 1.0 - total * square / (n * (n + 1))
    return x * total
