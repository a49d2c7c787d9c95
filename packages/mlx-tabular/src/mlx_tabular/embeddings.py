"""Piecewise-linear embeddings of numbers (Gorishniy et al., NeurIPS 2022).

Parameters have the names of the authors' package `rtdl_num_embeddings`.
"""

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn
import numpy as np


def quantile_bins(x: np.ndarray, n_bins: int = 48) -> list[np.ndarray]:
    """Return the distinct quantiles of each column of `x` (N, n): at most n_bins + 1 edges.

    Raises `ValueError` for values that are not finite, and for a constant column.
    """
    if n_bins < 2:
        raise ValueError(f"n_bins must be at least 2; got {n_bins}")
    x = np.asarray(x, np.float32)
    if not np.isfinite(x).all():
        raise ValueError("x has values that are not finite; fill missing values first")
    quantiles = np.quantile(x.astype(np.float64), np.linspace(0, 1, n_bins + 1), axis=0)
    edges = [np.unique(each.astype(np.float32)) for each in quantiles.T]
    if constant := [index for index, each in enumerate(edges) if len(each) < 2]:
        raise ValueError(f"column {constant[0]} of x is constant; leave it out")
    return edges


def uniform(key: mx.array, shape: Sequence[int], fan_in: int) -> mx.array:
    """Draw from U(-1 / sqrt(fan_in), 1 / sqrt(fan_in)), as torch's linear layers do."""
    bound = fan_in**-0.5
    return mx.random.uniform(-bound, bound, tuple(shape), key=key)


class LinearEmbeddings(nn.Module):
    """`weight * x + bias` for each feature: (B, n) to (n, B, d)."""

    def __init__(self, n_features: int, d_embedding: int, key: mx.array):
        super().__init__()
        keys = mx.random.split(key)
        self.weight = uniform(keys[0], (n_features, d_embedding), d_embedding)
        self.bias = uniform(keys[1], (n_features, d_embedding), d_embedding)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer."""
        return x.T[..., None] * self.weight[:, None] + self.bias[:, None]


class FeatureLinear(nn.Module):
    """A linear layer of its own for each feature, which starts at 0: (n, B, bins) to (n, B, d)."""

    def __init__(self, n_features: int, bins: int, d_embedding: int):
        super().__init__()
        self.weight = mx.zeros((n_features, bins, d_embedding))

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer."""
        return x @ self.weight


class PiecewiseLinearEmbeddings(nn.Module):
    """Version B of the paper on TabM: (B, n) numbers to (B, n, d_embedding).

    The sum of a linear embedding and of a weight for each bin, which starts at 0; the encoding is
    [1 .. 1, fraction within the bin of x, 0 .. 0]. Outside of the outer edges the first and the
    last fraction go on below 0 and above 1. `bins` has the edges of each feature (`quantile_bins`).
    As in the authors' layout, the last bin of each feature is in the last place of `linear.weight`
    (n, bins, d_embedding), and features with fewer bins have zeros before it.
    """

    def __init__(
        self, bins: Sequence[np.ndarray], d_embedding: int = 16, *, key: mx.array | None = None
    ):
        super().__init__()
        key = mx.random.key(0) if key is None else key
        self.n_features, self.d_embedding = len(bins), d_embedding
        places = max(len(edges) - 1 for edges in bins)
        self.linear0 = LinearEmbeddings(len(bins), d_embedding, key)
        self.linear = FeatureLinear(len(bins), places, d_embedding)
        shape = (len(bins), places)
        slope, offset = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        # A place that no edge bounds is not clipped: the first below, the last above.
        low, high = np.zeros(shape, np.float32), np.ones(shape, np.float32)
        low[:, 0], high[:, -1] = -np.inf, np.inf
        for index, edges in enumerate(bins):
            width = np.diff(edges)
            order = [*range(len(width) - 1), places - 1]
            slope[index, order], offset[index, order] = 1 / width, -edges[:-1] / width
            low[index, -1] = -np.inf if len(width) == 1 else 0
        # Not parameters: names that begin with an underscore. Each (n, 1, places).
        self._slope, self._offset, self._low, self._high = (
            mx.array(each)[:, None] for each in (slope, offset, low, high)
        )

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer."""
        encoding = x.T[..., None] * self._slope + self._offset  # (n, B, places)
        encoding = mx.minimum(mx.maximum(encoding, self._low), self._high)
        return (self.linear0(x) + self.linear(encoding)).swapaxes(0, 1)
