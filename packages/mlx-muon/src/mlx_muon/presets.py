"""`Muon` with the settings of published optimizers, equal to them up to rounding.

Two deliberate differences: gradients of any size work (the sources add 1e-7 or 1e-6 to the norm),
and the iteration runs in float32 where they use bfloat16 (set `dtype=mx.bfloat16` in the rule).
"""

import math
from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_muon.groups import Group
from mlx_muon.optimizer import Muon
from mlx_muon.rules import AdamWRule, MuonRule, Value


def keller(learning_rate: Value = 0.02, *, weight_decay: Value = 0.0, **options: Any) -> Muon:
    """Return the original Muon: Newton-Schulz, with AdamW at a rate of 3e-4.

    https://github.com/KellerJordan/Muon. As in all presets, `options` go to `Muon`; `muon` and
    `adamw` among them replace the preset's rules. `learning_rate` does not change AdamW's rate;
    `schedule` multiplies both.
    """
    muon = MuonRule(scale="keller", method="newton_schulz")
    adamw = AdamWRule(learning_rate=3e-4, eps=1e-10)
    options = {"muon": muon, "adamw": adamw} | options
    return Muon(learning_rate, weight_decay=weight_decay, **options)


def moonlight(learning_rate: Value = 1e-3, *, weight_decay: Value = 0.1, **options: Any) -> Muon:
    """Return Moonlight's Muon, with the same rate and decay for AdamW.

    Liu et al. 2025, arXiv 2502.16982. All parameters decay.
    """
    muon = MuonRule(scale="moonlight", method="newton_schulz")
    adamw = AdamWRule(decay_vectors=True)
    options = {"muon": muon, "adamw": adamw} | options
    return Muon(learning_rate, weight_decay=weight_decay, **options)


def normuon(learning_rate: Value = 0.02, *, weight_decay: Value = 0.0, **options: Any) -> Muon:
    """Return NorMuon as in its authors' code: rows of equal variance, the norm unchanged.

    Li et al. 2025, arXiv 2510.05491, https://github.com/zichongli5/NorMuon.
    """
    muon = MuonRule(scale="keller", method="newton_schulz", variance="rows", beta2=0.95)
    adamw = AdamWRule(learning_rate=3e-4, eps=1e-10)
    options = {"muon": muon, "adamw": adamw} | options
    return Muon(learning_rate, weight_decay=weight_decay, **options)


def adamuon(learning_rate: Value = 6e-4, *, weight_decay: Value = 0.1, **options: Any) -> Muon:
    """Return AdaMuon: signs of the momentum, variance of each entry, updates of RMS 0.2.

    Si et al. 2025, arXiv 2507.11005.
    """
    muon = MuonRule(scale="rms", method="newton_schulz", sign=True, variance="entries", beta2=0.95)
    adamw = AdamWRule(decay_vectors=True)
    options = {"muon": muon, "adamw": adamw} | options
    return Muon(learning_rate, weight_decay=weight_decay, **options)


# nanochat's groups of AdamW: part of the path, rate, betas, decay.
_NANOCHAT_GROUPS = (
    ("lm_head", 0.008, (0.8, 0.96), 0.01),
    ("wte", 0.3, (0.8, 0.995), 0.001),
    ("value_embeds", 0.15, (0.8, 0.995), 0.01),
    ("resid_lambdas", 0.005, (0.8, 0.95), 0.05),
    ("x0_lambdas", 0.5, (0.96, 0.95), 0.0),
    ("smear_gate", 0.2, (0.8, 0.95), 0.0),
    ("smear_lambda", 0.2, (0.8, 0.95), 0.0),
    ("backout_lambda", 0.2, (0.8, 0.95), 0.0),
)
_WIDTH_SCALED = ("lm_head", "wte", "value_embeds")
_NOT_BATCH_SCALED = ("smear_gate", "smear_lambda", "backout_lambda")


