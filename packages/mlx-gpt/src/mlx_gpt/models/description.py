"""What `mlx-gpt info` says about a model folder; no weights are read."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_gpt.machine import default_dtype, describe_device
from mlx_gpt.models.adapters import find_adapter
from mlx_gpt.models.decoder import Decoder
from mlx_gpt.models.files import CONFIG, TOKENIZER_HASH, find_model_folder, read_model_config
from mlx_gpt.models.formats import build_model, named_parameters
from mlx_gpt.models.quantization import quantization_values, quantized_layers
from mlx_gpt.models.shards import read_json, read_tensors


@dataclass(frozen=True)
class Description:
    """Facts of a model and of the machine; sizes in bytes."""

    path: str
    model_type: str
    family: str
    """Name of the class, as Llama."""
    parameters: int
    """Numbers, those of quantized layers counted one by one; a tied head counts once."""
    layers: int
    vocab_size: int
    context: int
    """The longest context in tokens."""
    window: int | None
    """Tokens that layers with a window see, themselves included; None without a window."""
    dtype: str
    """Of the floating weights in the file; several are joined by "+"."""
    quantization: dict[str, Any] | None
    bits_per_weight: float
    weights: int
    """Of the weights in the file."""
    weights_here: int
    """Of the weights once loaded here, in the dtype that this machine's device uses."""
    cache_per_token: int
    """Of keys and values for each token of a context."""
    cache_full: int
    """Of keys and values for a full context."""
    tokenizer: str | None
    device: dict[str, Any]
    """backend, name and memory, as `machine.Device`."""


def describe(path: str | Path) -> Description:
    """Describe the model of a model or run folder.

    Raises `ValueError` and `FileNotFoundError` as `load_model`; for an adapter `ValueError`.
    """
    if find_adapter(path):
        raise ValueError(f"{path} is an adapter; describe its model, or fuse them: mlx-gpt fuse")
    folder = find_model_folder(path)
    read_model_config(folder)  # for errors with the name of the file
    values = read_json(folder / CONFIG)
    model, tensors = build_model(values, read_tensors(folder), mx.float32)
    floats = {each.dtype for each in tensors.values() if mx.issubdtype(each.dtype, mx.floating)}
    weights = sum(each.nbytes for each in tensors.values())
    parameters = _count(model)
    config: Any = model.config
    windows = [each.window for each in model.make_cache().layers]
    limited = [each for each in windows if each < config.sequence_len - 1]
    here = default_dtype()
    by_token = _cache_bytes(model, here)
    return Description(
        path=str(folder),
        model_type=str(values["model_type"]),
        family=type(model).__name__,
        parameters=parameters,
        layers=len(windows),
        vocab_size=config.vocab_size,
        context=config.sequence_len,
        window=max(limited) + 1 if limited else None,
        dtype="+".join(sorted(str(each).removeprefix("mlx.core.") for each in floats)),
        quantization=quantization_values(model),
        bits_per_weight=8 * weights / parameters,
        weights=weights,
        weights_here=sum(
            each.size * here.size if mx.issubdtype(each.dtype, mx.floating) else each.nbytes
            for each in tensors.values()
        ),
        cache_per_token=by_token * len(windows),
        cache_full=by_token * sum(min(each + 1, config.sequence_len) for each in windows),
        tokenizer=_describe_tokenizer(folder, values),
        device=asdict(describe_device()),
    )


def _count(model: Decoder) -> int:
    """Return the numbers of a model; those of a quantized layer are packed into integers."""
    count = sum(each.size for each in named_parameters(model).values())
    for layer in quantized_layers(model).values():
        packed = layer.weight.size + layer.scales.size + layer.biases.size
        count += layer.scales.size * layer.group_size - packed
    return count


def head_size(model: Decoder) -> int:
    """Return the numbers of a key or value of one head."""
    config: Any = model.config
    return getattr(config, "head_dim", None) or config.n_embd // config.n_head


def _cache_bytes(model: Decoder, dtype: mx.Dtype) -> int:
    """Return the bytes of one token's keys and values in one layer."""
    config: Any = model.config
    heads = getattr(config, "num_key_value_heads", None) or getattr(config, "n_kv_head", None)
    return 2 * (heads or config.n_head) * head_size(model) * dtype.size


def _describe_tokenizer(folder: Path, values: dict[str, object]) -> str | None:
    file = next((each for each in ("tokenizer.json", "tokenizer.model")
                 if (folder / each).is_file()), None)  # fmt: skip
    sha256 = values.get(TOKENIZER_HASH)
    return f"{file}, sha256 {str(sha256)[:12]}" if file and sha256 else file


def format_description(found: Description) -> str:
    """Return the description as lines for a terminal."""
    form = found.quantization
    kind = "none"
    if form:
        differ = sum(isinstance(each, dict) for each in form.values())
        kind = f"{form['mode']}, {form['bits']} bits in groups of {form['group_size']}"
        kind += f"; {differ} layers differ" if differ else ""
    window = f", a window of {found.window:,}" if found.window else ""
    device, here = found.device, found.weights_here + found.cache_full
    fits = "fits" if here <= device["memory"] else "does not fit"
    rows = {
        "model": f"{found.family} ({found.model_type}), {found.layers} layers",
        "parameters": f"{found.parameters:,}, vocabulary {found.vocab_size:,}",
        "context": f"{found.context:,} tokens{window}",
        "weights": f"{found.dtype}, {_size(found.weights)}, {found.bits_per_weight:.1f} bits each",
        "quantization": kind,
        "tokenizer": found.tokenizer or "none",
        "device": f"{device['backend']}, {device['name']}, {_size(device['memory'])} free",
        "memory": f"{_size(found.weights_here)} weights, {_size(found.cache_per_token)} a token, "
        f"{_size(here)} with a full context, which {fits}",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:{width}}  {text}" for name, text in rows.items())


def _size(count: int) -> str:
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:,.1f} {name}"
    return f"{count} B"
