"""EVA (Paischer et al. 2024): A from the inputs of each layer, ranks where they vary most."""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_unflatten

from mlx_lora.adapters import adapter_configs
from mlx_lora.config import LoraConfig
from mlx_lora.inject import add_adapter
from mlx_lora.layers import adapted_layers
from mlx_lora.targets import find_targets, is_linear


class InputDirections:
    """The principal directions of a stream of vectors: an incremental PCA of at most k of them.

    Exact if `k` is the size of the vectors, or their rank; else what the first k leave out of each
    batch is lost (Ross et al. 2008). The largest entry of each direction is positive.
    """

    def __init__(self, k: int):
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k, self.count = k, 0
        self.components = np.zeros((0, 0), np.float32)
        """(k, in): directions of length 1, the most important first."""
        self._singular = np.zeros(0)
        self._mean, self._squares = np.zeros(0), 0.0

    def update(self, x: mx.array | np.ndarray) -> None:
        """Take vectors (N, in); `ValueError` for another shape and values that are not finite."""
        x = np.array(mx.array(x).astype(mx.float32)).astype(np.float64)
        size = self.components.shape[1] if self.count else "in"
        if x.ndim != 2 or (self.count and x.shape[1] != size):
            raise ValueError(f"x must have the shape (N, {size}), got {x.shape}")
        if wrong := np.count_nonzero(~np.isfinite(x)):
            raise ValueError(f"{wrong} of the {x.size} entries of x are not finite")
        n, total = len(x), self.count + len(x)
        if not n:
            return
        mean = x.mean(0)
        centered = x - mean
        squares, rows = np.square(centered).sum(), [centered]
        if self.count:
            shift = np.sqrt(self.count * n / total) * (self._mean - mean)
            squares += self._squares + np.square(shift).sum()
            rows = [self._singular[:, None] * self.components, centered, shift[None]]
            mean = (self.count * self._mean + n * mean) / total
        _, singular, directions = np.linalg.svd(np.concatenate(rows), full_matrices=False)
        largest = np.abs(directions).argmax(1)[:, None]
        directions *= np.where(np.take_along_axis(directions, largest, 1) < 0, -1, 1)
        self._singular, self.components = singular[: self.k], directions[: self.k]
        self._mean, self._squares, self.count = mean, squares, total

    @property
    def explained_variance_ratio(self) -> np.ndarray:
        """(k,), the share of each direction in the variance of all vectors."""
        return np.square(self._singular) / max(self._squares, 1e-30)


def redistribute_ranks(
    ratios: Mapping[str, np.ndarray], ranks: Mapping[str, int], rho: float
) -> dict[str, int]:
    """Return the rank of each layer: the total of `ranks`, given to the largest of all ratios.

    A layer gets at most `rho` times its rank; it may get 0.
    """
    found = dict.fromkeys(ratios, 0)
    all_ratios = [
        (ratio, path) for path, each in ratios.items() for ratio in each[: round(ranks[path] * rho)]
    ]
    for _, path in sorted(all_ratios, key=lambda pair: -pair[0])[: sum(ranks.values())]:
        found[path] += 1
    return found


