"""The fused sparse kernel for CUDA, in Triton: all sweeps of a block of chains in one launch.

One lane is one chain. A lane walks the updates of a sweep in order, adds up its field from its neighbours' spins (one
byte each, chains side by side, so that a warp reads whole sectors), advances its own xoshiro128++ and decides by the
rule of ``kernels.reference``: same streams, same integers, hence the CPU's spins to the bit. The decision is
taken in float32 where that is certain; in the rare block with a lane too near the edge it is taken in float64.

This module is imported only where the kernel is used. With ``TRITON_INTERPRET=1`` it runs on CPU tensors, in tests.
"""

# Triton compiles these functions itself and takes no annotations but its own.
# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ANN001, ANN202, ANN201

from __future__ import annotations

import triton
import triton.language as tl

DOUBT = tl.constexpr(0.25)
"""Units of 2⁻¹⁶ within which float32 does not decide: several times its error."""

GOLDEN_TIES = tl.constexpr(0x8CB92BA72F3D8DD7)
MIX_ONE = tl.constexpr(0xBF58476D1CE4E5B9)
MIX_TWO = tl.constexpr(0x94D049BB133111EB)


@triton.jit
def _mix(value):
    value = (value ^ (value >> 30)) * tl.full((), MIX_ONE, tl.uint64)
    value = (value ^ (value >> 27)) * tl.full((), MIX_TWO, tl.uint64)
    return value ^ (value >> 31)


@triton.jit
def _settle(
    up,
    fields,
    neighbours,
    steps,
    position,
    stride,
    lane,
    bits,
    twice_beta,
    key,
    update,
    DEGREE: tl.constexpr,
):
    """One update of one node in every lane."""
    field = tl.load(fields + position * stride + lane)
    for entry in tl.static_range(DEGREE):
        node = tl.load(neighbours + position * DEGREE + entry)
        step = tl.load(steps + position * DEGREE + entry)
        field += step * tl.load(up + node * stride + lane).to(tl.int32)
    size = tl.abs(field.to(tl.float32)) * twice_beta.to(tl.float32)
    chance = 65536.0 / (1.0 + tl.exp(size))
    first = bits.to(tl.float32)
    rare = first + 1.0 < chance
    doubtful = (first <= chance + DOUBT) & (first + 1.0 >= chance - DOUBT)
    if tl.max(doubtful.to(tl.int32), axis=0) > 0:
        exact = 65536.0 / (1.0 + tl.exp(tl.abs(field.to(tl.float64)) * twice_beta))
        whole = tl.floor(exact)
        wide_bits = bits.to(tl.float64)
        further = _mix(key ^ _mix(tl.full((), GOLDEN_TIES, tl.uint64) + update)) >> 32
        edge = (wide_bits == whole) & (further.to(tl.float64) < (exact - whole) * 4294967296.0)
        rare = (wide_bits < whole) | edge
    tl.store(up + position * stride + lane, ((field < 0) != rare).to(tl.int8))


@triton.jit(do_not_specialize=["sweeps"])
def sweep_kernel(
    up,
    fields,
    neighbours,
    steps,
    twice_betas,
    keys,
    states,
    begun,
    stride,
    updates,
    sweeps,
    DEGREE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sweep ``BLOCK`` chains of each program.

    Args:
        up: (updates, stride) int8, 1 where the spin is +1; ``stride`` chains, a multiple of ``BLOCK``.
        fields: (updates, stride) int32, field with the condition folded in and every free spin down.
        neighbours: (updates, DEGREE) int32, positions, padded with 0.
        steps: (updates, DEGREE) int32, twice the couplings, padded with 0.
        twice_betas: (sweeps,) float64, 2β per unit of field.
        keys: (stride,) int64, the bits of the streams' keys.
        states: (4, stride) int32, the bits of the generators; left where the sweeps end.
        stride: chains; ``updates * stride`` below 2³¹.
        updates: updates in a sweep.
        sweeps: number of sweeps; no value of it has a kernel of its own, so that no request has to compile one.
        begun: (1,) int64, updates these chains have behind them, counted in whole pairs.
        DEGREE: neighbours of the node that has most.
        BLOCK: chains in a program.
    """
    lane = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(keys + lane).to(tl.uint64, bitcast=True)
    s0 = tl.load(states + lane).to(tl.uint32, bitcast=True)
    s1 = tl.load(states + stride + lane).to(tl.uint32, bitcast=True)
    s2 = tl.load(states + 2 * stride + lane).to(tl.uint32, bitcast=True)
    s3 = tl.load(states + 3 * stride + lane).to(tl.uint32, bitcast=True)
    pairs = (updates + 1) // 2
    count = tl.load(begun).to(tl.uint64, bitcast=True)
    for sweep in range(sweeps):
        twice_beta = tl.load(twice_betas + sweep)
        for pair in range(pairs):
            total = s0 + s3
            bits = ((total << 7) | (total >> 25)) + s0
            shifted = s1 << 9
            s2 = s2 ^ s0
            s3 = s3 ^ s1
            s1 = s1 ^ s2
            s0 = s0 ^ s3
            s2 = s2 ^ shifted
            s3 = (s3 << 11) | (s3 >> 21)
            _settle(
                up, fields, neighbours, steps, 2 * pair, stride, lane, bits & 0xFFFF, twice_beta, key, count, DEGREE
            )
            if 2 * pair + 1 < updates:
                _settle(
                    up,
                    fields,
                    neighbours,
                    steps,
                    2 * pair + 1,
                    stride,
                    lane,
                    bits >> 16,
                    twice_beta,
                    key,
                    count + 1,
                    DEGREE,
                )
            count += 2
    tl.store(states + lane, s0.to(tl.int32, bitcast=True))
    tl.store(states + stride + lane, s1.to(tl.int32, bitcast=True))
    tl.store(states + 2 * stride + lane, s2.to(tl.int32, bitcast=True))
    tl.store(states + 3 * stride + lane, s3.to(tl.int32, bitcast=True))
