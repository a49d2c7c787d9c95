"""TabM: one MLP that acts as k members (Gorishniy et al., ICLR 2025).

Parameters have the names and shapes of the authors' package `tabm`, so that its `state_dict()`
without the buffers `num_module.impl.*` is what `TabM.load_weights` takes. Inside, arrays are
(k, B, d): products of a member are contiguous.
"""

from collections.abc import Sequence
from typing import Literal, get_args

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_tabular.embeddings import PiecewiseLinearEmbeddings, uniform

ArchType = Literal["tabm", "tabm-mini", "tabm-packed"]


class Linear(nn.Module):
    """A linear layer of all members; unlike `nn.Linear`'s, its weights come from a key."""

    def __init__(self, d_in: int, d_out: int, *, key: mx.array):
        super().__init__()
        keys = mx.random.split(key)
        self.weight = uniform(keys[0], (d_out, d_in), d_in)
        self.bias = uniform(keys[1], (d_out,), d_in)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer."""
        return x @ self.weight.T + self.bias


class LinearBatchEnsemble(nn.Module):
    """k linear layers with a shared weight: `s * (W (r * x)) + bias`; r, s, bias per member.

    Takes (k, B, d_in), or (1, B, d_in) for all members; returns (k, B, d_out).
    """

    def __init__(self, d_in: int, d_out: int, *, k: int, r: mx.array | None, key: mx.array):
        super().__init__()
        keys = mx.random.split(key)
        self.weight = uniform(keys[0], (d_out, d_in), d_in)
        self.r = mx.ones((k, d_in)) if r is None else r
        self.s = mx.ones((k, d_out))
        self.bias = mx.tile(uniform(keys[1], (1, d_out), d_in), (k, 1))  # all start at the same

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer."""
        y = (x * self.r[:, None]) @ self.weight.T
        return y * self.s[:, None] + self.bias[:, None]


