"""Token vectors to one vector a row: pooling, independent of padding, and dense layers after it."""

import mlx.core as mx
import mlx.nn as nn

from mlx_encoders._suggest import did_you_mean

# By the name of the class, as sentence-transformers writes it.
_ACTIVATIONS = {
    "torch.nn.modules.linear.Identity": lambda x: x,
    "torch.nn.modules.activation.Tanh": mx.tanh,
    "torch.nn.modules.activation.ReLU": nn.relu,
    "torch.nn.modules.activation.GELU": nn.gelu,
    "torch.nn.modules.activation.SiLU": nn.silu,
    "torch.nn.modules.activation.Sigmoid": mx.sigmoid,
}


def pooling_names(pooling: str) -> list[str]:
    """Split "mean+max" at the plus; raises `ValueError` for unknown and repeated names."""
    names = str(pooling).split("+")
    for name in names:
        if name not in _POOLINGS:
            raise ValueError(f"unknown pooling {name!r}{did_you_mean(name, _POOLINGS)}")
    if len(set(names)) < len(names):
        raise ValueError(f"pooling {pooling!r} has the same part twice")
    return names


class Pooling(nn.Module):
    """Reduce (B, L, D) to (B, D); poolings joined by a plus, as "mean+max", are concatenated.

    "cls" is the first valid token and "last" the last one; "mean", "max", "mean_sqrt_len_tokens"
    (the sum over the square root of the number of tokens) and "weightedmean" (weights 1, 2, 3, ...)
    are over all of them. "attention" is a mean with the weights softmax(h q / sqrt(D)), with one
    learned query q (D,): zero at first, which is the mean.
    """

    def __init__(self, hidden_size: int, pooling: str = "mean"):
        super().__init__()
        self.names = tuple(pooling_names(pooling))
        self.output_size = hidden_size * len(self.names)
        if "attention" in self.names:
            self.query = mx.zeros((hidden_size,))

    def __call__(self, hidden: mx.array, valid: mx.array, prompt_length: int = 0) -> mx.array:
        """Return float32 vectors of hidden states with a boolean mask (B, L); 0 without tokens.

        Vectors at padding have no effect, even NaN, nor have the first `prompt_length` tokens.
        """
        place = mx.cumsum(valid.astype(mx.int32), axis=1)  # 1 for the first token of a row
        if prompt_length:
            valid = valid & (place > prompt_length)
        # Not a product: zero times a NaN in the padding would be NaN.
        kept = mx.where(valid[..., None], hidden.astype(mx.float32), 0.0)
        parts = [self._reduce(name, kept, valid, place) for name in self.names]
        return parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)

    def _reduce(self, name: str, kept: mx.array, valid: mx.array, place: mx.array) -> mx.array:
        if name != "attention":
            return _POOLINGS[name](kept, valid, place)
        scores = kept @ self.query.astype(mx.float32) / len(self.query) ** 0.5  # (B, L)
        # A finite minimum, not -inf: the softmax of a row without tokens stays finite.
        weights = mx.softmax(mx.where(valid, scores, mx.finfo(mx.float32).min), axis=1)
        return (weights[:, None] @ kept)[:, 0]


class Dense(nn.Module):
    """A linear layer and an activation on pooled vectors; `activation` is the class in torch."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "torch.nn.modules.activation.Tanh",
    ):
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"unknown activation {activation!r}{did_you_mean(activation, _ACTIVATIONS)}"
            )
        self.linear = nn.Linear(in_features, out_features, bias)
        self.activation = activation

    def __call__(self, x: mx.array) -> mx.array:
        """Map (B, in_features) to (B, out_features)."""
        return _ACTIVATIONS[self.activation](self.linear(x))


def _first(kept: mx.array, valid: mx.array, place: mx.array) -> mx.array:
    return _token(kept, mx.argmax(valid, axis=1))  # the first of equal values


def _last(kept: mx.array, valid: mx.array, place: mx.array) -> mx.array:
    return _token(kept, mx.argmax(valid * place, axis=1))


def _token(kept: mx.array, index: mx.array) -> mx.array:
    return mx.take_along_axis(kept, index[:, None, None], axis=1)[:, 0]  # (B, D)


def _mean(kept: mx.array, valid: mx.array, place: mx.array) -> mx.array:
    return kept.sum(axis=1) / _count(valid)


def _mean_sqrt(kept: mx.array, valid: mx.array, place: mx.array) -> mx.array:
    return kept.sum(axis=1) / mx.sqrt(_count(valid))


def _weighted_mean(kept: mx.array, valid: mx.array, place: mx.array) -> mx.array:
    weights = mx.where(valid, place, 0).astype(mx.float32)
    total = mx.maximum(weights.sum(axis=1, keepdims=True), 1.0)
    return (weights[:, None] @ kept)[:, 0] / total


def _max(kept: mx.array, valid: mx.array, place: mx.array) -> mx.array:
    highest = mx.where(valid[..., None], kept, -mx.inf).max(axis=1)
    return mx.where(valid.any(axis=1, keepdims=True), highest, 0.0)


def _count(valid: mx.array) -> mx.array:
    return mx.maximum(valid.sum(axis=1, keepdims=True), 1).astype(mx.float32)


_POOLINGS = {
    "cls": _first,
    "last": _last,
    "mean": _mean,
    "max": _max,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "attention": _mean,  # with its initial query
}
