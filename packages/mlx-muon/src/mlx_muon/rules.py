"""What is done with a parameter: `MuonRule` for matrices, `AdamWRule` for everything else."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import mlx.core as mx

from mlx_muon.orthogonalize import NORMS, Coefficients, Method, Norm, coefficients_of

# A number, or a function of the step (an array, 0 at the first update) that returns one.
Value = float | Callable[[mx.array], mx.array]
Scale = Literal["keller", "moonlight", "mup", "rms", "none"]
Variance = Literal["none", "rows", "short", "entries"]

SCALES = ("keller", "moonlight", "mup", "rms", "none")
VARIANCES = ("none", "rows", "short", "entries")


@dataclass(frozen=True)
class MuonRule:
    """Momentum, orthogonalized (Jordan et al. 2024), and what later papers add to it.

    `weight_decay` is the optimizer's where `None`. So is `learning_rate`, times `relative_rate`; a
    number is this rule's own and follows nobody. The rate is multiplied by `scale`, for a matrix of
    r rows (outputs) and c columns:

    - "keller": sqrt(max(1, r / c)), for rates about 0.02.
    - "moonlight": 0.2 sqrt(max(r, c)): updates as large as AdamW's, whose rates it then shares
      (Liu et al. 2025, arXiv 2502.16982, equation 4).
    - "mup": sqrt(r / c). "none": 1.
    - "rms": 0.2 sqrt(r c) / ||O||, which makes the root mean square of every update 0.2.

    Decay is decoupled: `rate * weight_decay * W`, with the rate before `scale`, or after with
    `scale_decay`; `cautious` leaves it out where it would act against the update.

    `nesterov` looks ahead by one step of the momentum. `sign` orthogonalizes its signs (AdaMuon).
    `equalize_rows` first gives all rows the same norm (MuonEq, arXiv 2603.28254). `renormalize`
    sets ||O|| to sqrt(min(r, c)), that of an exactly orthogonal matrix (Muon+, arXiv 2602.21545).
    `variance` divides by the root of the running mean, with `beta2`, of squares of O:

    - "rows": one for each row (NorMuon, Li et al. 2025, arXiv 2510.05491).
    - "short": for each row if r >= c, else for each column (nanochat's NorMuon).
    - "entries": for each entry (AdaMuon, arXiv 2507.11005); doubles the state.

    and brings back the norm O had. `method`, `steps`, `norm` and `dtype` are `orthogonalize`'s.

    `split` cuts the rows, (q, k, v) for a fused projection, and `heads` cuts them into so many
    equal parts, as for query, key or value: each part is a matrix of its own. `transposed` says
    that the weight is stored (inputs, outputs), as MLX's LoRA matrices are; those are recognized by
    name if it is `None`.
    `kind` "convolution" makes one matrix (outputs, all other axes) of more than two axes, "experts"
    one of each pair of last axes; by default arrays of three axes are experts unless their path
    names a convolution, and those of more are convolutions.
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
    kind: Literal["convolution", "experts"] | None = None

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        _check_rate(self)
        _check_values(self, "weight_decay")
        _check_fraction(self, "momentum", "beta2")
        _check_choice(self, scale=SCALES, variance=VARIANCES, norm=NORMS)
        _check_choice(self, kind=(None, "convolution", "experts"))
        if self.method != "svd":
            found = tuple(coefficients_of(self.method, self.steps))
            if not isinstance(self.method, str):  # as a tuple, rules can be compared and hashed
                object.__setattr__(self, "method", found)
        if self.split is not None and self.heads is not None:
            raise ValueError("MuonRule: give split or heads, not both")
        if self.split is not None:
            object.__setattr__(self, "split", tuple(self.split))
        if self.heads is not None and self.heads < 1:
            raise ValueError(f"MuonRule: heads must be at least 1, got {self.heads}")


@dataclass(frozen=True)
class AdamWRule:
    """AdamW with bias correction and decoupled decay, in float32 whatever the parameter's dtype.

    Loshchilov and Hutter 2019, algorithm 2, as PyTorch computes it. `weight_decay` is the
    optimizer's where `None`. So is `learning_rate`, times `relative_rate`; a number is this rule's
    own and follows nobody. Parameters of fewer than two axes (biases, gains of norms) decay only
    with `decay_vectors`.

    Finite gradients beyond 2^63, whose squares float32 does not hold, count as 2^63. The second
    moment forgets one by `betas[1]` an update, as any other: from there to 1 in 1,700 updates at
    0.95. Infinities and NaN reach the weights.
    """

    learning_rate: Value | None = None
    _: KW_ONLY
    relative_rate: float = 1.0
    weight_decay: Value | None = None
    betas: tuple[Value, Value] = (0.9, 0.95)
    eps: float = 1e-8
    decay_vectors: bool = False

    def __post_init__(self):
        """Refuse what cannot work, naming the field."""
        _check_rate(self)
        _check_values(self, "weight_decay")
        if len(self.betas) != 2 or any(_is_no_fraction(beta) for beta in self.betas):
            raise ValueError(f"AdamWRule: betas must be two of [0, 1), got {self.betas}")
        if not self.eps >= 0:
            raise ValueError(f"AdamWRule: eps must not be negative, got {self.eps}")


Rule = MuonRule | AdamWRule


def value_at(value: Value, step: mx.array) -> float | mx.array:
    """Return the value at `step`: itself, or what the schedule says, in float32."""
    return mx.array(value(step)).astype(mx.float32) if callable(value) else value


def scale_of(scale: Scale, rows: int, columns: int) -> float:
    """Return the factor on the learning rate; 1 for "rms", which depends on the update."""
    if scale == "keller":
        return max(1.0, rows / columns) ** 0.5
    if scale == "moonlight":
        return 0.2 * max(rows, columns) ** 0.5
    if scale == "mup":
        return (rows / columns) ** 0.5
    return 1.0


def _check_rate(rule: Rule) -> None:
    _check_values(rule, "learning_rate", "relative_rate")
    if rule.learning_rate is not None and rule.relative_rate != 1:
        raise ValueError(
            f"{type(rule).__name__}: give learning_rate, or relative_rate, which multiplies the "
            "optimizer's, not both"
        )


def _check_values(rule: Rule, *names: str) -> None:
    for name in names:
        value = getattr(rule, name)
        if isinstance(value, float | int) and not value >= 0:
            raise ValueError(f"{type(rule).__name__}: {name} must not be negative, got {value}")


def _is_no_fraction(value: Value) -> bool:
    return not callable(value) and not 0 <= value < 1


def _check_fraction(rule: Rule, *names: str) -> None:
    for name in names:
        if _is_no_fraction(getattr(rule, name)):
            got = getattr(rule, name)
            raise ValueError(f"{type(rule).__name__}: {name} must be in [0, 1), got {got}")


def _check_choice(rule: Rule, **choices: tuple) -> None:
    for name, known in choices.items():
        if (got := getattr(rule, name)) not in known:
            listed = ", ".join(repr(each) for each in known)
            raise ValueError(f"{type(rule).__name__}: {name} must be one of {listed}; got {got!r}")
