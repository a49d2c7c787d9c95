"""The update rules of parameters: `MuonRule` for matrices, `AdamWRule` for the rest."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal, get_args

import mlx.core as mx

from mlx_muon.orthogonalize import NORMS, Coefficients, Method, Norm, coefficients_of

# A number, or a function of the step (an array, 0 at the first update) that returns one.
Value = float | Callable[[mx.array], mx.array]
Number = float | mx.array  # a `Value` at one step
Scale = Literal["keller", "moonlight", "mup", "rms", "none"]
Variance = Literal["none", "rows", "short", "entries"]
Kind = Literal["convolution", "experts"]


@dataclass(frozen=True)
class MuonRule:
    """Orthogonalized momentum (Jordan et al. 2024), with the variants of later papers.

    `learning_rate` and `weight_decay` default to the optimizer's. `relative_rate` multiplies the
    optimizer's rate; a rule with a `learning_rate` ignores the optimizer's. The rate is multiplied
    by `scale`, for a matrix of r rows (outputs) and c columns:

    - "keller": sqrt(max(1, r / c)), for rates near 0.02.
    - "moonlight": 0.2 sqrt(max(r, c)). Updates are then as large as AdamW's, so its learning rates
      apply (Liu et al. 2025, arXiv 2502.16982, equation 4).
    - "mup": sqrt(r / c). "none": 1.
    - "rms": 0.2 sqrt(r c) / ||O||, which makes the root mean square of every update 0.2.

    Weight decay is decoupled: `rate * weight_decay * W`, with the rate before `scale`, or after it
    with `scale_decay`. `cautious` decays only entries whose update has the sign of the weight.

    `sign` orthogonalizes the signs of the momentum (AdaMuon). `equalize_rows` first scales all rows
    to the same norm (MuonEq, arXiv 2603.28254). `renormalize` sets ||O|| to sqrt(min(r, c)), the
    norm of an exactly orthogonal matrix (Muon+, arXiv 2602.21545). `variance` divides O by the root
    of a running mean, with decay `beta2`, of its squares, and then restores the norm of O:

    - "rows": one mean per row (NorMuon, Li et al. 2025, arXiv 2510.05491).
    - "short": one per row if r >= c, else one per column (nanochat's NorMuon).
    - "entries": one per entry (AdaMuon, arXiv 2507.11005); doubles the state.

    `method`, `steps`, `norm` and `dtype` are passed to `orthogonalize`.

    `split` is the row counts of the parts of a fused projection, such as (q, k, v). `heads` is a
    number of equal parts, for a query, key or value projection. Each part is a separate matrix.
    `transposed` declares a weight stored as (inputs, outputs), as MLX stores LoRA matrices; by
    default those are recognized by name.
    `kind` "convolution" flattens more than two axes to one matrix (outputs, all other axes);
    "experts" treats each pair of last axes as a matrix. By default arrays of three axes are experts
    unless the path names a convolution, and arrays of more axes are convolutions.
    """

    learning_rate: Value | None = None
    _: KW_ONLY
    relative_rate: float = 1.0
    weight_decay: Value | None = None
    momentum: Value = 0.95
    nesterov: bool = True
    scale: Scale = "moonlight"
    scale_decay: bool = False
    cautious: bool = False
    method: Method | Coefficients = "polar_express"
    steps: int | None = None
    norm: Norm = "frobenius"
    dtype: mx.Dtype = mx.float32
    sign: bool = False
    equalize_rows: bool = False
    renormalize: bool = False
    variance: Variance = "none"
    beta2: Value = 0.95
    split: tuple[int, ...] | None = None
    heads: int | None = None
    transposed: bool | None = None
    kind: Kind | None = None

    def __post_init__(self):
        """Check each field; raises `ValueError` that names it."""
        _check_rates(self)
        for name in ("momentum", "beta2"):
            if not _is_fraction(got := getattr(self, name)):
                raise ValueError(f"MuonRule: {name} must be in [0, 1), got {got}")
        choices = {"scale": get_args(Scale), "variance": get_args(Variance), "norm": NORMS}
        for name, known in (choices | {"kind": (None, *get_args(Kind))}).items():
            if (got := getattr(self, name)) not in known:
                listed = ", ".join(map(repr, known))
                raise ValueError(f"MuonRule: {name} must be one of {listed}; got {got!r}")
        if self.method != "svd":
            table = tuple(coefficients_of(self.method, self.steps))
            if not isinstance(self.method, str):  # as a tuple, rules can be compared and hashed
                object.__setattr__(self, "method", table)
        if self.split is not None and self.heads is not None:
            raise ValueError("MuonRule: give split or heads, not both")
        if self.split is not None:
            object.__setattr__(self, "split", tuple(self.split))
        if self.heads is not None and self.heads < 1:
            raise ValueError(f"MuonRule: heads must be at least 1, got {self.heads}")


@dataclass(frozen=True)
class AdamWRule:
    """AdamW with bias correction and decoupled decay, in float32 for any dtype of the parameter.

    Loshchilov and Hutter 2019, algorithm 2, as in PyTorch. `learning_rate` and `weight_decay`
    default to the optimizer's. `relative_rate` multiplies the optimizer's rate; a rule with a
    `learning_rate` ignores the optimizer's. Parameters with fewer than two axes (biases, gains of
    norms) decay only with `decay_vectors`.

    Finite gradients beyond 2^63, whose squares overflow float32, are clipped to 2^63. At
    `betas[1]` = 0.95 the second moment then needs 1,700 updates to decay back to 1. Infinities and
    NaN are not clipped.
    """

    learning_rate: Value | None = None
    _: KW_ONLY
    relative_rate: float = 1.0
    weight_decay: Value | None = None
    betas: tuple[Value, Value] = (0.9, 0.95)
    eps: float = 1e-8
    decay_vectors: bool = False

    def __post_init__(self):
        """Check each field; raises `ValueError` that names it."""
        _check_rates(self)
        if len(self.betas) != 2 or not all(map(_is_fraction, self.betas)):
            raise ValueError(f"AdamWRule: betas must be two of [0, 1), got {self.betas}")
        if not self.eps >= 0:
            raise ValueError(f"AdamWRule: eps must not be negative, got {self.eps}")


Rule = MuonRule | AdamWRule


def value_at(value: Value, step: mx.array) -> Number:
    """Return a number unchanged, or the float32 result of a schedule at `step`."""
    return mx.array(value(step)).astype(mx.float32) if callable(value) else value


def _check_rates(rule: Rule) -> None:
    kind = type(rule).__name__
    for name in ("learning_rate", "relative_rate", "weight_decay"):
        value = getattr(rule, name)
        if isinstance(value, float | int) and not value >= 0:
            raise ValueError(f"{kind}: {name} must not be negative, got {value}")
    if rule.learning_rate is not None and rule.relative_rate != 1:
        raise ValueError(
            f"{kind}: give learning_rate, or relative_rate, which multiplies the optimizer's, "
            "not both"
        )


def _is_fraction(value: Value) -> bool:
    return callable(value) or 0 <= value < 1
