"""The 16 bits that bfloat16 leaves out of a float32, kept beside the weight.

A bfloat16 weight ignores every update smaller than 2^-9 of it, which is most of them late in
training. With the missing bits, 2 bytes a weight instead of the 4 of a float32 copy, the weights
move as float32 ones do.
"""

import mlx.core as mx


def split_float32(x: mx.array) -> tuple[mx.array, mx.array]:
    """Return `x` as (bfloat16, rounded to nearest; uint16, its lower half)."""
    bits = x.view(mx.uint32)
    upper = ((bits + 0x8000) >> 16).astype(mx.uint16)
    return upper.view(mx.bfloat16), (bits & 0xFFFF).astype(mx.uint16)


def join_float32(upper: mx.array, lower: mx.array) -> mx.array:
    """Return the float32 of which `split_float32` made the two, bit for bit."""
    # Rounding has added 1 to the upper half where the lower one is 0x8000 or more. An upper half of
    # 0 then was set from outside, since `split_float32` was asked.
    is_zero = (upper.view(mx.uint16) & 0x7FFF) == 0
    lower = mx.where(is_zero & (lower >= 0x8000), mx.array(0, mx.uint16), lower)
    bits = upper.view(mx.uint16).astype(mx.uint32) - (lower >> 15).astype(mx.uint32)
    return ((bits << 16) | lower.astype(mx.uint32)).view(mx.float32)


def whole_float32(weight: mx.array, lower: mx.array | None) -> mx.array:
    """Return the weight in float32, with the bits kept of it.

    Of one that has been cast to another dtype meanwhile they still count where it is unchanged.
    """
    if lower is None:
        return weight.astype(mx.float32)
    upper = weight.astype(mx.bfloat16)
    joined = join_float32(upper, lower)
    if weight.dtype == mx.bfloat16:
        return joined
    return mx.where(upper.astype(weight.dtype) == weight, joined, weight.astype(mx.float32))
