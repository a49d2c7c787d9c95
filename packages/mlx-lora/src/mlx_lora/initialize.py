"""temporary"""

import mlx.core as mx


def pissa(weight, r, scale, iterations=None, *, key=None):
    u, s, vh = mx.linalg.svd(weight, stream=mx.cpu)
    root = mx.sqrt(s[:r] / scale)
    return root[:, None] * vh[:r], u[:, :r] * root


def olora(weight, r):
    q, rr = mx.linalg.qr(weight, stream=mx.cpu)
    return rr[:r], q[:, :r]


def loftq(weight, r, scale, *, bits, group_size, mode, iterations):
    arrays = mx.quantize(weight, group_size=group_size, bits=bits, mode=mode)
    w = mx.dequantize(*arrays, group_size=group_size, bits=bits, mode=mode)
    return *pissa(weight - w, r, scale), arrays
