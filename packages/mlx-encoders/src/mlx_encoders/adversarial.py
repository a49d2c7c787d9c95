"""Adversarial training (FGM, AWP) and R-Drop, as losses for `nn.value_and_grad`.

A perturbation is a constant, so layers need first derivatives only. Both passes compute their own
gradients, which are then attached to the loss: in MLX 0.32 a nested gradient unmarks the outer
tracers that it meets, and the outer one then fails at a compiled layer such as `nn.gelu`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map, tree_map_with_path

# A scalar, or a tuple that begins with one, such as (sum of losses, sum of weights).
Loss = TypeVar("Loss", bound=mx.array | tuple[mx.array, ...])


def fgm_perturbation(
    gradient: mx.array, epsilon: float, attention_mask: mx.array | None = None
) -> mx.array:
    """Return epsilon g / ||g|| (Miyato et al. 2017, equation 5), with one norm for each row.

    `gradient` is that of the embeddings (B, L, D). Padding by `attention_mask` (B, L; 1 or True for
    tokens) is not perturbed, nor is a row without gradient.
    """
    if gradient.ndim != 3:
        raise ValueError(f"gradient must be (batch, length, size), got {gradient.shape}")
    _check_positive("epsilon", epsilon)
    if attention_mask is not None:
        if attention_mask.shape != gradient.shape[:2]:
            raise ValueError(
                f"attention_mask must be {gradient.shape[:2]}, as the gradient, "
                f"got {attention_mask.shape}"
            )
        gradient = mx.where(attention_mask[..., None] > 0, gradient, 0)
    return (epsilon * _direction(gradient, (1, 2))).astype(gradient.dtype)


def fgm_loss(
    loss: Callable[[nn.Module, mx.array], Loss],
    model: nn.Module,
    input_ids: mx.array,
    epsilon: float,
    attention_mask: mx.array | None = None,
) -> Loss:
    """Return the mean of `loss(model, embeddings)` at the embeddings and at perturbed ones.

    `loss` passes the embeddings on as `inputs_embeds`; `model` has `get_input_embeddings()`. The
    first pass gives both its share of the gradient and the perturbation, so the cost is two
    steps, not three. The gradient reaches trainable parameters only, not other arrays that `loss`
    uses. After a tuple's scalar come the values of the first pass.
    """
    parameters = model.trainable_parameters()
    constants = tree_map(mx.stop_gradient, parameters)
    embed: nn.Embedding = model.get_input_embeddings()  # type: ignore[operator]

    def at(parameters: dict, noise: mx.array) -> Loss:
        model.update(parameters)
        return loss(model, embed(input_ids) + noise)

    try:
        noise = mx.zeros_like(embed(input_ids))
        value, (gradients, of_noise) = mx.value_and_grad(at, (0, 1))(constants, noise)
        noise = fgm_perturbation(of_noise, epsilon, attention_mask)
        other, more = mx.value_and_grad(at)(constants, noise)
    finally:
        model.update(parameters)
    first, *rest = _as_tuple(value)
    mean = (first + _as_tuple(other)[0]) / 2
    gradients = tree_map(lambda a, b: (a + b) / 2, gradients, more)
    return _like(value, _with_gradients(mean, parameters, gradients), rest)


def awp_perturbation(
    parameters: Mapping[str, mx.array], gradients: Mapping[str, mx.array], gamma: float
) -> dict[str, mx.array]:
    """Return gamma ||w|| g / ||g|| for each array (Wu et al. 2020, equation 10).

    Both mappings have the same keys. An array without gradient is not perturbed.
    """
    _check_positive("gamma", gamma)
    if parameters.keys() != gradients.keys():
        odd = sorted(parameters.keys() ^ gradients.keys())
        raise ValueError(f"parameters and gradients must have the same keys; {odd[0]!r} is in one")
    found = {}
    for name, weight in parameters.items():
        size = gamma * mx.linalg.norm(weight.astype(mx.float32).reshape(-1))
        found[name] = (size * _direction(gradients[name])).astype(weight.dtype)
    return found


def awp_loss(
    loss: Callable[[nn.Module], Loss],
    model: nn.Module,
    gamma: float,
    select: Callable[[str, mx.array], bool] = lambda path, array: array.ndim >= 2,
) -> Loss:
    """Return `loss(model)` at perturbed weights; its gradient is for the weights themselves.

    `select(path, array)` chooses among the trainable parameters, by default the matrices and
    tables. The model's own arrays are back in place at return. The cost is two steps.
    """
    parameters = model.trainable_parameters()
    constants = tree_map(mx.stop_gradient, parameters)

    def at(parameters: dict) -> Loss:
        model.update(parameters)
        return loss(model)

    try:
        _, gradients = mx.value_and_grad(at)(constants)
        weights, slopes = dict(_flatten(constants)), dict(_flatten(gradients))
        chosen = {path: array for path, array in weights.items() if select(path, array)}
        if not chosen:
            raise ValueError("select chose no trainable parameter of the model; nothing to perturb")
        noise = awp_perturbation(chosen, {path: slopes[path] for path in chosen}, gamma)
        moved = tree_map_with_path(lambda path, w: w + noise.get(path, 0), constants)
        value, gradients = mx.value_and_grad(at)(moved)
    finally:
        model.update(parameters)
    first, *rest = _as_tuple(value)
    return _like(value, _with_gradients(first, parameters, gradients), rest)


def r_drop_loss(
    outputs: mx.array,
    other_outputs: mx.array,
    kind: Literal["classes", "labels", "values"] = "classes",
) -> mx.array:
    """Return how much two passes with dropout disagree, for each row (Wu et al. 2021, equation 2).

    Add it, times a factor of 0.5 to 5, to the mean of both task losses. "classes": (KL(p, q) +
    KL(q, p)) / 2 of logits (..., K), shape (...) out. "labels": the same of each logit's two
    classes, and "values": the squared difference, both as means over the last axis.
    """
    if outputs.shape != other_outputs.shape or outputs.ndim < 2:
        raise ValueError(
            f"both outputs must have one shape of at least two axes, "
            f"got {outputs.shape} and {other_outputs.shape}"
        )
    a, b = outputs.astype(mx.float32), other_outputs.astype(mx.float32)
    if kind == "values":
        return mx.square(a - b).mean(-1)
    if kind == "labels":
        return (0.5 * (mx.sigmoid(a) - mx.sigmoid(b)) * (a - b)).mean(-1)
    if kind != "classes":
        raise ValueError(f"kind must be 'classes', 'labels' or 'values', got {kind!r}")
    log_p, log_q = (x - mx.logsumexp(x, -1, keepdims=True) for x in (a, b))
    return 0.5 * ((mx.exp(log_p) - mx.exp(log_q)) * (log_p - log_q)).sum(-1)


def _with_gradients(value: mx.array, parameters: dict, gradients: dict) -> mx.array:
    """Return `value`, whose gradient for `parameters` is `gradients`."""
    paths = [path for path, _ in _flatten(parameters)]
    slopes = dict(_flatten(gradients))
    return _attach(
        mx.stop_gradient(value),
        [array for _, array in _flatten(parameters)],
        [mx.stop_gradient(slopes[path]) for path in paths],
    )


_custom: Any = mx.custom_function  # MLX annotates the decorated function as returning `object`


@_custom
def _attach(value: mx.array, parameters: list[mx.array], gradients: list[mx.array]) -> mx.array:
    return value


@_attach.vjp
def _attach_vjp(primals: tuple, cotangent: mx.array, _: mx.array) -> tuple:
    value, _, gradients = primals
    scaled = [(cotangent * each).astype(each.dtype) for each in gradients]
    return mx.zeros_like(value), scaled, [mx.zeros_like(each) for each in gradients]


def _direction(x: mx.array, axes: tuple[int, ...] | None = None) -> mx.array:
    """Return x / ||x|| in float32, 0 for 0."""
    x = x.astype(mx.float32)
    largest = mx.abs(x).max(axes, keepdims=True)
    x = x / mx.where(largest == 0, 1, largest)  # or squares of small gradients would be 0
    norm = mx.sqrt(mx.square(x).sum(axes, keepdims=True))
    return x / mx.where(norm == 0, 1, norm)


def _as_tuple(value: mx.array | tuple[mx.array, ...]) -> tuple[mx.array, ...]:
    return value if isinstance(value, tuple) else (value,)


def _like(value: Loss, first: mx.array, rest: list[mx.array]) -> Loss:
    return (first, *rest) if isinstance(value, tuple) else first  # type: ignore[return-value]


def _flatten(tree: dict) -> list[tuple[str, mx.array]]:
    return tree_flatten(tree)  # type: ignore[return-value]


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite, got {value}")
