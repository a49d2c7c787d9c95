"""nanochat in PyTorch: its own model, optimizer and engine, its training script's schedules.

The script itself is no function; its step, its scaling of rates and decay, and its schedules are
written again here. As there, the model is compiled, in float32 on a CPU, and garbage collection is
off after the first step. `nanochat-nudged` begins with weights that differ in their last digit, to
show how far rounding alone leads.
"""

import gc
import math
import os
import sys
from collections.abc import Iterator

import numpy as np

from gpt.implementation import Generate, Training
from gpt.settings import NUDGED, Settings, Size

# The script's defaults.
RATES = {"unembedding_lr": 0.008, "embedding_lr": 0.3, "scalar_lr": 0.5, "matrix_lr": 0.02}
WEIGHT_DECAY, REFERENCE_BATCH = 0.28, 2**19
WARMUP, WARMDOWN, FINAL_RATE = 40, 0.65, 0.05


def start(settings: Settings, part: str, variant: str, threads: int) -> None:
    """Make nanochat importable."""
    os.environ["NANOCHAT_DTYPE"] = "float32"
    assert settings.nanochat
    sys.path.insert(0, settings.nanochat)
    import torch

    torch.set_num_threads(threads)


def training(settings: Settings, variant: str, seed: int) -> Training:
    """Return a run of the script; its first weights are left for ours."""
    import torch

    model = build(settings.model, seed)
    weights = {name: array.numpy() for name, array in model.state_dict().items()}
    np.savez(settings.path(f"weights-{seed}.npz"), **weights)
    if variant == NUDGED:
        nudge(model)
    batch = math.sqrt(settings.batch_tokens / REFERENCE_BATCH)
    decay = WEIGHT_DECAY * batch * scaling_parameters(reference(settings.model))
    decay /= scaling_parameters(model)
    rates = {name: rate * batch for name, rate in RATES.items()}
    optimizer = model.setup_optimizer(**rates, weight_decay=decay)
    run = model if variant == "nanochat-eager" else torch.compile(model, dynamic=False)
    done = 0

    def step(rows: np.ndarray) -> float:
        nonlocal done
        loss = run(*inputs_and_targets(rows))
        loss.backward()
        schedule(optimizer, done, settings.steps, decay)
        optimizer.step()
        model.zero_grad(set_to_none=True)
        if done == 0:
            gc.collect()
            gc.freeze()
            gc.disable()
        done += 1
        return loss.item()

    @torch.no_grad()
    def held_out_loss(rows: np.ndarray) -> float:
        return model(*inputs_and_targets(rows)).item()

    return Training(step, held_out_loss, sum(each.numel() for each in model.parameters()))


def build(size: Size, seed: int):
    """Return nanochat's model with its first weights."""
    import torch
    from nanochat.gpt import GPT

    with torch.device("meta"):
        model = GPT(config_of(size))
    model.to_empty(device="cpu")
    torch.manual_seed(seed)
    model.init_weights()
    return model


def nudge(model) -> None:
    """Change all weights by a relative 1e-7 or so, float32's precision."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 1e-7 * torch.randn_like(parameter))


def reference(size: Size):
    """Return the model of depth 12 that rates and decay are tuned for, without weights."""
    import torch
    from nanochat.gpt import GPT

    with torch.device("meta"):
        return GPT(config_of(Size(12, 768, 6, size.vocab, size.length)))


def config_of(size: Size):
    from nanochat.gpt import GPTConfig

    return GPTConfig(
        sequence_len=size.length,
        vocab_size=size.vocab,
        n_layer=size.layers,
        n_head=size.heads,
        n_kv_head=size.heads,
        n_embd=size.width,
    )


def scaling_parameters(model) -> int:
    counts = model.num_scaling_params()
    return counts["transformer_matrices"] + counts["lm_head"]


def inputs_and_targets(rows: np.ndarray):
    """Return ids (B, T) and the ids after them."""
    import torch

    tokens = torch.from_numpy(rows.astype(np.int64))
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def schedule(optimizer, step: int, steps: int, decay: float) -> None:
    """Set rates, momentum and decay of a step."""
    warmdown = round(WARMDOWN * steps)
    left = (steps - step) / warmdown
    if step < WARMUP:
        rate = (step + 1) / WARMUP
    else:
        rate = 1.0 if step <= steps - warmdown else left + (1 - left) * FINAL_RATE
    if step < 400:
        momentum = 0.85 + (0.97 - 0.85) * step / 400
    else:
        momentum = 0.97 if step < steps - warmdown else 0.90 + (0.97 - 0.90) * left
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * rate
        if group["kind"] == "muon":
            group["momentum"] = momentum
            group["weight_decay"] = decay * 0.5 * (1 + math.cos(math.pi * step / steps))


class NoTokenizer:
    """Special tokens that are never sampled, so that no generation ends early."""

    def encode_special(self, name: str) -> int:
        return -1

    def get_bos_token_id(self) -> int:
        return -1


def generation(settings: Settings, size: Size) -> Generate:
    """Return nanochat's engine, greedy."""
    from nanochat.engine import Engine

    engine = Engine(build(size, 0), NoTokenizer())

    def generate(prompt: list[int], most: int) -> Iterator[object]:
        return engine.generate(prompt, max_tokens=most, temperature=0.0)

    return generate
