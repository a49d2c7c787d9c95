"""Regression: one or several numbers per row."""

import mlx.core as mx

from mlx_heads.pooled_head import PooledHead
from mlx_heads.pooling import Pooling


class RegressionHead(PooledHead):
    """Hidden states to values on the scale of `TargetScaler` (zero mean, unit variance).

    Train with `mean_squared_error` or `huber`. `num_features` numeric columns are added through a
    `NumericBranch` of `feature_size` and a linear skip connection. `hidden_layer_size` adds a GELU
    layer on the pooled text (0: none).
    """

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int = 1,
        *,
        pooling: Pooling = "mean",
        dropout: float = 0.1,
        hidden_layer_size: int = 0,
        num_features: int = 0,
        feature_size: int = 64,
        seed: int = 0,
    ):
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be at least 1, got {num_outputs}")
        super().__init__(
            hidden_size,
            num_outputs,
            pooling=pooling,
            dropout=dropout,
            hidden_layer_size=hidden_layer_size,
            num_features=num_features,
            feature_size=feature_size,
            seed=seed,
        )
        self.num_outputs = num_outputs

    def __call__(
        self, hidden: mx.array, attention_mask: mx.array, features: mx.array | None = None
    ) -> mx.array:
        """Return values: (B,) for one output, else (B, num_outputs).

        `hidden` is (B, L, hidden_size), `attention_mask` boolean (B, L), `features`
        (B, num_features), required if the head has any.
        """
        values = self.compute_outputs(hidden, attention_mask, features)
        return values[:, 0] if self.num_outputs == 1 else values