class LinearEnsemble(nn.Module):
    """k separate linear layers: (k, B, d_in), or (1, B, d_in) for all, to (k, B, d_out)."""

    def __init__(self, d_in: int, d_out: int, *, k: int, key: mx.array):
        super().__init__()
        keys = mx.random.split(key)
        self.weight = uniform(keys[0], (k, d_in, d_out), d_in)
        self.bias = uniform(keys[1], (k, d_out), d_in)

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer."""
        return x @ self.weight + self.bias[:, None]


class Scaling(nn.Module):
    """One factor per member and input: (1, B, d) to (k, B, d)."""

    def __init__(self, weight: mx.array):
        super().__init__()
        self.weight = weight

    def __call__(self, x: mx.array) -> mx.array:
        """Apply the layer."""
        return x * self.weight[:, None]


class Backbone(nn.Module):
    """The hidden layers: (B, d_in) to (k, B, d_block).

    `start` (k, d_in) is the first scaling; `None` for the architectures without.
    """

    def __init__(
        self, d_in: int, d_block: int, n_blocks: int, k: int, arch_type: ArchType,
        start: mx.array | None, key: mx.array,
    ):  # fmt: skip
        super().__init__()
        if k > 1 and arch_type == "tabm-mini":
            assert start is not None
            self.affine = Scaling(start)
        self.blocks = []
        keys = mx.random.split(key, n_blocks)
        for index in range(n_blocks):
            width = d_block if index else d_in
            if k > 1 and arch_type == "tabm":
                r = None if index else start
                layer = LinearBatchEnsemble(width, d_block, k=k, r=r, key=keys[index])
            elif k > 1 and arch_type == "tabm-packed":
                layer = LinearEnsemble(width, d_block, k=k, key=keys[index])
            else:
                layer = Linear(width, d_block, key=keys[index])
            self.blocks.append([layer])  # a list, as the authors' blocks.0.0 has the layer

    def __call__(self, x: mx.array, masks: Sequence[mx.array] | None) -> mx.array:
        """Apply the blocks; `masks` has dropout factors for each, or is `None`."""
        x = x[None]  # (1, B, d_in), which the first layer or scaling makes (k, B, ..)
        if "affine" in self:
            x = self["affine"](x)
        for index, (layer,) in enumerate(self.blocks):
            x = layer(x)
            mask = mx.array(1.0) if masks is None else masks[index]
            x = relu_dropout(x, mask)  # pyright: ignore[reportAssignmentType]
        return x


class TabM(nn.Module):
    """k MLPs in one: (B, n_num), (B, n_cat), (B, n_dense) to (B, k, d_out).

    `x_cat` has codes in [0, cardinality) of each column, one-hot inside; a code of -1 is all
    zeros. `dense` columns go in as they are. With `k=1` it is the plain MLP. The prediction is the
    mean over k (of probabilities for classes); the loss is the mean of the members' losses.

    `d_block` of 512, 2 blocks with embeddings and 3 without, and dropout 0.1 are the authors'. The
    first scaling is drawn once per feature, from a normal with embeddings of numbers, and as random
    signs without.
    """

    def __init__(
        self,
        *,
        d_out: int,
        n_num_features: int = 0,
        cat_cardinalities: Sequence[int] = (),
        n_dense_features: int = 0,
        num_embeddings: PiecewiseLinearEmbeddings | None = None,
        k: int = 32,
        arch_type: ArchType = "tabm",
        n_blocks: int | None = None,
        d_block: int = 512,
        dropout: float = 0.1,
        key: mx.array | None = None,
    ):
        super().__init__()
        check_architecture(k, arch_type, d_block, n_blocks, dropout)
        if num_embeddings is not None and num_embeddings.n_features != n_num_features:
            raise ValueError(
                f"num_embeddings embeds {num_embeddings.n_features} features, but n_num_features "
                f"is {n_num_features}"
            )
        keys = mx.random.split(mx.random.key(0) if key is None else key, 3)
        width = num_embeddings.d_embedding if num_embeddings is not None else 1
        chunks = [width] * n_num_features + [*cat_cardinalities] + [1] * n_dense_features
        if not chunks:
            raise ValueError("TabM needs at least one feature: a number, a category or a dense one")
        self.k, self.dropout = k, dropout
        if num_embeddings is not None:
            self.num_module = num_embeddings
        self._column = mx.array(np.repeat(np.arange(len(cat_cardinalities)), cat_cardinalities))
        self._code = mx.array(
            np.concatenate([np.arange(each) for each in cat_cardinalities] or [[]]).astype(np.int32)
        )
        start = None
        if k > 1 and arch_type != "tabm-packed":
            start = first_scaling(chunks, k, normal=num_embeddings is not None, key=keys[0])
        depth = n_blocks or (2 if num_embeddings is not None else 3)
        self.backbone = Backbone(sum(chunks), d_block, depth, k, arch_type, start, keys[1])
        self.output = LinearEnsemble(d_block, d_out, k=k, key=keys[2])

    def __call__(
        self,
        x_num: mx.array | None = None,
        x_cat: mx.array | None = None,
        dense: mx.array | None = None,
        masks: Sequence[mx.array] | None = None,
    ) -> mx.array:
        """Return the members' outputs.

        `masks` replaces the dropout of `train()` mode: for each block factors (k, B, d_block), 0 or
        1 / (1 - dropout).
        """
        parts = []
        if x_num is not None:
            embedded = self.num_module(x_num) if "num_module" in self else x_num
            parts.append(embedded.reshape(len(x_num), -1))
        if x_cat is not None:
            parts.append((x_cat[:, self._column] == self._code).astype(mx.float32))
        if dense is not None:
            parts.append(dense)
        x = mx.concatenate(parts, 1) if len(parts) > 1 else parts[0]
        if masks is None and self.training and self.dropout:
            masks = self._draw_masks(len(x))
        return self.output(self.backbone(x, masks)).swapaxes(0, 1)

    def _draw_masks(self, rows: int) -> list[mx.array]:
        shape = (self.k, rows, self.output.weight.shape[1])
        keep = 1 - self.dropout
        return [mx.random.bernoulli(keep, shape) / keep for _ in self.backbone.blocks]


@mx.custom_function
def relu_dropout(x: mx.array, mask: mx.array) -> mx.array:
    """Return max(x, 0) * mask. Its own gradient, without booleans, is three times as fast here."""
    return mx.maximum(x, 0) * mask


@relu_dropout.vjp  # pyright: ignore[reportFunctionMemberAccess]
def _relu_dropout_gradient(
    primals: tuple[mx.array, mx.array], cotangent: mx.array, output: mx.array
) -> tuple[mx.array, mx.array]:
    mask = primals[1]
    # Nothing learns a mask.
    return cotangent * mask * mx.sign(output), mx.zeros_like(mask)


def first_scaling(chunks: Sequence[int], k: int, *, normal: bool, key: mx.array) -> mx.array:
    """Draw (k, sum of chunks): one value per member and feature, repeated over its chunk."""
    shape = (k, len(chunks))
    drawn = mx.random.normal(shape, key=key)
    if not normal:
        drawn = mx.where(drawn < 0, -1.0, 1.0)
    return drawn[:, mx.array(np.repeat(np.arange(len(chunks)), chunks))]


def check_architecture(
    k: int, arch_type: str, d_block: int, n_blocks: int | None, dropout: float
) -> None:
    """Raise `ValueError` for sizes that no network has."""
    if arch_type not in get_args(ArchType):
        raise ValueError(
            f"arch_type must be one of {', '.join(get_args(ArchType))}; got {arch_type!r}"
        )
    for name, value in (("k", k), ("d_block", d_block), ("n_blocks", n_blocks)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must be at least 0 and below 1; got {dropout}")
