"""First weights of nanochat's GPT (July 2026)."""

import math
from typing import Any

import mlx.core as mx


def draw_weights(model: Any, key: mx.array) -> None:
    """Draw all weights of a `Nanochat`, in float32; equal keys give equal weights.

    Uniform weights have a standard deviation of n_embd^-0.5, projections back into the residual
    stream begin at 0, so that every block begins as the identity.
    """
    config, blocks = model.config, model.transformer["h"]
    gates = [model.smear_gate, *(each.attn.ve_gate for each in blocks if "ve_gate" in each.attn)]
    keys = iter(mx.random.split(key, 4 * len(blocks) + 2 + len(model.value_embeds) + len(gates)))
    bound = math.sqrt(3 / config.n_embd)

    def uniform(module: Any, low: float, high: float) -> None:
        module.weight = mx.random.uniform(low, high, module.weight.shape, key=next(keys))

    def normal(module: Any, deviation: float) -> None:
        module.weight = deviation * mx.random.normal(module.weight.shape, key=next(keys))

    normal(model.transformer["wte"], 0.8)
    normal(model.lm_head, 0.001)
    for block in blocks:
        for layer in (block.attn.c_q, block.attn.c_k, block.attn.c_v):
            uniform(layer, -bound, bound)
        uniform(block.mlp.c_fc, -0.4 * bound, 0.4 * bound)
    for embedding in model.value_embeds:
        uniform(embedding, -bound, bound)
    for gate in gates:
        uniform(gate, 0.0, 0.02)
    depth = mx.arange(config.n_layer) / max(config.n_layer - 1, 1)
    model.resid_lambdas = 1.15 - 0.10 * depth
    model.x0_lambdas = 0.20 - 0.15 * depth
