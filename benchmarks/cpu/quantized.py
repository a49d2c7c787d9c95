"""Quantized layers: training adapters on them, reading a prompt, and generation by mlx-lm."""

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
from turns.timing import Calls

from cpu.mlx_models import hidden_loss
from cpu.sizes import Size, size_of
from cpu.variants import forward_call, patch
from mlx_trainer import AdamW, TrainStep

TOKENS = 64  # generated
TRAINED = 128  # tokens of a training batch
RANK = 8
GROUP = 64  # as mlx-lm quantizes
EPS = 1e-5


def prepare_qlora(variant: str, tiny: bool) -> Calls:
    """Return training step and prefill of the 4-bit and the 8-bit stack."""
    size = size_of("qlora", tiny)
    measured: dict[str, Callable[[], object]] = {}
    for bits in (4, 8):
        model = patch(Stack(size, bits), variant)
        model.freeze()
        for module in model.modules():
            if isinstance(module, Adapted):
                module.unfreeze(keys=["down", "up"], recurse=False)
        prompt = mx.random.normal((1, size.length, size.width))
        batch = {
            "ids": prompt[:, : min(TRAINED, size.length)],
            "targets": mx.random.normal((1, min(TRAINED, size.length), size.width)),
        }
        mx.eval(model.parameters(), prompt, batch)
        step = TrainStep(model, AdamW(), hidden_loss)
        measured[f"q{bits} step"] = training_call(step, batch)
        measured[f"q{bits} prefill"] = forward_call(model, prompt, variant)
    facts = {"trained": min(TRAINED, size.length), "prompt": size.length}
    return Calls(measured, list(measured), facts)


def training_call(step: TrainStep, batch: dict[str, mx.array]) -> Callable[[], object]:
    """Return a call of the step."""
    return lambda: step([batch], 1e-5)


def prepare_decode(variant: str, tiny: bool) -> Calls:
    """Return the generation of mlx-lm, by its own Llama in 4 bits and in float32."""
    from mlx_lm.generate import generate_step
    from mlx_lm.models.llama import Model, ModelArgs

    size = size_of("decode", tiny)
    tokens = 4 if tiny else TOKENS

    def generation(bits: int | None) -> Callable[[], object]:
        mx.random.seed(0)
        model = Model(
            ModelArgs(
                model_type="llama",
                hidden_size=size.width,
                num_hidden_layers=size.layers,
                intermediate_size=size.inner,
                num_attention_heads=size.heads,
                rms_norm_eps=EPS,
                vocab_size=size.vocab,
            )
        )
        if bits:
            nn.quantize(model, group_size=GROUP, bits=bits)
        model = patch(model, variant)
        mx.eval(model.parameters())
        # A prompt of one token: nothing but generation is timed.
        return lambda: list(generate_step(mx.array([1]), model, max_tokens=tokens))

    measured = {"q4": generation(4), "float32": generation(None)}
    return Calls(measured, list(measured), {"tokens": tokens})


class Stack(nn.Module):
    """The layers of a Llama, (B, L, D) to (B, L, D), without embeddings and head."""

    def __init__(self, size: Size, bits: int):
        super().__init__()
        self.layers = [Layer(size, bits) for _ in range(size.layers)]

    def __call__(self, x: mx.array) -> mx.array:
        for layer in self.layers:
            x = layer(x)
        return x


class Layer(nn.Module):
    """Attention, then the gated network, each on a normalized input and added to the stream."""

    def __init__(self, size: Size, bits: int):
        super().__init__()
        D, inner = size.width, size.inner
        self.heads = size.heads
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (Adapted(D, D, bits) for _ in range(4))
        self.gate_proj, self.up_proj = Adapted(D, inner, bits), Adapted(D, inner, bits)
        self.down_proj = Adapted(inner, D, bits)
        self.input_norm, self.mlp_norm = nn.RMSNorm(D, EPS), nn.RMSNorm(D, EPS)
        self.rope = nn.RoPE(D // size.heads)

    def __call__(self, x: mx.array) -> mx.array:
        B, L, D = x.shape
        h = self.input_norm(x)
        queries, keys, values = (
            project(h).reshape(B, L, self.heads, -1).transpose(0, 2, 1, 3)  # (B, heads, L, D_head)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = self.rope(queries), self.rope(keys)
        context = mx.fast.scaled_dot_product_attention(
            queries, keys, values, scale=queries.shape[-1] ** -0.5, mask="causal"
        )
        x = x + self.o_proj(context.transpose(0, 2, 1, 3).reshape(B, L, D))
        h = self.mlp_norm(x)
        return x + self.down_proj(nn.silu(self.gate_proj(h)) * self.up_proj(h))


class Adapted(nn.Module):
    """A frozen quantized linear layer and a low-rank update of it (Hu et al. 2021)."""

    def __init__(self, inputs: int, outputs: int, bits: int):
        super().__init__()
        self.linear = nn.QuantizedLinear(inputs, outputs, bias=False, group_size=GROUP, bits=bits)
        self.down = mx.random.normal((inputs, RANK)) * inputs**-0.5
        self.up = mx.zeros((RANK, outputs))

    def __call__(self, x: mx.array) -> mx.array:
        return self.linear(x) + (x @ self.down) @ self.up
