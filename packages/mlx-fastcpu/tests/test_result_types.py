"""Results have the dtype of MLX's own, also where a weight is wider than its input."""

import mlx.core as mx
import pytest

from mlx_fastcpu import ops

WIDE, NARROW = mx.float32, mx.bfloat16


@pytest.mark.parametrize(("x", "weight"), [(NARROW, WIDE), (WIDE, NARROW), (NARROW, NARROW)])
def test_a_wider_weight_widens_the_result(x, weight):
    rows, matrix, vector = mx.ones((8, 64), x), mx.ones((32, 64), weight), mx.ones(64, weight)
    packed = mx.quantize(matrix, 32, 4)
    heads, keys = mx.ones((1, 2, 16, 32), x), mx.ones((1, 2, 16, 32), weight)
    ours = [
        ops.linear(rows, matrix),
        ops.rms_norm(rows, vector, 1e-5),
        ops.layer_norm(rows, vector, vector, 1e-5),
        ops.quantized_linear(rows, *packed, group_size=32, bits=4),
        ops.attention(heads, keys, keys, 0.1),
    ]
    mlxs = [
        rows @ matrix.T,
        mx.fast.rms_norm(rows, vector, 1e-5),
        mx.fast.layer_norm(rows, vector, vector, 1e-5),
        mx.quantized_matmul(rows, *packed, group_size=32, bits=4),
        mx.fast.scaled_dot_product_attention(heads, keys, keys, scale=0.1),
    ]
    assert [each.dtype for each in ours] == [each.dtype for each in mlxs]
