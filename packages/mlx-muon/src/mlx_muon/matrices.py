"""Divide a parameter into matrices: convolutions, experts, heads, fused projections."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_muon.rules import MuonRule


@dataclass(frozen=True)
class Matrices:
    """A parameter as `batch` matrices of `columns` columns, each divided into `parts` of rows."""

    batch: int
    parts: tuple[int, ...]
    columns: int
    transposed: bool = False

    @property
    def shapes(self) -> list[tuple[int, int, int]]:
        """The (matrices, rows, columns) of each stack; parts of equal height are one stack."""
        if len(set(self.parts)) == 1:
            return [(self.batch * len(self.parts), self.parts[0], self.columns)]
        return [(self.batch, rows, self.columns) for rows in self.parts]

    def split(self, x: mx.array) -> list[mx.array]:
        """Return `x`, which has the parameter's shape, as stacks of matrices."""
        rows = sum(self.parts)
        if self.transposed:
            x = x.reshape(self.batch, self.columns, rows).swapaxes(-1, -2)
        if len(self.shapes) == 1:
            return [x.reshape(self.shapes[0])]
        return split_sizes(x.reshape(self.batch, rows, self.columns), self.parts, axis=1)

    def join(self, stacks: list[mx.array], shape: tuple[int, ...]) -> mx.array:
        """Invert `split`, for a parameter of `shape`."""
        x = mx.concatenate(stacks, axis=1) if len(stacks) > 1 else stacks[0]
        if self.transposed:
            x = x.reshape(self.batch, sum(self.parts), self.columns).swapaxes(-1, -2)
        return x.reshape(shape)


def matrices_of(
    path: str, shape: tuple[int, ...], rule: MuonRule, is_convolution: bool = False
) -> Matrices:
    """Return how `rule` divides the parameter at `path` into matrices.

    Raises `ValueError` for fewer than two axes, and if `split` or `heads` do not fit the rows.
    """
    if len(shape) < 2 or 0 in shape:
        raise ValueError(
            f"{path}: shape {shape} is not a matrix, which Muon needs; give it an AdamWRule, or "
            "let the group match only arrays with ndim >= 2"
        )
    is_convolution = is_convolution or len(shape) > 3 or _names_convolution(path)
    kind = rule.kind or ("convolution" if is_convolution else "experts")
    if len(shape) == 2 or kind == "convolution":
        batch, rows, columns = 1, shape[0], math.prod(shape[1:])
    else:
        batch, rows, columns = math.prod(shape[:-2]), *shape[-2:]
    transposed = _is_lora_matrix(path, shape) if rule.transposed is None else rule.transposed
    if transposed:
        rows, columns = columns, rows
    parts = rule.split or (rows,)
    if rule.heads is not None:
        parts = (rows // rule.heads,) * rule.heads
    if sum(parts) != rows or min(parts) < 1:
        option = f"split {rule.split}" if rule.split else f"{rule.heads} heads"
        raise ValueError(f"{path}: {option} do not divide its {rows} rows (shape {shape})")
    return Matrices(batch, tuple(parts), columns, transposed)


def split_sizes(x: mx.array, sizes: Sequence[int], axis: int = 0) -> list[mx.array]:
    """Return pieces of `x` with these sizes along `axis`."""
    ends = [sum(sizes[:end]) for end in range(1, len(sizes))]
    return mx.split(x, ends, axis) if ends else [x]  # type: ignore[return-value]


def _names_convolution(path: str) -> bool:
    words = re.split(r"[._]", path.lower())
    return any(re.fullmatch(r"(de)?conv(olution)?s?(\d+d?)?", word) for word in words)


def _is_lora_matrix(path: str, shape: tuple[int, ...]) -> bool:
    """Recognize mlx-lm's lora_a (inputs, rank) and lora_b (rank, outputs).

    Those of experts have three axes and are stored transposed.
    """
    return len(shape) == 2 and re.fullmatch(r"(.*\.)?lora_[ab]", path) is not None