def add_eva_adapter(
    model: nn.Module,
    config: LoraConfig,
    batches: Iterable[Any],
    name: str = "default",
    *,
    forward: Callable[[Any, Any], object] | None = None,
    mask: Callable[[Any], mx.array] | None = None,
    rho: float = 2.0,
) -> LoraConfig:
    """Add an adapter of linear layers whose A are the principal directions of the layers' inputs.

    `forward(model, batch)`, by default `model(batch)`, is called for each of `batches`, in
    evaluation mode. `mask(batch)` returns which vectors count, (B, L), such as the attention mask.
    Ranks are redistributed with at most `rho` times `config.r` for a layer, at equal scale; layers
    of rank 0 get no adapter. `rho` of 1 keeps the ranks. Returns the configuration with the ranks.
    Raises `ValueError` as `add_adapter` does, and if there are fewer vectors than a rank.
    """
    if rho < 1:
        raise ValueError(f"rho must be at least 1, got {rho}")
    if name in adapter_configs(model):
        raise ValueError(f"the model already has an adapter {name!r}; delete_adapter removes it")
    targets = find_targets(model, config)
    for target in targets:
        if not is_linear(target.module):
            kind = type(target.module).__name__
            raise ValueError(f"{target.path} is of type {kind}; 'eva' is made for linear layers")
    ranks = {each.path: config.rank_of(each.path) for each in targets}
    found = _record(model, ranks, batches, forward or (lambda m, batch: m(batch)), mask, rho)
    ratios = {path: each.explained_variance_ratio for path, each in found.items()}
    for path, each in ratios.items():
        if len(each) < ranks[path]:
            raise ValueError(
                f"{path} has seen inputs of rank {len(each)}, fewer than its rank {ranks[path]}; "
                f"give more batches"
            )
    chosen = redistribute_ranks(ratios, ranks, rho)
    chosen = {path: rank for path, rank in chosen.items() if rank}
    factors = {path: rank**0.5 if config.use_rslora else rank for path, rank in chosen.items()}
    config = replace(
        config,
        init_lora_weights="eva",
        target_modules=list(chosen),
        exclude_modules=None,
        layers_to_transform=None,
        layers_pattern=None,
        rank_pattern={re.escape(path): rank for path, rank in chosen.items()},
        alpha_pattern={re.escape(p): config.scale_of(p) * factors[p] for p in chosen},
    )
    add_adapter(model, config, name)
    for path, layer in adapted_layers(model).items():
        if path in chosen:
            directions = mx.array(found[path].components[: chosen[path]].astype(np.float32))
            layer.known[name].lora_A.weight = directions
            if config.use_dora:
                layer.known[name].start_magnitude(layer.base_layer)
    return config


class _Recorder(nn.Module):
    """A layer that passes its inputs on to a function."""

    def __init__(self, layer: Any, record: Callable[[mx.array], None]):
        super().__init__()
        self.layer, self._record = layer, record

    def __call__(self, x: mx.array) -> mx.array:
        self._record(x)
        return self.layer(x)


def _record(
    model: nn.Module,
    ranks: Mapping[str, int],
    batches: Iterable[Any],
    forward: Callable[[Any, Any], object],
    mask: Callable[[Any], mx.array] | None,
    rho: float,
) -> dict[str, InputDirections]:
    """Run the batches with recorders in the place of the layers, and put the layers back."""
    found = {path: InputDirections(round(rank * rho)) for path, rank in ranks.items()}
    seen: dict[str, mx.array] = {}
    modules = dict(model.named_modules())
    originals = [(path, modules[path]) for path in ranks]
    recorders = [
        (path, _Recorder(layer, lambda x, path=path: seen.__setitem__(path, x)))
        for path, layer in originals
    ]
    was_training = model.training
    model.update_modules(tree_unflatten(recorders))
    model.eval()
    try:
        for batch in batches:
            seen.clear()
            forward(model, batch)
            kept = None if mask is None else np.array(mask(batch)).astype(bool)
            _update(found, seen, kept)
    finally:
        model.update_modules(tree_unflatten(originals))
        model.train(was_training)
    return found


def _update(
    found: dict[str, InputDirections], seen: dict[str, mx.array], kept: np.ndarray | None
) -> None:
    """Take the inputs of one batch; layers with the same input, such as q, k and v, share one."""
    by_input: dict[tuple[int, int, int], InputDirections] = {}
    for path, x in seen.items():
        before = found[path]
        shared = (id(x), before.k, before.count)
        if (same := by_input.get(shared)) is not None:
            found[path].__dict__.update(same.__dict__)
            continue
        vectors = np.array(x.astype(mx.float32))
        vectors = vectors.reshape(-1, x.shape[-1]) if kept is None else vectors[kept]
        before.update(vectors)
        by_input[shared] = before
