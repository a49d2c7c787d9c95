"""Smaller models: fewer layers, heads and feed-forward units. The results are new models.

All layers keep the same sizes, so that the config describes them. Models with fewer layers or units
load in transformers. It cannot express heads of another size than hidden_size / heads, so models
with fewer heads load only here.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np
from mlx.utils import tree_unflatten

from mlx_encoders.bert import BertConfig
from mlx_encoders.build import build_model, named_parameters
from mlx_encoders.derived_folders import mean_states
from mlx_encoders.modernbert import ModernBertConfig
from mlx_encoders.neobert import NeoBertConfig
from mlx_encoders.pretrained import PretrainedModel

M = TypeVar("M", bound=PretrainedModel)
Loss = Callable[[Any, Any], mx.array]
_LAYER = re.compile(r"((?:encoder\.layer|layers|transformer_encoder)\.)(\d+)(\..*)")


@dataclass(frozen=True)
class _Names:
    """The matrices of a layer, and how the rows of the inner ones are ordered."""

    up: str
    gated: bool
    """Whether `up` has a second half of rows, the gates."""
    down: str
    heads: tuple[str, ...]
    layout: str
    """Order of the rows of `heads`: "head", "qkv head" or "head qkv", each with its dimensions."""
    out: str


_NAMES = {
    BertConfig: _Names(
        "intermediate.dense", False, "output.dense",
        ("attention.self.query", "attention.self.key", "attention.self.value"), "head",
        "attention.output.dense",
    ),
    ModernBertConfig: _Names("mlp.Wi", True, "mlp.Wo", ("attn.Wqkv",), "qkv head", "attn.Wo"),
    NeoBertConfig: _Names("ffn.w12", True, "ffn.w3", ("qkv",), "head qkv", "wo"),
}  # fmt: skip


@dataclass(frozen=True)
class Importance:
    """How much the loss depends on each part, to first order (Michel et al. 2019)."""

    heads: np.ndarray
    """(layers, heads)."""
    units: np.ndarray
    """(layers, inner size)."""


def keep_layers(model: M, layers: Sequence[int]) -> M:
    """Return a model of these layers of `model`, such as every second one to start a student.

    The first layer of ModernBERT has no norm before its attention, so it must be kept first.
    """
    config = model.encoder_model.config
    depth = config.num_hidden_layers
    if not layers or any(not 0 <= layer < depth for layer in layers):
        raise ValueError(f"layers must be from 0 to {depth - 1}, at least one; got {list(layers)}")
    if list(layers) != sorted(set(layers)):
        raise ValueError(f"layers must increase, got {list(layers)}")
    changes: dict[str, Any] = {"num_hidden_layers": len(layers)}
    if isinstance(config, ModernBertConfig):
        if layers[0] != 0:
            raise ValueError(
                f"ModernBERT's first layer has no norm of its own and must stay the first: "
                f"start with layer 0, got {list(layers)}"
            )
        changes["layer_types"] = tuple((config.layer_types or ())[layer] for layer in layers)
    positions = {layer: index for index, layer in enumerate(layers)}
    kept = {}
    for path, array in named_parameters(model).items():
        if match := _LAYER.search(path):
            if int(match[2]) not in positions:
                continue
            path = _LAYER.sub(rf"\g<1>{positions[int(match[2])]}\g<3>", path)
        kept[path] = array
    return _rebuild(model, changes, kept)


def measure_importance(model: PretrainedModel, loss: Loss, batches: Iterable[Any]) -> Importance:
    """Return the sum over `batches` of |dL/dm| for a factor m, 1, on each head and unit.

    `loss(model, batch)` is a scalar, such as a task's loss or, without labels, `sensitivity_loss`.
    dL/dm is the sum of weight times gradient over the columns of the projection that follows, so no
    forward pass is changed, and frozen weights count too. Raises `ValueError` for a gradient that
    is not finite.
    """
    config = model.encoder_model.config
    names, parameters = _names(config), named_parameters(model)
    paths = {name: _paths(parameters, f".{name}.weight", names) for name in (names.out, names.down)}
    weights = {path: parameters[path] for some in paths.values() for path in some}

    def compute(weights: dict[str, mx.array], batch: Any) -> mx.array:
        model.update(tree_unflatten(list(weights.items())))
        return loss(model, batch)

    gradient = mx.grad(compute)
    found: dict[str, list[np.ndarray]] = {names.out: [], names.down: []}
    try:
        for batch in batches:
            # A copy, in which MLX leaves its tracers if the loss raises.
            gradients = gradient(dict(weights), batch)
            for name, some in paths.items():
                each = [
                    (weights[path].astype(mx.float32) * gradients[path]).sum(axis=0)
                    for path in some
                ]
                slopes = mx.stack(each)  # (layers, columns)
                if name == names.out:
                    slopes = slopes.reshape(len(each), config.num_attention_heads, -1).sum(axis=-1)
                found[name].append(np.abs(np.array(slopes)))
    finally:
        model.update(tree_unflatten(list(weights.items())))
    if not found[names.out]:
        raise ValueError("measure_importance needs at least one batch, got none")
    heads, units = (np.sum(found[name], axis=0) for name in (names.out, names.down))
    if not (np.isfinite(heads).all() and np.isfinite(units).all()):
        raise ValueError("the gradient of the loss is not finite; check the batches and the loss")
    return Importance(heads, units)


def sensitivity_loss(seed: int = 0) -> Loss:
    """Return a loss without labels, of batches of `Tokenizer.pad`, for `measure_importance`.

    It is the product of each row's mean hidden state with a random vector of its own. The mean
    square of its derivative is the squared change of the rows' embeddings, so that parts are
    important by what they change of the outputs.
    """
    generator = np.random.default_rng(seed)

    def loss(model: PretrainedModel, batch: Mapping[str, Any]) -> mx.array:
        mean = mean_states(model, batch)
        directions = generator.standard_normal(mean.shape).astype(np.float32)
        return (mean * mx.array(directions)).sum()

    return loss


def prune_heads(model: M, num_heads: int, importance: np.ndarray | None = None) -> M:
    """Return a model with the `num_heads` most important heads of each layer, in their order.

    `importance` is (layers, heads), of `measure_importance`; None is the norm of a head's output
    projection. Load and save the result here: transformers cannot express it.
    """
    config = model.encoder_model.config
    names, heads = _names(config), config.num_attention_heads
    head_dim = config.attention_size // heads
    chosen = _most_important(model, names, names.out, heads, num_heads, importance)
    kept = dict(named_parameters(model))
    orders = {"head": (1, heads), "qkv head": (3, heads), "head qkv": (heads, 3)}
    for layer, some in enumerate(chosen):
        for path, array in _of_layer(kept, layer):
            if _is_of(path, names.heads):
                shape = (*orders[names.layout], head_dim, *array.shape[1:])
                axis = 0 if names.layout == "head qkv" else 1
                rows = mx.take(array.reshape(shape), some, axis=axis)
                kept[path] = rows.reshape(-1, *array.shape[1:])
            elif path.endswith(f".{names.out}.weight"):
                columns = array.reshape(array.shape[0], heads, head_dim)
                kept[path] = mx.take(columns, some, axis=1).reshape(array.shape[0], -1)
    return _rebuild(model, {"num_attention_heads": num_heads, "head_dim": head_dim}, kept)


def prune_units(model: M, inner_size: int, importance: np.ndarray | None = None) -> M:
    """Return a model with the `inner_size` most important feed-forward units of each layer.

    `importance` is (layers, units), of `measure_importance`; None is the norm of a unit's output
    weights. `inner_size` of NeoBERT must be a multiple of 8. The result loads in transformers.
    """
    config = model.encoder_model.config
    names = _names(config)
    is_neobert = isinstance(config, NeoBertConfig)
    units = config.inner_size if isinstance(config, NeoBertConfig) else config.intermediate_size
    if is_neobert and inner_size % 8:
        raise ValueError(f"NeoBERT needs an inner size that is a multiple of 8, got {inner_size}")
    chosen = _most_important(model, names, names.down, units, inner_size, importance)
    kept = dict(named_parameters(model))
    for layer, some in enumerate(chosen):
        rows = mx.concatenate([some, some + units]) if names.gated else some
        for path, array in _of_layer(kept, layer):
            if _is_of(path, (names.up,)):
                kept[path] = mx.take(array, rows, axis=0)
            elif path.endswith(f".{names.down}.weight") and not _is_attention(path, names):
                kept[path] = mx.take(array, some, axis=1)
    size = inner_size * 3 // 2 if is_neobert else inner_size
    return _rebuild(model, {"intermediate_size": size}, kept)


def _names(config: Any) -> _Names:
    return _NAMES[type(config)]


def _most_important(
    model: PretrainedModel,
    names: _Names,
    matrix: str,
    parts: int,
    wanted: int,
    importance: np.ndarray | None,
) -> list[mx.array]:
    """Return the indices of the `wanted` most important parts of each layer, increasing."""
    if not 1 <= wanted <= parts:
        raise ValueError(
            f"a layer has {parts} of these parts; keep from 1 to {parts}, got {wanted}"
        )
    weights = named_parameters(model)
    paths = _paths(weights, f".{matrix}.weight", names)
    squares = [mx.square(weights[path].astype(mx.float32)).sum(axis=0) for path in paths]
    norms = np.array(mx.stack(squares)).reshape(len(paths), parts, -1).sum(axis=-1)
    found = norms if importance is None else importance
    if found.shape != norms.shape:
        raise ValueError(f"importance must be (layers, parts) {norms.shape}, got {found.shape}")
    order = np.argsort(-found, axis=1, kind="stable")[:, :wanted]
    return [mx.array(np.sort(row)) for row in order]


def _paths(weights: Mapping[str, mx.array], ending: str, names: _Names) -> list[str]:
    """Return the paths with this ending, one of each layer, in order."""
    wants_attention = names.out in ending
    return [
        path
        for path in weights
        if path.endswith(ending)
        and _LAYER.search(path)
        and _is_attention(path, names) == wants_attention
    ]


def _is_attention(path: str, names: _Names) -> bool:
    """Tell BERT's `attention.output.dense` from the `output.dense` of its feed-forward network."""
    return f".{names.out}." in path


def _of_layer(weights: Mapping[str, mx.array], layer: int) -> list[tuple[str, mx.array]]:
    return [
        (path, array)
        for path, array in weights.items()
        if (match := _LAYER.search(path)) and int(match[2]) == layer
    ]


def _is_of(path: str, modules: Sequence[str]) -> bool:
    return any(f".{module}." in path for module in modules)


def _rebuild(model: M, changes: Mapping[str, Any], weights: Mapping[str, mx.array]) -> M:
    """Return a model of the same class with this change of its config, and these weights."""
    if any(path.endswith(".scales") for path in weights):
        raise ValueError("the model is quantized: shrink it before, or dequantize it")
    config = replace(model.encoder_model.config, **changes)
    smaller = build_model(config, model_class=type(model))
    # Copies: mx.compile of one model's training step would put its tracers into shared arrays.
    copies = [(path, mx.array(array)) for path, array in weights.items()]
    smaller.load_weights(copies, strict=True)
    smaller.train(model.training)
    return smaller
