"""The head that all others are made of: pooled text and numeric features to linear outputs."""

import math
from typing import Any, TypedDict

import mlx.core as mx
import mlx.nn as nn

from mlx_heads.pooling import AttentionPooling, pool, pooled_size, pooling_names

# Standard deviation of the output weights, as in BERT's classifier: the first loss is near that of
# a constant prediction, and the first gradients into a pretrained encoder are small.
OUTPUT_SCALE = 0.02


class HeadOptions(TypedDict, total=False):
    """The keyword arguments of every `PooledHead`."""

    pooling: str
    dropout: float
    hidden_layer_size: int
    num_features: int
    feature_size: int
    seed: int


class PooledHead(nn.Module):
    """Pooling, dropout, an optional hidden layer, numeric features and a linear output.

    `pooling` is one of `Pooling` or several joined by a plus. `hidden_layer_size` adds a GELU layer
    on the pooled text (0: none). `num_features` numeric columns reach the output through a
    `NumericBranch` of `feature_size` concatenated to the text, and through a linear skip connection
    initialized to zero, so that the head can learn a linear model of the numbers. Output weights
    are initialized to N(0, 0.02), the bias to zero (`output_bias=False`: none). Initial weights
    depend only on `seed`; dropout uses `mx.random.state`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int,
        *,
        pooling: str = "mean",
        dropout: float = 0.1,
        hidden_layer_size: int = 0,
        num_features: int = 0,
        feature_size: int = 64,
        output_bias: bool = True,
        seed: int = 0,
    ):
        super().__init__()
        _check_sizes(hidden_size, hidden_layer_size, num_features, feature_size, dropout)
        self.pooling = pooling
        self.hidden_size = hidden_size
        self.num_outputs = num_outputs
        self.num_features = num_features
        keys = mx.random.split(mx.random.key(seed), 2)
        self.dropout = nn.Dropout(dropout)
        if "attention" in pooling_names(pooling):
            self.attention = AttentionPooling(hidden_size)
        width = pooled_size(hidden_size, pooling)
        if hidden_layer_size:
            self.hidden_layer = _uniform_linear(width, hidden_layer_size, keys[0])
            width = hidden_layer_size
        if num_features:
            self.numeric = NumericBranch(num_features, feature_size, dropout=dropout, seed=seed + 1)
            self.skip = nn.Linear(num_features, num_outputs, bias=False)
            self.skip.weight = mx.zeros((num_outputs, num_features))
            width += feature_size
        self.output = nn.Linear(width, num_outputs, bias=output_bias)
        self.output.weight = OUTPUT_SCALE * mx.random.normal((num_outputs, width), key=keys[1])
        if output_bias:
            self.output.bias = mx.zeros((num_outputs,))

    def __call__(
        self,
        hidden: mx.array,
        attention_mask: mx.array | None,
        features: mx.array | None = None,
    ) -> mx.array:
        """Return the outputs (B, *output_shape).

        `hidden` is (B, L, hidden_size) with a boolean `attention_mask` (B, L), or pooled vectors
        (B, hidden_size) with None, which count as one token. `features` is (B, num_features),
        required if the head has any.
        """
        return self.outputs_of(self._linear(hidden, attention_mask, features))

    @property
    def output_shape(self) -> tuple[int, ...]:
        """The shape of the outputs of one row: () for one output, else (num_outputs,)."""
        return () if self.num_outputs == 1 else (self.num_outputs,)

    @property
    def loss_options(self) -> dict[str, Any]:
        """The options that the loss of these outputs must share with the head, as its levels."""
        return {}

    def outputs_of(self, linear: mx.array) -> mx.array:
        """Turn the (B, num_outputs) results of the last layer into (B, *output_shape)."""
        return linear.reshape(-1, *self.output_shape)

    def predict(self, outputs: mx.array) -> mx.array:
        """Turn outputs into predictions; here the same numbers in float32."""
        return self._checked(outputs)

    def _checked(self, outputs: mx.array) -> mx.array:
        """Return outputs in float32 after a check of their shape."""
        if outputs.ndim < 1 or outputs.shape[1:] != self.output_shape:
            expected = ", ".join(map(str, ("B", *self.output_shape)))
            expected = expected if self.output_shape else "B,"
            raise ValueError(f"outputs of this head have shape ({expected}), got {outputs.shape}")
        return outputs.astype(mx.float32)

    def _linear(
        self, hidden: mx.array, attention_mask: mx.array | None, features: mx.array | None
    ) -> mx.array:
        """Return the (B, num_outputs) results of the last layer."""
        self._check_inputs(hidden, attention_mask, features)
        x = self.dropout(self._pool(hidden, attention_mask))
        if "hidden_layer" in self:
            x = self.dropout(nn.gelu(self.hidden_layer(x)))
        if features is None:
            return self.output(x)
        x = mx.concatenate([x, self.numeric(features)], axis=-1)
        return self.output(x) + self.skip(features)

    def _pool(self, hidden: mx.array, attention_mask: mx.array | None) -> mx.array:
        if attention_mask is None:
            hidden, attention_mask = hidden[:, None], mx.ones((len(hidden), 1), mx.bool_)
        if "attention" not in self:
            return pool(hidden, attention_mask, self.pooling)
        parts = [
            self.attention(hidden, attention_mask)
            if name == "attention"
            else pool(hidden, attention_mask, name)
            for name in pooling_names(self.pooling)
        ]
        return mx.concatenate(parts, axis=-1)

    def _check_inputs(
        self, hidden: mx.array, attention_mask: mx.array | None, features: mx.array | None
    ) -> None:
        if hidden.shape[-1] != self.hidden_size:
            raise ValueError(
                f"this head has hidden_size={self.hidden_size}, "
                f"got hidden states of shape {hidden.shape}"
            )
        if hidden.ndim == 2 and attention_mask is not None:
            raise ValueError(
                f"pooled vectors have no tokens: pass attention_mask=None with hidden of shape "
                f"{hidden.shape}"
            )
        if hidden.ndim != 2 and attention_mask is None:
            raise ValueError(
                f"attention_mask may be None only for pooled vectors (B, {self.hidden_size}), "
                f"got hidden of shape {hidden.shape}"
            )
        if features is None and self.num_features:
            raise ValueError(
                f"this head has num_features={self.num_features}: "
                f"pass features of shape (B, {self.num_features})"
            )
        if features is not None and features.shape != (len(hidden), self.num_features):
            raise ValueError(
                f"features must have shape (B, num_features) = "
                f"({len(hidden)}, {self.num_features}), got {features.shape}"
            )


class NumericBranch(nn.Module):
    """Standardized numbers (B, num_features) to (B, size): linear, SiLU, dropout, linear.

    Without LayerNorm, which over a few columns would remove the scale, and so the information.
    Impute missing values first, as `FeatureScaler` does; the output for a NaN feature is NaN.
    """

    def __init__(self, num_features: int, size: int = 64, *, dropout: float = 0.1, seed: int = 0):
        super().__init__()
        keys = mx.random.split(mx.random.key(seed), 2)
        self.input = _uniform_linear(num_features, size, keys[0])
        self.dropout = nn.Dropout(dropout)
        self.output = _uniform_linear(size, size, keys[1])

    def __call__(self, features: mx.array) -> mx.array:
        """Return (B, size)."""
        return self.output(self.dropout(nn.silu(self.input(features))))


def check_at_least(name: str, value: int, smallest: int) -> None:
    """Raise `ValueError` for a size below `smallest`."""
    if value < smallest:
        raise ValueError(f"{name} must be at least {smallest}, got {value}")


def _uniform_linear(inputs: int, outputs: int, key: mx.array) -> nn.Linear:
    """Return a linear layer with weights uniform in +-1/sqrt(inputs) and zero bias."""
    layer = nn.Linear(inputs, outputs)
    bound = 1.0 / math.sqrt(inputs)
    layer.weight = mx.random.uniform(-bound, bound, (outputs, inputs), key=key)
    layer.bias = mx.zeros((outputs,))
    return layer


def _check_sizes(
    hidden_size: int, hidden_layer_size: int, num_features: int, feature_size: int, dropout: float
) -> None:
    check_at_least("hidden_size", hidden_size, 1)
    if hidden_layer_size < 0:
        raise ValueError(f"hidden_layer_size must be 0 (none) or more, got {hidden_layer_size}")
    if num_features < 0:
        raise ValueError(f"num_features must be 0 (none) or more, got {num_features}")
    if num_features:
        check_at_least("feature_size", feature_size, 1)
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
