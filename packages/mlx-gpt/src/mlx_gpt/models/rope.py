"""Rotary position embeddings of Hugging Face's Llama family, with the scalings of long contexts.

Pairs are (i, i + head_dim / 2), "rotate half". Supported are the types default, linear (positions
divided by a factor), llama3 and yarn (https://arxiv.org/abs/2309.00071); formulas are those of
transformers' `modeling_rope_utils`.
"""

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import mlx.core as mx
import numpy as np

_FEW_TOKENS = 256  # of a row, up to which `rotate` computes angles once for all layers
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


@dataclass(frozen=True)
class RopeConfig:
    """The base and the scaling; fields are those of transformers' `rope_parameters`."""

    rope_theta: float = 10_000.0
    rope_type: str = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0  # tokens before the context was extended
    low_freq_factor: float = 1.0  # of llama3, as the next one
    high_freq_factor: float = 4.0
    attention_factor: float = 1.0  # of yarn, as the rest: scales cosines and sines
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True


_FIELDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": ("factor", "attention_factor", "beta_fast", "beta_slow", "truncate",
             "original_max_position_embeddings"),
}  # fmt: skip
_REQUIRED = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
_INFERRED = ("mscale", "mscale_all_dim")  # keys of yarn that give the attention factor


def read_rope(values: Mapping[str, object], default_theta: float) -> RopeConfig:
    """Return the RoPE of a `config.json` in either dialect.

    transformers 5 writes `rope_parameters`; older versions `rope_theta` and `rope_scaling`, whose
    type is `rope_type` or `type`. Raises `ValueError` for a type that is not supported, for missing
    and unknown keys.
    """
    given = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        raise ValueError(f"rope_parameters must be an object, got {given!r}")
    parameters = {key: value for key, value in given.items() if value is not None}
    named = [parameters.pop(key, None) for key in ("rope_type", "type")]
    rope_type = next((each for each in named if each), "default")
    theta = parameters.pop("rope_theta", values.get("rope_theta"))
    partial = parameters.pop("partial_rotary_factor", values.get("partial_rotary_factor"))
    if rope_type not in ROPE_TYPES:
        raise ValueError(
            f"rope_type {rope_type!r} is not supported, only {', '.join(ROPE_TYPES)}; "
            "mlx_lm may load the model"
        )
    if partial not in (None, 1):
        raise ValueError(f"partial_rotary_factor {partial} is not supported; mlx_lm may be")
    assert isinstance(rope_type, str)
    missing = [key for key in _REQUIRED.get(rope_type, ()) if key not in parameters]
    unknown = sorted(parameters.keys() - set(_FIELDS[rope_type]) - set(_INFERRED))
    # A factor of 1 and an original length beside "default" change nothing.
    if rope_type == "default":
        unknown = [key for key in unknown if key != "original_max_position_embeddings"]
    if missing or unknown:
        problem = f"needs {', '.join(missing)}" if missing else f"has no {', '.join(unknown)}"
        raise ValueError(f"RoPE of type {rope_type} {problem}")
    numbers = {key: _number(key, value) for key, value in parameters.items()}
    if rope_type in ("llama3", "yarn"):
        # transformers prefers the key outside of the parameters, and falls back to the context.
        for length in (
            values.get("original_max_position_embeddings"),
            numbers.get("original_max_position_embeddings"),
            values.get("max_position_embeddings"),
        ):
            if length:
                numbers["original_max_position_embeddings"] = int(_number("length", length))
                break
    if rope_type == "yarn":
        numbers.setdefault("attention_factor", _attention_factor(numbers))
    kept = {key: numbers[key] for key in _FIELDS[rope_type] if key in numbers}
    if "truncate" in kept:
        kept["truncate"] = bool(kept["truncate"])
    base = _number("rope_theta", default_theta if theta is None else theta)
    return RopeConfig(rope_theta=base, rope_type=rope_type, **kept)  # type: ignore[arg-type]


def rope_values(rope: RopeConfig) -> dict[str, object]:
    """Return the keys of `config.json` in the older dialect, which all programs read."""
    values: dict[str, object] = {"rope_theta": rope.rope_theta}
    if rope.rope_type != "default":
        fields = {key: getattr(rope, key) for key in _FIELDS[rope.rope_type]}
        values["rope_scaling"] = {"rope_type": rope.rope_type, **fields}
    return values


