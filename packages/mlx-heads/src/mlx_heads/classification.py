"""Heads for classes: one of two, one of many, or any number of labels."""

from typing import Unpack

import mlx.core as mx

from mlx_heads.pooled_heads import HeadOptions, PooledHead, check_at_least


class ClassificationHead(PooledHead):
    """Hidden states to logits: (B,) of class 1 for two classes, (B, num_classes) for more.

    Train two classes with `binary_cross_entropy`, more with `cross_entropy`. `PooledHead` documents
    the options.
    """

    def __init__(self, hidden_size: int, num_classes: int, **options: Unpack[HeadOptions]):
        check_at_least("num_classes", num_classes, 2)
        super().__init__(hidden_size, 1 if num_classes == 2 else num_classes, **options)
        self.num_classes = num_classes

    def predict(self, outputs: mx.array) -> mx.array:
        """Return (B, num_classes) float32 probabilities; rows sum to one."""
        logits = self._checked(outputs)
        if self.num_classes == 2:
            return mx.stack([mx.sigmoid(-logits), mx.sigmoid(logits)], axis=-1)
        return mx.softmax(logits, axis=-1)

    def probabilities(self, logits: mx.array) -> mx.array:
        """Return the same as `predict`."""
        return self.predict(logits)


class MultilabelHead(PooledHead):
    """Hidden states to (B, num_labels) logits, each of a label that is true or not by itself.

    Train with `binary_cross_entropy`, `focal_loss` or `asymmetric_loss` on (B, num_labels) targets.
    `PooledHead` documents the options.
    """

    def __init__(self, hidden_size: int, num_labels: int, **options: Unpack[HeadOptions]):
        check_at_least("num_labels", num_labels, 1)
        super().__init__(hidden_size, num_labels, **options)

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(num_labels,), also for one label."""
        return (self.num_outputs,)

    def predict(self, outputs: mx.array) -> mx.array:
        """Return (B, num_labels) float32 probabilities; rows need not sum to one."""
        return mx.sigmoid(self._checked(outputs))
