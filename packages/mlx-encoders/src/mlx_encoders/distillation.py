"""Losses to train a small model on the outputs of a large one.

A student with some of the teacher's layers (`student_of`) starts far better than a fresh one.
"""

from collections.abc import Sequence
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders.pretrained import PretrainedModel
from mlx_encoders.shrinking import keep_layers

M = TypeVar("M", bound=PretrainedModel)


def student_of(teacher: M, layers: int | Sequence[int]) -> M:
    """Return a student that starts as some layers of the teacher, embeddings and heads included.

    `layers` are indices, or a number of evenly spaced ones with the first and the last: 6 of 12
    layers are 0, 2, 4, 7, 9 and 11, as in DistilBERT (Sanh et al. 2019). Training the student
    leaves the teacher alone.
    """
    if isinstance(layers, int):
        layers = spaced_layers(teacher.encoder_model.config.num_hidden_layers, layers)
    return keep_layers(teacher, layers)


def spaced_layers(depth: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices of `depth` layers, with the first and the last."""
    if not 1 <= count <= depth:
        raise ValueError(f"the number of layers must be from 1 to {depth}, got {count}")
    if count == 1:
        return [0]
    return [round(index * (depth - 1) / (count - 1)) for index in range(count)]


def distillation_loss(
    student_logits: mx.array,
    teacher_logits: mx.array,
    labels: mx.array | None = None,
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    sample_weight: mx.array | None = None,
) -> mx.array:
    """Return the mean loss of logits (B, ..., classes), a scalar (Hinton et al. 2015).

    `alpha * T^2 * KL(softmax(teacher / T) || softmax(student / T)) + (1 - alpha) * CE(labels)`;
    without `labels` the first term alone, with `alpha` 1. The factor T^2 keeps the gradients of
    both terms comparable. `labels` and `sample_weight` are (B, ...). No gradient reaches the
    teacher.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student and teacher need logits of one shape, got {student_logits.shape} and "
            f"{teacher_logits.shape}"
        )
    if not temperature > 0 or not 0 <= alpha <= 1:
        raise ValueError(
            f"temperature must be positive and alpha in [0, 1], got {temperature} and {alpha}"
        )
    student, teacher = student_logits.astype(mx.float32), teacher_logits.astype(mx.float32)
    teacher = mx.stop_gradient(_log_softmax(teacher / temperature))
    soft = (mx.exp(teacher) * (teacher - _log_softmax(student / temperature))).sum(axis=-1)
    loss = temperature**2 * soft
    if labels is not None:
        hard = nn.losses.cross_entropy(student, labels, reduction="none")
        loss = alpha * loss + (1 - alpha) * hard
    return _weighted_mean(loss, sample_weight)


def value_distillation_loss(
    student_values: mx.array,
    teacher_values: mx.array,
    targets: mx.array | None = None,
    *,
    alpha: float = 0.5,
    sample_weight: mx.array | None = None,
) -> mx.array:
    """Return the mean square of the difference to the teacher, mixed with that to the targets.

    For regression: all arrays are (B, ...). Without `targets` the first term alone.
    """
    loss = mx.square(student_values - mx.stop_gradient(teacher_values))
    if targets is not None:
        loss = alpha * loss + (1 - alpha) * mx.square(student_values - targets)
    return _weighted_mean(loss, sample_weight)


def hidden_state_loss(
    student_states: Sequence[mx.array],
    teacher_states: Sequence[mx.array],
    layers: Sequence[int],
    attention_mask: mx.array | None = None,
    projection: nn.Module | None = None,
) -> mx.array:
    """Return the mean square of the difference of hidden states (B, L, D) over tokens.

    `student_states[i + 1]`, after the student's layer i, is compared with `teacher_states[j + 1]`
    of the teacher's layer j = `layers[i]`, and the embeddings with the embeddings. `projection`
    maps student states to the teacher's size.
    """
    if len(student_states) != len(layers) + 1:
        raise ValueError(
            f"the student has {len(student_states) - 1} layers, but `layers` names {len(layers)}"
        )
    wrong = [layer for layer in layers if not 0 <= layer < len(teacher_states) - 1]
    if wrong:
        raise ValueError(f"the teacher has {len(teacher_states) - 1} layers, got layers {wrong}")
    total = mx.array(0.0)
    for student, layer in zip(student_states, [-1, *layers], strict=True):
        teacher = mx.stop_gradient(teacher_states[layer + 1])
        mapped = student if projection is None else projection(student)
        loss = mx.square((mapped - teacher).astype(mx.float32)).mean(axis=-1)  # (B, L)
        weight = None if attention_mask is None else (mx.array(attention_mask) != 0)
        total = total + _weighted_mean(loss, weight)
    return total / len(student_states)


def _log_softmax(x: mx.array) -> mx.array:
    return x - mx.logsumexp(x, axis=-1, keepdims=True)


def _weighted_mean(loss: mx.array, weight: mx.array | None) -> mx.array:
    if weight is None:
        return loss.mean()
    weight = mx.broadcast_to(weight.astype(loss.dtype), loss.shape)
    return (loss * weight).sum() / mx.maximum(weight.sum(), 1e-12)
