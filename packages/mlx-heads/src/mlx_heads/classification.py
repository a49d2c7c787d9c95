"""Binary and multiclass classification: one label per row."""

import mlx.core as mx

from mlx_heads.pooled_head import PooledHead
from mlx_heads.pooling import Pooling


class ClassificationHead(PooledHead):
    """Hidden states to logits: one logit for two classes, `num_classes` logits for more.

    Train two classes with `binary_cross_entropy`, more with `cross_entropy`. `num_features` numeric
    columns are added through a `NumericBranch` of `feature_size` and a linear skip connection.
    `hidden_layer_size` adds a GELU layer on the pooled text (0: none).
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        *,
        pooling: Pooling = "mean",
        dropout: float = 0.1,
        hidden_layer_size: int = 0,
        num_features: int = 0,
        feature_size: int = 64,
        seed: int = 0,
    ):
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        super().__init__(
            hidden_size,
            1 if num_classes == 2 else num_classes,
            pooling=pooling,
            dropout=dropout,
            hidden_layer_size=hidden_layer_size,
            num_features=num_features,
            feature_size=feature_size,
            seed=seed,
        )
        self.num_classes = num_classes

    def __call__(
        self, hidden: mx.array, attention_mask: mx.array, features: mx.array | None = None
    ) -> mx.array:
        """Return logits: (B,) of class 1 when binary, else (B, num_classes).

        `hidden` is (B, L, hidden_size), `attention_mask` boolean (B, L), `features`
        (B, num_features), required if the head has any.
        """
        logits = self.compute_outputs(hidden, attention_mask, features)
        return logits[:, 0] if self.num_classes == 2 else logits

    def probabilities(self, logits: mx.array) -> mx.array:
        """Return (B, num_classes) float32 probabilities; rows sum to one."""
        logits = logits.astype(mx.float32)
        if self.num_classes == 2:
            _check_logits(logits, logits.ndim == 1, "(B,)")
            return mx.stack([mx.sigmoid(-logits), mx.sigmoid(logits)], axis=-1)
        matches = logits.ndim == 2 and logits.shape[1] == self.num_classes
        _check_logits(logits, matches, f"(B, {self.num_classes})")
        return mx.softmax(logits, axis=-1)


def _check_logits(logits: mx.array, matches: bool, expected: str) -> None:
    if not matches:
        raise ValueError(f"logits of this head have shape {expected}, got {logits.shape}")
