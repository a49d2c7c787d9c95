"""Make one adapter of several."""

from collections.abc import Sequence
from typing import Any, Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_lora.adapters import adapter_configs, check_known
from mlx_lora.config import LoraConfig
from mlx_lora.initialize import thin_svd
from mlx_lora.inject import add_adapter
from mlx_lora.layers import adapted_layers
from mlx_lora.linear import LinearLora
from mlx_lora.whole import whole_modules, whole_values

Method = Literal["linear", "cat", "svd", "ties"]


def combine_adapters(
    model: nn.Module,
    names: Sequence[str],
    weights: Sequence[float],
    new_name: str,
    *,
    method: Method = "linear",
    r: int | None = None,
    density: float = 0.2,
) -> None:
    """Add an adapter that combines others of linear layers, with these weights; make it active.

    "cat" is the exact weighted sum of the changes, of the sum of the ranks. "svd" is its best
    approximation of rank `r` (None: the largest of theirs). "linear" adds A to A and B to B with
    the square roots of the weights, as PEFT does: cheap, of equal ranks, and not the sum of the
    changes. "ties" (Yadav et al. 2023) does that with the entries that are largest in size, a share
    of `density`, and of the elected sign.

    Modules that are trained whole must be those of the first adapter alone, and are copied from it.
    Raises `ValueError` for DoRA, other layers than linear ones, and what the method does not allow.
    """
    if method not in ("linear", "cat", "svd", "ties"):
        raise ValueError(f"method must be 'linear', 'cat', 'svd' or 'ties', got {method!r}")
    if len(names) != len(weights) or not names:
        raise ValueError(f"needs one weight for each adapter, got {len(weights)} for {len(names)}")
    if not 0 < density <= 1:
        raise ValueError(f"density must be in (0, 1], got {density}")
    configs = adapter_configs(model)
    for name in names:
        check_known(name, configs)
    made = {}
    for path, layer in adapted_layers(model).items():
        chosen = [(n, w) for n, w in zip(names, weights, strict=True) if n in layer.known]
        if chosen:
            parts = [(layer.known[name], weight) for name, weight in chosen]
            made[path] = _combine(path, parts, method, r, density)
    ranks = {path: a.shape[0] for path, (a, _) in made.items()}
    config = LoraConfig(
        r=max(ranks.values()),
        lora_alpha=max(ranks.values()),  # the scale is in A and B
        target_modules=list(made),
        rank_pattern=ranks,
        alpha_pattern=ranks,
        modules_to_save=configs[names[0]].modules_to_save,
        task_type=configs[names[0]].task_type,
    )
    _check_whole(model, names)
    add_adapter(model, config, new_name, trainable=False)
    for path, (a, b) in made.items():
        adapter = adapted_layers(model)[path].known[new_name]
        adapter.place({"lora_A.weight": a, "lora_B.weight": b})
    for module in whole_modules(model).values():
        if (values := whole_values(module, names[0])) is not None:
            module.load_weights(list(values.items()), strict=False)


def _combine(
    path: str, weighted: list[tuple[Any, float]], method: Method, r: int | None, density: float
) -> tuple[mx.array, mx.array]:
    """Return A and B of the combination in one layer, with scale 1."""
    for adapter, _ in weighted:
        is_lora = isinstance(adapter, LinearLora) and not adapter.config.use_dora
        if not is_lora or "bias" in adapter.lora_B:
            raise ValueError(
                f"{path} has {adapter.config.kind} of a {type(adapter).__name__}: only LoRA of "
                f"linear layers, without lora_bias, can be combined"
            )
    if method in ("cat", "svd"):
        parts = [adapter.factors() for adapter, _ in weighted]
        scales = [adapter._scale * weight for adapter, weight in weighted]
        a = mx.concatenate([a for a, _ in parts])
        b = mx.concatenate([s * b for s, (_, b) in zip(scales, parts, strict=True)], axis=1)
        if method == "cat":
            return a, b
        rank = r or max(each[0].lora_A.weight.shape[0] for each in weighted)
        return _truncated(a, b, rank)
    ranks = {adapter.factors()[0].shape[0] for adapter, _ in weighted}
    if len(ranks) > 1:
        raise ValueError(
            f"{path}: {method!r} needs adapters of one rank, got {sorted(ranks)}; 'svd' takes any"
        )
    return _of_parts(weighted, method, density)


def _truncated(a: mx.array, b: mx.array, rank: int) -> tuple[mx.array, mx.array]:
    """Return the best approximation of b @ a of this rank, without computing b @ a."""
    q_b, r_b = mx.linalg.qr(b, stream=mx.cpu)
    q_a, r_a = mx.linalg.qr(a.T, stream=mx.cpu)
    u, s, vh = thin_svd(r_b @ r_a.T)
    root = mx.sqrt(s[:rank])
    return (root[:, None] * vh[:rank]) @ q_a.T, q_b @ (u[:, : len(root)] * root)


def _of_parts(
    weighted: list[tuple[Any, float]], method: Method, density: float
) -> tuple[mx.array, mx.array]:
    """Combine the As and the Bs apart, each with the square root of weight times scale.

    A negative weight turns the sign of A alone.
    """
    factors = [weight * float(adapter._scale) for adapter, weight in weighted]
    roots = mx.array([abs(each) ** 0.5 for each in factors])
    signs = mx.array([-1.0 if each < 0 else 1.0 for each in factors])
    found = []
    for part, rates in ((0, signs * roots), (1, roots)):
        stacked = mx.stack([adapter.factors()[part] for adapter, _ in weighted])
        rates = rates.reshape(-1, 1, 1)
        found.append(
            _ties(stacked, rates, density) if method == "ties" else (rates * stacked).sum(0)
        )
    return found[0], found[1]


def _ties(stacked: mx.array, rates: mx.array, density: float) -> mx.array:
    """Keep the largest entries of each, elect the sign of their sum, average those that have it."""
    flat = mx.abs(stacked).flatten(1)
    kept = max(1, int(density * flat.shape[1]))
    least = mx.sort(flat, axis=1)[:, -kept].reshape(-1, 1, 1)
    trimmed = mx.where(mx.abs(stacked) >= least, stacked, 0)
    agrees = mx.sign(trimmed) == mx.where(trimmed.sum(0) >= 0, 1.0, -1.0)
    return (rates * trimmed * agrees).sum(0) / mx.maximum(agrees.sum(0), 1)


def _check_whole(model: nn.Module, names: Sequence[str]) -> None:
    for path, module in whole_modules(model).items():
        having = [name for name in names if whole_values(module, name) is not None]
        if having and having != [names[0]]:
            raise ValueError(
                f"{path} is trained whole by {', '.join(map(repr, having))}: whole modules are not "
                f"combined, so at most the first adapter may have them"
            )