def nanochat(
    n_embd: int,
    steps: int,
    *,
    batch_tokens: int = 2**19,
    learning_rate: float = 0.02,
    weight_decay: float = 0.28,
    warmup_steps: int = 40,
    warmdown_ratio: float = 0.65,
    final_rate: float = 0.05,
    **options: Any,
) -> Muon:
    """Return the optimizer of nanochat (July 2026) for a model with nanochat's parameter names.

    Polar Express, MuonEq, Muon+, NorMuon over the short side, cautious decay, and eight groups of
    AdamW. Rates are for 2^19 tokens a step and scale with the root of `batch_tokens`; those of
    embeddings and head with the inverse root of `n_embd` / 768. The rate warms up over
    `warmup_steps`, stays constant, and falls linearly to the fraction `final_rate` over the last
    `warmdown_ratio` of `steps`. The momentum rises from 0.85 to 0.97 in 400 steps and falls to 0.90
    with the rate. `weight_decay`, which nanochat chooses by model and data size, follows a cosine
    to 0. https://github.com/karpathy/nanochat
    """
    if steps < 1 or n_embd < 1 or batch_tokens < 1:
        raise ValueError(
            "nanochat: n_embd, steps and batch_tokens must be at least 1, got "
            f"{n_embd}, {steps}, {batch_tokens}"
        )
    warmdown = round(warmdown_ratio * steps)
    batch = math.sqrt(batch_tokens / 2**19)
    muon = MuonRule(
        scale="keller",
        scale_decay=True,
        cautious=True,
        momentum=_nanochat_momentum(steps, warmdown),
        weight_decay=lambda step: weight_decay * 0.5 * (1 + mx.cos(math.pi * _float(step) / steps)),
        equalize_rows=True,
        renormalize=True,
        variance="short",
        beta2=0.9,
    )
    groups = []
    for name, rate, betas, decay in _NANOCHAT_GROUPS:
        rate *= 1 if name in _NOT_BATCH_SCALED else batch
        rate *= (n_embd / 768) ** -0.5 if name in _WIDTH_SCALED else 1
        rule = AdamWRule(rate, weight_decay=decay, betas=betas, eps=1e-10, decay_vectors=True)
        groups.append(Group(_has_part(name), rule, name))
    schedule = _trapezoid(steps, warmup_steps, warmdown, final_rate)
    # No group matches ve_gate: inside the blocks it is a matrix like the others.
    adamw = AdamWRule(0.2, weight_decay=0.0, betas=(0.8, 0.95), eps=1e-10)
    defaults = {"muon": muon, "adamw": adamw, "groups": groups, "schedule": schedule}
    return Muon(learning_rate * batch, **{**defaults, **options})


def _float(step: mx.array) -> mx.array:
    return step.astype(mx.float32)


def _has_part(name: str) -> Callable[[str, mx.array], bool]:
    return lambda path, _: name in path.split(".")


def _trapezoid(
    steps: int, warmup: int, warmdown: int, final: float
) -> Callable[[mx.array], mx.array]:
    def multiplier(step: mx.array) -> mx.array:
        step = _float(step)
        rising = (step + 1) / max(1, warmup)
        progress = mx.maximum(0.0, (steps - step) / max(1, warmdown))
        falling = progress + (1 - progress) * final
        constant_or_falling = mx.where(step <= steps - warmdown, 1.0, falling)
        return mx.where(step < warmup, rising, constant_or_falling)

    return multiplier


def _nanochat_momentum(steps: int, warmdown: int) -> Callable[[mx.array], mx.array]:
    def momentum(step: mx.array) -> mx.array:
        step = _float(step)
        rising = 0.85 + 0.12 * step / 400
        progress = mx.minimum(1.0, (step - (steps - warmdown)) / max(1, warmdown))
        constant_or_falling = mx.where(step >= steps - warmdown, 0.97 - 0.07 * progress, 0.97)
        return mx.where(step < 400, rising, constant_or_falling)

    return momentum