def make_rotary(rope: RopeConfig, head_dim: int) -> Callable[[mx.array, int | mx.array], mx.array]:
    """Return a function that rotates (B, ..., T, head_dim), whose first token is at `offset`.

    The offset may be an array (B,), one of each row.

    The `attention_factor` is left to the caller: its square multiplies the attention scores.
    """
    if rope.rope_type in ("default", "linear"):
        return partial(rotate, base=rope.rope_theta, scale=1 / rope.factor)
    periods = mx.array([1 / each for each in frequencies(rope, head_dim)])
    mx.eval(periods)  # a lazy array would belong to the stream of this thread
    return partial(rotate, freqs=periods)


def rotate(
    x: mx.array,
    offset: int | mx.array,
    *,
    base: float | None = None,
    scale: float = 1.0,
    freqs: mx.array | None = None,
) -> mx.array:
    """Return `mx.fast.rope` of all dimensions of x (B, ..., T, head_dim).

    An `offset` (B,) must be a known array, not one to be computed: on a CPU its angles are computed
    once for all layers of a model, as MLX computes them for each, in 20 operations.
    """
    T, dims = x.shape[-2:]
    on_cpu = isinstance(offset, mx.array) and mx.default_device() == mx.cpu
    if not on_cpu or T > _FEW_TOKENS or x.dtype != mx.float32:
        return mx.fast.rope(
            x, dims, traditional=False, base=base, scale=scale, offset=offset, freqs=freqs
        )
    given = (T, dims, base, scale, id(offset), id(freqs))
    if getattr(_last, "given", None) != given:
        # The arrays are stored too, so that no others get their ids.
        _last.given, _last.arrays = given, (offset, freqs)
        periods = base ** (np.arange(0, dims, 2) / dims) if base else np.array(freqs, np.float64)
        positions = np.array(offset)[:, None] + np.arange(T)
        angles = scale * positions.reshape(-1, *[1] * (x.ndim - 3), T, 1) / periods
        cosines, sines = np.cos(angles), np.sin(angles)
        turns = np.concatenate([cosines, cosines], -1), np.concatenate([-sines, sines], -1)
        _last.turns = tuple(mx.array(each.astype(np.float32)) for each in turns)
    cosines, sines = _last.turns
    halves = mx.concatenate([x[..., dims // 2 :], x[..., : dims // 2]], axis=-1)
    return x * cosines + halves * sines


_last = threading.local()


def frequencies(rope: RopeConfig, head_dim: int) -> list[float]:
    """Return the radians per token of each of the head_dim / 2 pairs."""
    plain = [rope.rope_theta ** (-2 * i / head_dim) for i in range(head_dim // 2)]
    if rope.rope_type == "linear":
        return [each / rope.factor for each in plain]
    if rope.rope_type == "llama3":
        return [_llama3(each, rope) for each in plain]
    if rope.rope_type == "yarn":
        low, high = _yarn_range(rope, head_dim)
        ramps = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(len(plain))]
        return [
            each / rope.factor * ramp + each * (1 - ramp)
            for each, ramp in zip(plain, ramps, strict=True)
        ]
    return plain


def _llama3(frequency: float, rope: RopeConfig) -> float:
    turns = rope.original_max_position_embeddings * frequency / (2 * math.pi)
    if turns > rope.high_freq_factor:
        return frequency
    if turns < rope.low_freq_factor:
        return frequency / rope.factor
    share = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return (1 - share) * frequency / rope.factor + share * frequency


def _yarn_range(rope: RopeConfig, head_dim: int) -> tuple[float, float]:
    """Return the pairs between which yarn goes from no scaling to full scaling."""

    def pair(turns: float) -> float:
        length = rope.original_max_position_embeddings / (turns * 2 * math.pi)
        return head_dim * math.log(length) / (2 * math.log(rope.rope_theta))

    low, high = pair(rope.beta_fast), pair(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    return low, high + 0.001 if low == high else high


def _attention_factor(parameters: Mapping[str, float]) -> float:
    factor = parameters["factor"]

    def mscale(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1

    one, all_dims = parameters.get("mscale", 0), parameters.get("mscale_all_dim", 0)
    return mscale(one) / mscale(all_dims) if one and all_dims else mscale(1)


def _number(key: str, value: object) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{key} must be a number, got {value!r}")
    return value
