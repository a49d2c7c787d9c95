"""What an adapter is: the fields and meaning of PEFT's `LoraConfig` and `IA3Config`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_lora._suggest import did_you_mean

INITIALIZATIONS = ("gaussian", "pissa", "olora", "loftq", "eva")
LOFTQ = {"loftq_bits": 4, "loftq_iter": 1, "group_size": 64, "mode": "affine"}
# Names of heads that PEFT trains whole for a task, where the model has them.
TASK_HEADS = {
    "SEQ_CLS": ("classifier", "score"),
    "TOKEN_CLS": ("classifier", "score"),
    "QUESTION_ANS": ("qa_outputs",),
}


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021): y = W x + b + scale * B A x, with A (r, in), B (out, r).

    Raises `ValueError` for values out of range, as soon as it is made.
    """

    r: int = 8
    """Rank."""
    lora_alpha: float = 8
    """The scale is `lora_alpha / r`, or `lora_alpha / sqrt(r)` with `use_rslora`."""
    target_modules: str | Sequence[str] | None = None
    """Suffixes of module paths ("query"), "all-linear", or a regular expression of whole paths."""
    exclude_modules: str | Sequence[str] | None = None
    """Suffixes, or a regular expression of whole paths, of modules that get no adapter."""
    layers_to_transform: int | Sequence[int] | None = None
    """Indices of the layers with adapters; None is all."""
    layers_pattern: str | Sequence[str] | None = None
    """Name of the list that these indices are of, such as "layers"; None is any list."""
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    """Other ranks by regular expression, which must match the end of a path."""
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    """Other `lora_alpha` by regular expression."""
    modules_to_save: Sequence[str] | None = None
    """Suffixes of modules that are trained whole and saved with the adapter, such as a head."""
    lora_dropout: float = 0.0
    """Probability of dropping an input of A in training."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Which biases of the model are trained and saved."""
    lora_bias: bool = False
    """Whether B has a bias."""
    use_rslora: bool = False
    """Rank-stabilized scale (Kalajdzievski 2023)."""
    use_dora: bool = False
    """Magnitude and direction are trained apart (Liu et al. 2024)."""
    init_lora_weights: bool | str = True
    """True: A uniform in +-1/sqrt(in), B zero. False: B as random as A. "gaussian": A normal with
    deviation 1/r. "pissa", "pissa_niter_4" and "olora": A and B from the weights, see `initialize`.
    "loftq": the layers become quantized, A and B a correction. "eva": by `add_eva_adapter`.
    Of "pissa", "olora" and "loftq", embeddings and convolutions begin as with True."""
    loftq_config: Mapping[str, Any] = field(default_factory=dict)
    """Of "loftq": "loftq_bits" (4), "loftq_iter" (1), and MLX's "group_size" (64), "mode"."""
    task_type: str | None = None
    """"SEQ_CLS", "TOKEN_CLS" and "QUESTION_ANS" add the head to `modules_to_save`."""
    base_model_name_or_path: str | None = None
    """Written to the file; not used."""
    fan_in_fan_out: bool = False
    """Whether PEFT's layers have weights (in, out), as GPT-2's. Written to the file; not used:
    A and B have the same shapes."""

    def __post_init__(self) -> None:
        if self.r < 1:
            raise ValueError(f"r must be at least 1, got {self.r}")
        for pattern, rank in self.rank_pattern.items():
            if rank < 1:
                raise ValueError(f"rank_pattern[{pattern!r}] must be at least 1, got {rank}")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout must be in [0, 1), got {self.lora_dropout}")
        if self.bias not in ("none", "all", "lora_only"):
            raise ValueError(f"bias must be 'none', 'all' or 'lora_only', got {self.bias!r}")
        for name in self.loftq_config:
            if name not in LOFTQ:
                raise ValueError(f"loftq_config has no {name!r}{did_you_mean(name, LOFTQ)}")
        initialization(self)
        _check_modules(self)

    def rank_of(self, path: str) -> int:
        """Return the rank of the adapter of a module."""
        return int(_by_pattern(self.rank_pattern, path, self.r))

    def scale_of(self, path: str) -> float:
        """Return the scale of the adapter of a module."""
        alpha, rank = _by_pattern(self.alpha_pattern, path, self.lora_alpha), self.rank_of(path)
        return alpha / (rank**0.5 if self.use_rslora else rank)

    @property
    def kind(self) -> str:
        """The name of the method, such as "LoRA"."""
        return ("rs" if self.use_rslora else "") + ("DoRA" if self.use_dora else "LoRA")


@dataclass(frozen=True, kw_only=True)
class Ia3Config:
    """IA3 (Liu et al. 2022): one factor per output, or per input of feedforward modules."""

    target_modules: str | Sequence[str] | None = None
    """As in `LoraConfig`."""
    feedforward_modules: str | Sequence[str] | None = None
    """Those of the targets whose inputs are scaled, and not their outputs."""
    exclude_modules: str | Sequence[str] | None = None
    modules_to_save: Sequence[str] | None = None
    init_ia3_weights: bool = True
    """Whether the factors begin at 1; otherwise they are normal."""
    task_type: str | None = None
    base_model_name_or_path: str | None = None

    def __post_init__(self) -> None:
        _check_modules(self)

    @property
    def kind(self) -> str:
        """The name of the method."""
        return "IA3"


AdapterConfig = LoraConfig | Ia3Config


def initialization(config: LoraConfig) -> tuple[str, int | None]:
    """Return the method ("kaiming", "random", "gaussian", ...) and PiSSA's iterations."""
    value = config.init_lora_weights
    if isinstance(value, bool):
        return ("kaiming" if value else "random"), None
    if found := re.fullmatch(r"pissa_niter_(\d+)", value):
        return "pissa", int(found[1])
    if value not in INITIALIZATIONS:
        valid = ", ".join(map(repr, INITIALIZATIONS))
        raise ValueError(
            f"init_lora_weights must be True, False, 'pissa_niter_N' or one of {valid}, "
            f"got {value!r}"
        )
    return value, None


def _check_modules(config: AdapterConfig) -> None:
    """Refuse a string where only a list makes sense, and expressions that do not compile."""
    if isinstance(config.modules_to_save, str):
        raise TypeError(
            f"modules_to_save must be a list of names, got the string {config.modules_to_save!r}"
        )
    patterns = [each for each in (config.target_modules, config.exclude_modules)
                if isinstance(each, str)]  # fmt: skip
    if isinstance(config, LoraConfig):
        patterns += [*config.rank_pattern, *config.alpha_pattern]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error


def _by_pattern(patterns: Mapping[str, float], path: str, default: float) -> float:
    """Return the value of the first pattern that matches the end of `path`, as PEFT does."""
    for pattern, value in patterns.items():
        if matches_end(pattern, path):
            return value
    return default


def matches_end(pattern: str, path: str) -> bool:
    """Whether an expression matches a path or what follows one of its dots."""
    return re.match(rf"(.*\.)?({pattern})$", path) is not None
