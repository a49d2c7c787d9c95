"""Heads on pooled text and numeric features: classification and regression."""

import math
from typing import TypedDict, Unpack

import mlx.core as mx
import mlx.nn as nn

from mlx_heads.pooling import Pooling, check_pooling, pool, pooled_size

# Standard deviation of the output weights, as in BERT's classifier: the first loss is near that of
# a constant prediction, and the first gradients into a pretrained encoder are small.
OUTPUT_SCALE = 0.02


class HeadOptions(TypedDict, total=False):
    """The keyword arguments of every `PooledHead`."""

    pooling: Pooling
    dropout: float
    hidden_layer_size: int
    num_features: int
    feature_size: int
    seed: int


class PooledHead(nn.Module):
    """Pooling, dropout, an optional hidden layer, numeric features and a linear output.

    `hidden_layer_size` adds a GELU layer on the pooled text (0: none). `num_features` numeric
    columns reach the output through a `NumericBranch` of `feature_size` concatenated to the text,
    and through a linear skip connection initialized to zero, so that the head can learn a linear
    model of the numbers. Output weights are initialized to N(0, 0.02), the bias to zero. Initial
    weights depend only on `seed`; dropout uses `mx.random.state`.
    """

    def __init__(
        self,
        hidden_size: int,
        num_outputs: int,
        *,
        pooling: Pooling = "mean",
        dropout: float = 0.1,
        hidden_layer_size: int = 0,
        num_features: int = 0,
        feature_size: int = 64,
        seed: int = 0,
    ):
        super().__init__()
        _check_sizes(hidden_size, hidden_layer_size, num_features, feature_size, dropout)
        check_pooling(pooling)
        self.pooling: Pooling = pooling
        self.hidden_size = hidden_size
        self.num_outputs = num_outputs
        self.num_features = num_features
        keys = mx.random.split(mx.random.key(seed), 2)
        self.dropout = nn.Dropout(dropout)
        width = pooled_size(hidden_size, pooling)
        if hidden_layer_size:
            self.hidden_layer = _uniform_linear(width, hidden_layer_size, keys[0])
            width = hidden_layer_size
        if num_features:
            self.numeric = NumericBranch(num_features, feature_size, dropout=dropout, seed=seed + 1)
            self.skip = nn.Linear(num_features, num_outputs, bias=False)
            self.skip.weight = mx.zeros((num_outputs, num_features))
            width += feature_size
        self.output = nn.Linear(width, num_outputs)
        self.output.weight = OUTPUT_SCALE * mx.random.normal((num_outputs, width), key=keys[1])
        self.output.bias = mx.zeros((num_outputs,))

    def __call__(
        self, hidden: mx.array, attention_mask: mx.array, features: mx.array | None = None
    ) -> mx.array:
        """Return (B,) for one output, else (B, num_outputs).

        `hidden` is (B, L, hidden_size), `attention_mask` boolean (B, L), `features`
        (B, num_features), required if the head has any.
        """
        self._check_inputs(hidden, features)
        x = self.dropout(pool(hidden, attention_mask, self.pooling))
        if "hidden_layer" in self:
            x = self.dropout(nn.gelu(self.hidden_layer(x)))
        if features is None:
            outputs = self.output(x)
        else:
            x = mx.concatenate([x, self.numeric(features)], axis=-1)
            outputs = self.output(x) + self.skip(features)
        return outputs[:, 0] if self.num_outputs == 1 else outputs

    def _check_inputs(self, hidden: mx.array, features: mx.array | None) -> None:
        if hidden.shape[-1] != self.hidden_size:
            raise ValueError(
                f"this head has hidden_size={self.hidden_size}, "
                f"got hidden states of shape {hidden.shape}"
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


class ClassificationHead(PooledHead):
    """Hidden states to logits: (B,) of class 1 for two classes, (B, num_classes) for more.

    Train two classes with `binary_cross_entropy`, more with `cross_entropy`. `PooledHead` documents
    the options.
    """

    def __init__(self, hidden_size: int, num_classes: int, **options: Unpack[HeadOptions]):
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        super().__init__(hidden_size, 1 if num_classes == 2 else num_classes, **options)
        self.num_classes = num_classes

    def probabilities(self, logits: mx.array) -> mx.array:
        """Return (B, num_classes) float32 probabilities; rows sum to one."""
        logits = logits.astype(mx.float32)
        shape = (self.num_classes,) if self.num_classes > 2 else ()
        if logits.ndim < 1 or logits.shape[1:] != shape:
            expected = f"(B, {self.num_classes})" if shape else "(B,)"
            raise ValueError(f"logits of this head have shape {expected}, got {logits.shape}")
        if self.num_classes == 2:
            return mx.stack([mx.sigmoid(-logits), mx.sigmoid(logits)], axis=-1)
        return mx.softmax(logits, axis=-1)


class RegressionHead(PooledHead):
    """Hidden states to values on the scale of `TargetScaler` (zero mean, unit variance).

    Train with `mean_squared_error` or `huber`. `PooledHead` documents the options.
    """

    def __init__(self, hidden_size: int, num_outputs: int = 1, **options: Unpack[HeadOptions]):
        if num_outputs < 1:
            raise ValueError(f"num_outputs must be at least 1, got {num_outputs}")
        super().__init__(hidden_size, num_outputs, **options)


class NumericBranch(nn.Module):
    """Standardized numbers (B, num_features) to (B, size): linear, SiLU, dropout, linear.

    Without LayerNorm, which over a few columns would remove the scale, and so the information.
    Impute missing values first; the output for a NaN feature is NaN.
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
    if hidden_size < 1:
        raise ValueError(f"hidden_size must be at least 1, got {hidden_size}")
    if hidden_layer_size < 0:
        raise ValueError(f"hidden_layer_size must be 0 (none) or more, got {hidden_layer_size}")
    if num_features < 0:
        raise ValueError(f"num_features must be 0 (none) or more, got {num_features}")
    if num_features and feature_size < 1:
        raise ValueError(f"feature_size must be at least 1, got {feature_size}")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout must be in [0, 1), got {dropout}")
